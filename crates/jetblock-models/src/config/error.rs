//! What can be wrong with a model folder's `config.json`.

use std::path::PathBuf;

/// A configuration that cannot be used; the message names the field, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is larger than any real configuration.
    #[error("config.json: {got} bytes, expected at most {limit}")]
    TooLarge {
        /// Bytes found.
        got: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The text is not JSON, or its top level is not an object.
    #[error("config.json: not valid JSON: {0}")]
    Json(String),
    /// A field that the layers of this model need is absent.
    #[error("config.json: {field} is missing, expected {expected}")]
    Missing {
        /// The field, with its aliases.
        field: String,
        /// What it must be.
        expected: String,
    },
    /// A field has a value outside its domain.
    #[error("config.json: {field} is {got}, expected {expected}")]
    Value {
        /// The field.
        field: String,
        /// What it must be.
        expected: String,
        /// What it is.
        got: String,
    },
    /// The description of a quantized checkpoint has a field outside its domain.
    #[error("{field} is {got}, expected {expected}")]
    Quantization {
        /// The field, with its file.
        field: String,
        /// What it must be.
        expected: String,
        /// What it is.
        got: String,
    },
    /// Two fields that say the same thing disagree.
    #[error("config.json: {first} says {first_value}, but {second} says {second_value}")]
    Conflict {
        /// One field.
        first: String,
        /// Its value.
        first_value: String,
        /// The other field.
        second: String,
        /// Its value.
        second_value: String,
    },
    /// The model is valid, but this version cannot run it.
    #[error("{what} is not supported: {reason}")]
    Unsupported {
        /// The thing found.
        what: String,
        /// What is supported, or when it will be.
        reason: String,
    },
}

impl ConfigError {
    pub(crate) fn value(
        field: impl Into<String>,
        expected: impl Into<String>,
        got: impl ToString,
    ) -> Self {
        let got = abbreviated(&got.to_string());
        ConfigError::Value {
            field: field.into(),
            expected: expected.into(),
            got,
        }
    }
}

/// Hostile values must not flood a terminal or a log.
pub(crate) fn abbreviated(text: &str) -> String {
    const KEPT: usize = 80;
    match text.char_indices().nth(KEPT) {
        None => text.to_string(),
        Some((end, _)) => format!("{}... ({} bytes)", &text[..end], text.len()),
    }
}
