//! Errors as Python exceptions, with the Rust message.

use std::fmt::Display;

use jetblock_runtime::SessionError;
use pyo3::PyErr;

// Defined in Python, because some have two bases: an `ArgumentError` is a `ValueError` too.
pyo3::import_exception!(jetblock._errors, JetBlockError);
pyo3::import_exception!(jetblock._errors, ModelError);
pyo3::import_exception!(jetblock._errors, ArgumentError);

/// Something that the caller has to change.
pub(crate) fn argument(message: impl Display) -> PyErr {
    ArgumentError::new_err(message.to_string())
}

/// An error and what caused it, as one line.
pub(crate) fn message(error: impl Into<anyhow::Error>) -> String {
    let error = error.into();
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        // Wrappers often repeat what they wrap.
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// What keeps a model from being opened.
pub(crate) fn model(error: impl Into<anyhow::Error>) -> PyErr {
    ModelError::new_err(message(error))
}

/// What keeps a request from being answered.
pub(crate) fn request(error: SessionError) -> PyErr {
    match &error {
        SessionError::Model(_) => JetBlockError::new_err(message(error)),
        _ => argument(message(error)),
    }
}
