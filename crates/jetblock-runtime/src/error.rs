//! What can go wrong between text and tokens.

use std::path::{Path, PathBuf};

/// Why text could not be turned into tokens, or tokens into text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is larger than anything of its kind.
    #[error("{} has {got} bytes, expected at most {limit}", path.display())]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes allowed.
        limit: u64,
        /// Bytes it has.
        got: u64,
    },
    /// A file is not the JSON it should be.
    #[error("{file} is not valid")]
    Json {
        /// The file's name.
        file: String,
        /// Where, and what was expected there.
        source: serde_json::Error,
    },
    /// A value in a file or a request is outside its domain.
    #[error("{what} is {got}, expected {expected}")]
    Value {
        /// The file and field, or the parameter.
        what: String,
        /// The domain, in words.
        expected: String,
        /// Its value, in words.
        got: String,
    },
    /// The metadata of a GGUF file.
    #[error("{0}")]
    Gguf(String),
    /// `tokenizer.json` is not a tokenizer.
    #[error("tokenizer.json is not valid: {reason}")]
    Tokenizer {
        /// What the tokenizer library said.
        reason: String,
    },
    /// The tokenizer can produce ids that the model has no embedding for.
    #[error(
        "tokenizer.json has token id {id}, expected ids below the model's vocab_size {vocab_size}"
    )]
    VocabTooLarge {
        /// The largest id.
        id: u32,
        /// Rows of the model's embedding table.
        vocab_size: usize,
    },
    /// The tokenizer library failed on this text or these ids.
    #[error("tokenizer: {op} failed: {reason}")]
    Tokenize {
        /// `encode` or `decode`.
        op: &'static str,
        /// What the tokenizer library said.
        reason: String,
    },
    /// The model folder has no chat template, so messages cannot become a prompt.
    #[error(
        "the model has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json)"
    )]
    NoChatTemplate,
    /// A named chat template does not exist.
    #[error("chat template {name:?} does not exist, the model has {}", have.join(", "))]
    UnknownChatTemplate {
        /// The name asked for.
        name: String,
        /// The names there are.
        have: Vec<String>,
    },
    /// The chat template cannot be parsed or rendered.
    #[error("chat template failed")]
    ChatTemplate {
        /// What the template engine said.
        #[source]
        source: Box<minijinja::Error>,
    },
    /// The chat template itself refused the messages.
    #[error("chat template refused the messages: {message}")]
    Refused {
        /// The text given to `raise_exception`.
        message: String,
    },
    /// The request asks for what the chat template cannot do.
    #[error(transparent)]
    Cascade(#[from] crate::CascadeError),
}

impl TextError {
    pub(crate) fn value(
        what: impl Into<String>,
        expected: impl Into<String>,
        got: impl ToString,
    ) -> TextError {
        TextError::Value {
            what: what.into(),
            expected: expected.into(),
            got: got.to_string(),
        }
    }

    pub(crate) fn json(file: &str) -> impl FnOnce(serde_json::Error) -> TextError {
        let file = file.to_owned();
        move |source| TextError::Json { file, source }
    }
}

/// The bytes of a regular file of at most `limit` bytes.
pub(crate) fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>, TextError> {
    use std::io::Read;
    let failed = |source| TextError::Read {
        path: path.to_owned(),
        source,
    };
    // The type is asked first: opening a pipe would wait for a writer.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(failed(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            "not a regular file",
        )));
    }
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > limit {
        let got = std::fs::metadata(path).map_or(bytes.len() as u64, |meta| meta.len());
        return Err(TextError::FileTooLarge {
            path: path.to_owned(),
            limit,
            got,
        });
    }
    Ok(bytes)
}

/// Like [`read_file`], with `None` for a file that does not exist.
pub(crate) fn read_optional_file(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, TextError> {
    match read_file(path, limit) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(TextError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Calls into a library that is fed with files from outside; a panic in it is returned as its message.
pub(crate) fn catch_panic<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).map_err(|payload| {
        let text = payload.downcast_ref::<String>().cloned();
        let text = text.or_else(|| payload.downcast_ref::<&str>().map(|s| s.to_string()));
        format!(
            "internal failure: {}",
            text.unwrap_or_else(|| "no message".into())
        )
    })
}
