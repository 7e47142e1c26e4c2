//! `generation_config.json`: which tokens end a generation, and the sampling defaults a checkpoint recommends.

use std::path::Path;

use serde::Deserialize;

use crate::error::read_optional_file;
use crate::{StopTokens, TextError};

/// The file's name in a model folder.
pub const GENERATION_CONFIG_FILE: &str = "generation_config.json";

const CONFIG_FILE: &str = "config.json";
const MAX_BYTES: u64 = 16 << 20;

/// What the checkpoint says about generation; every field may be absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// Tokens that end a generation, from this file and from `config.json` together.
    pub eos_token_id: StopTokens,
    /// The token that begins a sequence.
    pub bos_token_id: Option<u32>,
    /// The token that fills batches; never generated on purpose.
    pub pad_token_id: Option<u32>,
    /// Whether to sample; otherwise the most likely token is taken.
    pub do_sample: Option<bool>,
    /// Divides the logits, at least 0.
    pub temperature: Option<f32>,
    /// Keep this many most likely tokens, 0 for all.
    pub top_k: Option<u32>,
    /// Keep the most likely tokens up to this probability, in (0, 1].
    pub top_p: Option<f32>,
    /// Keep tokens at least this likely relative to the most likely one, in [0, 1].
    pub min_p: Option<f32>,
    /// Divides or multiplies the logits of tokens seen before, above 0.
    pub repetition_penalty: Option<f32>,
    /// Most tokens to generate.
    pub max_new_tokens: Option<usize>,
    /// Most tokens of prompt and output together.
    pub max_length: Option<usize>,
    /// Texts that end a generation.
    pub stop_strings: Vec<String>,
}

/// One value or several.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            OneOrMany::One(value) => vec![value],
            OneOrMany::Many(values) => values,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Fields {
    eos_token_id: Option<OneOrMany<u32>>,
    bos_token_id: Option<OneOrMany<u32>>,
    // Some checkpoints write -1 for "none".
    pad_token_id: Option<i64>,
    do_sample: Option<bool>,
    temperature: Option<f32>,
    top_k: Option<u32>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    max_new_tokens: Option<usize>,
    max_length: Option<usize>,
    stop_strings: Option<OneOrMany<String>>,
}

impl GenerationConfig {
    /// Reads `generation_config.json` and the end-of-sequence tokens of `config.json` in a model folder. Either file
    /// may be absent.
    pub fn open(folder: &Path) -> Result<GenerationConfig, TextError> {
        let generation = read_optional_file(&folder.join(GENERATION_CONFIG_FILE), MAX_BYTES)?;
        let model = read_optional_file(&folder.join(CONFIG_FILE), MAX_BYTES)?;
        let mut config = match generation {
            Some(bytes) => GenerationConfig::from_bytes(&bytes)?,
            None => GenerationConfig::default(),
        };
        if let Some(bytes) = model {
            config.merge_eos(eos_of_model(&bytes)?);
        }
        Ok(config)
    }

    /// Parses the content of `generation_config.json`.
    pub fn from_bytes(bytes: &[u8]) -> Result<GenerationConfig, TextError> {
        let fields: Fields =
            serde_json::from_slice(bytes).map_err(TextError::json(GENERATION_CONFIG_FILE))?;
        let config = GenerationConfig {
            eos_token_id: fields
                .eos_token_id
                .into_iter()
                .flat_map(OneOrMany::into_vec)
                .collect(),
            bos_token_id: fields
                .bos_token_id
                .and_then(|ids| ids.into_vec().first().copied()),
            pad_token_id: fields.pad_token_id.and_then(|id| u32::try_from(id).ok()),
            do_sample: fields.do_sample,
            temperature: fields.temperature,
            top_k: fields.top_k,
            top_p: fields.top_p,
            min_p: fields.min_p,
            repetition_penalty: fields.repetition_penalty,
            max_new_tokens: fields.max_new_tokens,
            max_length: fields.max_length,
            stop_strings: fields
                .stop_strings
                .map(OneOrMany::into_vec)
                .unwrap_or_default(),
        };
        config.check()?;
        Ok(config)
    }

    /// Adds end-of-sequence tokens: a generation stops at any of them.
    pub fn merge_eos(&mut self, ids: impl IntoIterator<Item = u32>) {
        self.eos_token_id = self.eos_token_id.ids().iter().copied().chain(ids).collect();
    }

    /// Whether the file says anything about how to sample.
    pub fn says_how_to_sample(&self) -> bool {
        self.do_sample.is_some()
            || self.temperature.is_some()
            || self.top_k.is_some()
            || self.top_p.is_some()
            || self.min_p.is_some()
    }

    /// The temperature to use where a request states none: as in Transformers, sampling has to be asked for, with
    /// `do_sample` or (where that is absent) a temperature; otherwise it is 0, the most likely token.
    pub fn default_temperature(&self) -> f32 {
        match (self.do_sample, self.temperature) {
            (Some(false), _) | (None, None) => 0.0,
            (_, Some(temperature)) => temperature,
            (Some(true), None) => 1.0,
        }
    }

    fn check(&self) -> Result<(), TextError> {
        let check =
            |name: &str, value: Option<f32>, expected: &str, valid: fn(f32) -> bool| match value {
                Some(x) if !(x.is_finite() && valid(x)) => Err(TextError::value(
                    format!("{name} in {GENERATION_CONFIG_FILE}"),
                    expected,
                    x,
                )),
                _ => Ok(()),
            };
        check("temperature", self.temperature, "0 or more", |x| x >= 0.0)?;
        check("top_p", self.top_p, "a number in (0, 1]", |x| {
            x > 0.0 && x <= 1.0
        })?;
        check("min_p", self.min_p, "a number in [0, 1]", |x| {
            (0.0..=1.0).contains(&x)
        })?;
        check(
            "repetition_penalty",
            self.repetition_penalty,
            "above 0",
            |x| x > 0.0,
        )
    }
}

/// `eos_token_id` of `config.json`, at the top or inside `text_config`. Other parts of the file are not looked at, so
/// that the bare `Infinity` that some writers put there is nobody's problem here.
fn eos_of_model(bytes: &[u8]) -> Result<Vec<u32>, TextError> {
    #[derive(Deserialize)]
    struct Model {
        #[serde(default)]
        eos_token_id: Option<OneOrMany<u32>>,
        #[serde(default)]
        text_config: Option<Text>,
    }
    #[derive(Deserialize)]
    struct Text {
        #[serde(default)]
        eos_token_id: Option<OneOrMany<u32>>,
    }
    let text = replace_infinity(&String::from_utf8_lossy(bytes));
    let model: Model = serde_json::from_str(&text).map_err(TextError::json(CONFIG_FILE))?;
    let ids = model
        .eos_token_id
        .or(model.text_config.and_then(|text| text.eos_token_id));
    Ok(ids.map(OneOrMany::into_vec).unwrap_or_default())
}

/// Bare `Infinity` and `NaN`, which Python writes and JSON lacks, become `null`.
fn replace_infinity(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut in_string = false;
    while let Some(c) = rest.chars().next() {
        let mut len = c.len_utf8();
        if in_string {
            match c {
                '"' => in_string = false,
                '\\' => len += rest[1..].chars().next().map_or(0, char::len_utf8),
                _ => {}
            }
        } else if c == '"' {
            in_string = true;
        } else if let Some(word) = ["-Infinity", "Infinity", "NaN"]
            .into_iter()
            .find(|word| rest.starts_with(word))
        {
            out.push_str("null");
            rest = &rest[word.len()..];
            continue;
        }
        out.push_str(&rest[..len]);
        rest = &rest[len..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(files: &[(&str, &str)]) -> Result<GenerationConfig, TextError> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        GenerationConfig::open(folder.path())
    }

    #[test]
    fn eos_of_both_files_stop() {
        let config = open(&[
            (
                "generation_config.json",
                r#"{"bos_token_id": 1, "eos_token_id": [2, 11], "pad_token_id": 0}"#,
            ),
            (
                "config.json",
                r#"{"eos_token_id": 5, "time_step_limit": [0.0, Infinity], "x": "\"Infinity"}"#,
            ),
        ])
        .unwrap();
        assert_eq!(config.eos_token_id.ids(), [2, 5, 11]);
        assert_eq!(
            (config.bos_token_id, config.pad_token_id),
            (Some(1), Some(0))
        );
    }

    #[test]
    fn either_file_may_be_absent() {
        assert_eq!(open(&[]).unwrap(), GenerationConfig::default());
        let config = open(&[("config.json", r#"{"text_config": {"eos_token_id": [7]}}"#)]).unwrap();
        assert_eq!(config.eos_token_id.ids(), [7]);
        let config = open(&[(
            "generation_config.json",
            r#"{"eos_token_id": null, "pad_token_id": -1}"#,
        )])
        .unwrap();
        assert_eq!(
            (config.eos_token_id.ids(), config.pad_token_id),
            (&[][..], None)
        );
    }

    #[test]
    fn sampling_defaults_are_read() {
        let config = GenerationConfig::from_bytes(
            br#"{"do_sample": true, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.0,
                 "repetition_penalty": 1.05, "max_new_tokens": 512, "stop_strings": "END", "_from_model_config": true}"#,
        )
        .unwrap();
        assert_eq!(
            (config.temperature, config.top_p, config.top_k),
            (Some(0.6), Some(0.95), Some(20))
        );
        assert_eq!(
            (config.max_new_tokens, config.stop_strings),
            (Some(512), vec!["END".to_owned()])
        );
    }

    #[test]
    fn sampling_has_to_be_asked_for() {
        let temperature = |json: &str| {
            GenerationConfig::from_bytes(json.as_bytes())
                .unwrap()
                .default_temperature()
        };
        assert_eq!(temperature("{}"), 0.0);
        assert_eq!(temperature(r#"{"temperature": 0.6}"#), 0.6);
        assert_eq!(temperature(r#"{"do_sample": true}"#), 1.0);
        assert_eq!(
            temperature(r#"{"do_sample": false, "temperature": 0.6}"#),
            0.0
        );
    }

    #[test]
    fn values_outside_their_domain_are_errors() {
        for bad in [
            r#"{"temperature": -1}"#,
            r#"{"temperature": 1e60}"#,
            r#"{"top_p": 0}"#,
            r#"{"top_p": 1.5}"#,
            r#"{"min_p": 2}"#,
            r#"{"repetition_penalty": 0}"#,
            r#"{"eos_token_id": -1}"#,
            r#"{"eos_token_id": "x"}"#,
            r#"{"top_k": 1.5}"#,
            "3",
            "",
        ] {
            assert!(
                GenerationConfig::from_bytes(bad.as_bytes()).is_err(),
                "{bad}"
            );
        }
        let error = GenerationConfig::from_bytes(br#"{"top_p": 1.5}"#).unwrap_err();
        assert_eq!(
            error.to_string(),
            "top_p in generation_config.json is 1.5, expected a number in (0, 1]"
        );
    }
}
