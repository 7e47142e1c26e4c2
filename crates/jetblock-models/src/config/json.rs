//! Reading Python-flavoured JSON: bare `Infinity` and `NaN` tokens, aliases, fields with a domain.
//!
//! Python's `json` module writes and reads the tokens `Infinity`, `-Infinity` and `NaN`, which JSON does not have; newer
//! writers use `{"__float__": "Infinity"}`. The first form is rewritten to the second before parsing, so that one reader
//! serves both.

use serde_json::{Map, Value};

use super::ConfigError;
use super::error::abbreviated;

/// The largest `config.json` that is parsed; those of quantized releases list tens of thousands of modules.
pub const MAX_CONFIG_BYTES: usize = 64 << 20;

/// The tokens of Python's JSON dialect; the longer one first because it contains the shorter.
const TOKENS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// The top-level object of a JSON text, with bare non-finite tokens accepted.
pub(crate) fn parse_object(bytes: &[u8]) -> Result<Map<String, Value>, ConfigError> {
    if bytes.len() > MAX_CONFIG_BYTES {
        return Err(ConfigError::TooLarge {
            got: bytes.len() as u64,
            limit: MAX_CONFIG_BYTES as u64,
        });
    }
    let text = std::str::from_utf8(bytes).map_err(|e| ConfigError::Json(e.to_string()))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match serde_json::from_str(&wrap_bare_tokens(text)) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(ConfigError::Json(format!(
            "the top level is {}, expected an object",
            type_name(&other)
        ))),
        Err(e) => Err(ConfigError::Json(e.to_string())),
    }
}

/// Replaces bare non-finite tokens outside strings by `{"__float__": "..."}`.
fn wrap_bare_tokens(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['"', '-', 'I', 'N']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let kept = match TOKENS.iter().find(|token| rest.starts_with(**token)) {
            Some(token) => {
                out.push_str(&format!("{{\"__float__\":\"{token}\"}}"));
                rest = &rest[token.len()..];
                continue;
            }
            None if rest.starts_with('"') => string_end(rest),
            None => 1,
        };
        out.push_str(&rest[..kept]);
        rest = &rest[kept..];
    }
    out.push_str(rest);
    out
}

/// Bytes of the string literal that `text` starts with, or all of `text` when it is not closed.
fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (i, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return i + 1,
            _ => {}
        }
    }
    text.len()
}

/// Typed access to the fields of an object. `null` counts as absent, as Python writes `None` that way.
pub(crate) struct Fields<'a>(pub(crate) &'a Map<String, Value>);

impl<'a> Fields<'a> {
    /// The value under the first of `names` that is present; the other names must agree with it.
    pub(crate) fn get(
        &self,
        names: &[&'static str],
    ) -> Result<Option<(&'static str, &'a Value)>, ConfigError> {
        let mut found: Option<(&'static str, &'a Value)> = None;
        for &name in names {
            let Some(value) = self.0.get(name).filter(|v| !v.is_null()) else {
                continue;
            };
            match found {
                None => found = Some((name, value)),
                Some((_, first)) if first == value => {}
                Some((first, first_value)) => {
                    return Err(ConfigError::Conflict {
                        first: first.to_string(),
                        first_value: shown(first_value),
                        second: name.to_string(),
                        second_value: shown(value),
                    });
                }
            }
        }
        Ok(found)
    }

    /// A whole number in `1..=max`, if present.
    pub(crate) fn optional_size(
        &self,
        names: &[&'static str],
        max: usize,
    ) -> Result<Option<usize>, ConfigError> {
        self.get(names)?
            .map(|(name, value)| size(name, value, max))
            .transpose()
    }

    /// A whole number in `1..=max`.
    pub(crate) fn size(&self, names: &[&'static str], max: usize) -> Result<usize, ConfigError> {
        self.optional_size(names, max)?
            .ok_or_else(|| missing(names, size_domain(max)))
    }

    /// A whole number in `0..=max`, or `default`.
    pub(crate) fn count_or(
        &self,
        name: &'static str,
        default: usize,
        max: usize,
    ) -> Result<usize, ConfigError> {
        match self.get(&[name])? {
            None => Ok(default),
            Some((_, value)) => value
                .as_u64()
                .filter(|n| *n <= max as u64)
                .map(|n| n as usize)
                .ok_or_else(|| {
                    ConfigError::value(
                        name,
                        format!("a whole number from 0 to {max}"),
                        shown(value),
                    )
                }),
        }
    }

    /// A token id, if present.
    pub(crate) fn token(&self, name: &'static str) -> Result<Option<u32>, ConfigError> {
        self.get(&[name])?
            .map(|(name, value)| token(name, value))
            .transpose()
    }

    /// One token id or a list of them; empty when absent.
    pub(crate) fn tokens(&self, name: &'static str) -> Result<Vec<u32>, ConfigError> {
        match self.get(&[name])? {
            None => Ok(Vec::new()),
            Some((name, Value::Array(list))) => {
                list.iter().map(|value| token(name, value)).collect()
            }
            Some((name, value)) => Ok(vec![token(name, value)?]),
        }
    }

    /// `true` or `false`, or `default`.
    pub(crate) fn flag(&self, name: &'static str, default: bool) -> Result<bool, ConfigError> {
        match self.get(&[name])? {
            None => Ok(default),
            Some((_, Value::Bool(flag))) => Ok(*flag),
            Some((_, value)) => Err(ConfigError::value(name, "true or false", shown(value))),
        }
    }

    /// A positive finite number.
    pub(crate) fn positive(&self, names: &[&'static str]) -> Result<f32, ConfigError> {
        const DOMAIN: &str = "a positive number";
        let (name, value) = self.get(names)?.ok_or_else(|| missing(names, DOMAIN))?;
        // Through f64, as Python holds it: the decimal text could round differently in one step.
        float(value)
            .map(|x| x as f32)
            .filter(|x| *x > 0.0 && x.is_finite())
            .ok_or_else(|| ConfigError::value(name, DOMAIN, shown(value)))
    }

    /// A string, if present.
    pub(crate) fn text(
        &self,
        names: &[&'static str],
    ) -> Result<Option<(&'static str, &'a str)>, ConfigError> {
        match self.get(names)? {
            None => Ok(None),
            Some((name, Value::String(text))) => Ok(Some((name, text))),
            Some((name, value)) => Err(ConfigError::value(name, "a string", shown(value))),
        }
    }

    /// Fails unless the field is absent or equal to `only`: there is one activation function, and no code for others.
    pub(crate) fn only(&self, name: &'static str, only: &'static str) -> Result<(), ConfigError> {
        match self.text(&[name])? {
            None => Ok(()),
            Some((_, text)) if text == only => Ok(()),
            Some((_, text)) => Err(ConfigError::Unsupported {
                what: format!("config.json: {name} {:?}", abbreviated(text)),
                reason: format!("this model family uses {only:?}"),
            }),
        }
    }
}

/// A whole number in `1..=max`.
pub(crate) fn size(name: &str, value: &Value, max: usize) -> Result<usize, ConfigError> {
    value
        .as_u64()
        .filter(|n| (1..=max as u64).contains(n))
        .map(|n| n as usize)
        .ok_or_else(|| ConfigError::value(name, size_domain(max), shown(value)))
}

/// A number, or the object form of a non-finite one.
pub(crate) fn float(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::Object(map) if map.len() == 1 => match map.get("__float__")?.as_str()? {
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            "NaN" => Some(f64::NAN),
            _ => None,
        },
        _ => None,
    }
}

/// A value as it appears in a message.
pub(crate) fn shown(value: &Value) -> String {
    abbreviated(&value.to_string())
}

pub(crate) fn missing(names: &[&'static str], expected: impl Into<String>) -> ConfigError {
    ConfigError::Missing {
        field: names.join(" or "),
        expected: expected.into(),
    }
}

fn token(name: &str, value: &Value) -> Result<u32, ConfigError> {
    value
        .as_u64()
        .and_then(|id| u32::try_from(id).ok())
        .ok_or_else(|| ConfigError::value(name, "a token id", shown(value)))
}

fn size_domain(max: usize) -> String {
    format!("a whole number from 1 to {max}")
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_tokens_become_objects_outside_strings_only() {
        let text =
            r#"{"a": [0.0, Infinity, -Infinity, NaN, -1], "In\"Infinity\\": "NaN -Infinity"}"#;
        let want = r#"{"a": [0.0, {"__float__":"Infinity"}, {"__float__":"-Infinity"}, {"__float__":"NaN"}, -1], "In\"Infinity\\": "NaN -Infinity"}"#;
        assert_eq!(wrap_bare_tokens(text), want);
        assert_eq!(
            wrap_bare_tokens("\"never closed Infinity"),
            "\"never closed Infinity"
        );
        assert_eq!(wrap_bare_tokens("naïve – ∞"), "naïve – ∞");
    }

    #[test]
    fn floats_have_three_spellings() {
        let value = |text: &str| parse_object(text.as_bytes()).expect("valid")["x"].clone();
        assert_eq!(float(&value(r#"{"x": Infinity}"#)), Some(f64::INFINITY));
        assert_eq!(
            float(&value(r#"{"x": {"__float__": "-Infinity"}}"#)),
            Some(f64::NEG_INFINITY)
        );
        assert_eq!(float(&value(r#"{"x": 1e300}"#)), Some(1e300));
        assert_eq!(float(&value(r#"{"x": {"__float__": "big"}}"#)), None);
    }
}
