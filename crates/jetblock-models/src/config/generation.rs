//! `generation_config.json`: the token ids that end a generation, and sampling defaults.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::json::{Fields, float, parse_object, shown};
use super::{ConfigError, read_small};

/// What a model folder recommends for generation. Every field may be absent from the file.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct GenerationConfig {
    /// The token in front of every text, where the tokenizer adds one.
    pub bos_token_id: Option<u32>,
    /// The tokens that end a generation: all of them, this file names more of them than `config.json` does.
    pub eos_token_ids: Vec<u32>,
    /// The token of padding.
    pub pad_token_id: Option<u32>,
    /// Sampling temperature.
    pub temperature: Option<f32>,
    /// Nucleus bound.
    pub top_p: Option<f32>,
    /// Number of candidates kept.
    pub top_k: Option<u32>,
}

impl GenerationConfig {
    /// Reads the text of a `generation_config.json`.
    pub fn from_json(bytes: &[u8]) -> Result<GenerationConfig, ConfigError> {
        let map = parse_object(bytes)?;
        let fields = Fields(&map);
        Ok(GenerationConfig {
            bos_token_id: fields.token("bos_token_id")?,
            eos_token_ids: fields.tokens("eos_token_id")?,
            pad_token_id: fields.token("pad_token_id")?,
            temperature: number(&fields, "temperature")?,
            top_p: number(&fields, "top_p")?,
            top_k: fields.token("top_k")?,
        })
    }

    /// Reads `generation_config.json` in a model folder; the empty one when there is no such file.
    pub fn open(dir: &Path) -> Result<GenerationConfig, ConfigError> {
        match read_small(&dir.join("generation_config.json")) {
            Ok(bytes) => GenerationConfig::from_json(&bytes),
            Err(ConfigError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                Ok(GenerationConfig::default())
            }
            Err(error) => Err(error),
        }
    }
}

fn number(fields: &Fields<'_>, name: &'static str) -> Result<Option<f32>, ConfigError> {
    let domain =
        |value: &Value| ConfigError::value(name, "a number that is not negative", shown(value));
    fields
        .get(&[name])?
        .map(|(_, value)| {
            float(value)
                .filter(|x| *x >= 0.0)
                .map(|x| x as f32)
                .ok_or_else(|| domain(value))
        })
        .transpose()
}
