//! JSON as Python's `json.dumps` writes it: chat templates put tool schemas into prompts this way, and models were
//! trained on exactly these spaces.

use minijinja::Value;
use minijinja::value::ValueKind;

/// The arguments of `json.dumps` that templates use.
#[derive(Clone, Debug)]
pub(crate) struct DumpOptions {
    /// Spaces, or any other text, per level; `None` is one line.
    pub(crate) indent: Option<String>,
    pub(crate) item_separator: String,
    pub(crate) key_separator: String,
    pub(crate) ensure_ascii: bool,
    pub(crate) sort_keys: bool,
    /// Longest text to write: a template can build small values that spell out to huge texts.
    pub(crate) max_bytes: usize,
}

impl Default for DumpOptions {
    fn default() -> DumpOptions {
        DumpOptions {
            indent: None,
            item_separator: ", ".into(),
            key_separator: ": ".into(),
            ensure_ascii: false,
            sort_keys: false,
            max_bytes: 16 << 20,
        }
    }
}

/// Deepest nesting that is written.
const MAX_DEPTH: usize = 128;

/// The value as text, or why it has none.
pub(crate) fn dumps(value: &Value, options: &DumpOptions) -> Result<String, String> {
    let mut writer = Writer {
        options,
        out: String::new(),
    };
    writer.write_value(value, 0)?;
    Ok(writer.out)
}

struct Writer<'a> {
    options: &'a DumpOptions,
    out: String,
}

impl Writer<'_> {
    fn write_value(&mut self, value: &Value, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("the value is nested more than {MAX_DEPTH} deep"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self
                .out
                .push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => self.out.push_str(&value.to_string()),
            ValueKind::Number => self.out.push_str(&float_repr(
                f64::try_from(value.clone()).map_err(|e| e.to_string())?,
            )),
            ValueKind::String => self.write_string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter().map_err(|e| e.to_string())?;
                self.write_container(('[', ']'), items, depth, |writer, item| {
                    writer.write_value(&item, depth + 1)
                })?;
            }
            ValueKind::Map => {
                let keys = value.try_iter().map_err(|e| e.to_string())?;
                let key_text = |key: Value| (key_text(&key), key);
                let mut keys: Vec<(String, Value)> = keys.map(key_text).collect();
                if self.options.sort_keys {
                    keys.sort();
                }
                self.write_container(
                    ('{', '}'),
                    keys.into_iter(),
                    depth,
                    |writer, (text, key)| {
                        writer.write_string(&text);
                        writer.out.push_str(&writer.options.key_separator);
                        writer.write_value(
                            &value.get_item(&key).map_err(|e| e.to_string())?,
                            depth + 1,
                        )
                    },
                )?;
            }
            kind => return Err(format!("a value of kind {kind} has no JSON form")),
        }
        if self.out.len() > self.options.max_bytes {
            return Err(format!(
                "the text is longer than {} bytes",
                self.options.max_bytes
            ));
        }
        Ok(())
    }

    fn write_container<T>(
        &mut self,
        (open, close): (char, char),
        items: impl Iterator<Item = T>,
        depth: usize,
        mut write: impl FnMut(&mut Self, T) -> Result<(), String>,
    ) -> Result<(), String> {
        self.out.push(open);
        let mut is_empty = true;
        for item in items {
            if !is_empty {
                self.out.push_str(&self.options.item_separator);
            }
            is_empty = false;
            self.write_newline(depth + 1);
            write(self, item)?;
        }
        if !is_empty {
            self.write_newline(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn write_newline(&mut self, depth: usize) {
        if let Some(indent) = &self.options.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(indent.as_str(), depth));
        }
    }

    fn write_string(&mut self, s: &str) {
        use std::fmt::Write;
        self.out.push('"');
        for c in s.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{C}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.options.ensure_ascii && c > '~') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        write!(self.out, "\\u{unit:04x}").expect("writing to a string cannot fail");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// A key as `json.dumps` spells it: numbers and constants become strings.
fn key_text(key: &Value) -> String {
    match key.kind() {
        ValueKind::None => "null".into(),
        ValueKind::Bool => if key.is_true() { "true" } else { "false" }.into(),
        _ => key.to_string(),
    }
}

/// Python's `repr` of a float, in JSON's spelling: shortest digits, an exponent below 1e-4 and from 1e16 on.
fn float_repr(x: f64) -> String {
    if !x.is_finite() {
        let name = if x.is_nan() { "NaN" } else { "Infinity" };
        return format!("{}{name}", if x < 0.0 { "-" } else { "" });
    }
    let text = format!("{x:?}");
    match text.split_once('e') {
        None => text,
        Some((digits, exponent)) => {
            let (sign, exponent) = exponent
                .strip_prefix('-')
                .map_or(('+', exponent), |e| ('-', e));
            format!("{digits}e{sign}{exponent:0>2}")
        }
    }
}

#[cfg(test)]
mod tests {
    use minijinja::value::Serde;
    use serde_json::json;

    use super::*;

    fn dumps(value: &serde_json::Value, options: &DumpOptions) -> String {
        super::dumps(&Value::from(Serde(value.clone())), options).unwrap()
    }

    #[test]
    fn spaces_are_pythons() {
        let value = json!({"b": [1, 2.0, null, true], "a": {}, "e": []});
        assert_eq!(
            dumps(&value, &DumpOptions::default()),
            r#"{"b": [1, 2.0, null, true], "a": {}, "e": []}"#
        );
        let sorted = DumpOptions {
            sort_keys: true,
            ..DumpOptions::default()
        };
        assert_eq!(
            dumps(&value, &sorted),
            r#"{"a": {}, "b": [1, 2.0, null, true], "e": []}"#
        );
    }

    #[test]
    fn indentation_is_pythons() {
        let options = DumpOptions {
            indent: Some("  ".into()),
            item_separator: ",".into(),
            ..DumpOptions::default()
        };
        let value = json!({"a": [1, {"b": 2}], "c": {}});
        let expected = "{\n  \"a\": [\n    1,\n    {\n      \"b\": 2\n    }\n  ],\n  \"c\": {}\n}";
        assert_eq!(dumps(&value, &options), expected);
    }

    #[test]
    fn only_control_characters_are_escaped() {
        let value = json!("<a> \"é\u{1F600}\" \\ \n\t\u{1}\u{7f}");
        assert_eq!(
            dumps(&value, &DumpOptions::default()),
            "\"<a> \\\"é\u{1F600}\\\" \\\\ \\n\\t\\u0001\u{7f}\""
        );
        let ascii = DumpOptions {
            ensure_ascii: true,
            ..DumpOptions::default()
        };
        assert_eq!(
            dumps(&json!("é\u{1F600}"), &ascii),
            r#""\u00e9\ud83d\ude00""#
        );
    }

    #[test]
    fn huge_and_deep_values_are_errors() {
        let options = DumpOptions {
            max_bytes: 100,
            ..DumpOptions::default()
        };
        let mut value = Value::from(1);
        for _ in 0..100 {
            value = Value::from(vec![value.clone(), value]);
        }
        assert!(super::dumps(&value, &options).is_err());
        for _ in 0..100 {
            value = Value::from(vec![value]);
        }
        assert!(
            super::dumps(&value, &DumpOptions::default())
                .unwrap_err()
                .contains("nested")
        );
        assert!(super::dumps(&Value::UNDEFINED, &options).is_err());
    }

    #[test]
    fn floats_are_pythons() {
        for (x, expected) in [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e16, "1e+16"),
            (123456789012345680.0, "1.2345678901234568e+17"),
            (1e15, "1000000000000000.0"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (-2.5e300, "-2.5e+300"),
            (f64::NEG_INFINITY, "-Infinity"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(float_repr(x), expected);
        }
    }
}
