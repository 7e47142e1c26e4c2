//! What can be wrong with the weight files of a model folder.

use std::path::PathBuf;

use super::StoredDType;

/// Weight files that cannot be used; the message names the file and the tensor, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A file cannot be opened, read or mapped.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The folder has no weight file that this reader knows.
    #[error("{}: no model.safetensors and no model.safetensors.index.json", dir.display())]
    NoWeights {
        /// The folder.
        dir: PathBuf,
    },
    /// The folder has both a single file and an index, which may hold different weights.
    #[error("{}: both model.safetensors and model.safetensors.index.json, expected one of them", dir.display())]
    Ambiguous {
        /// The folder.
        dir: PathBuf,
    },
    /// The file, or the header inside it, is not well-formed.
    #[error("{file}: {message}")]
    Malformed {
        /// The file.
        file: String,
        /// Expected and got.
        message: String,
    },
    /// The header describes a tensor wrongly.
    #[error("{file}: tensor {tensor}: {message}")]
    MalformedTensor {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Expected and got.
        message: String,
    },
    /// A tensor that the model needs is absent.
    #[error("tensor {first} is missing{}", and_others(*count))]
    Missing {
        /// The first one, in the order of the forward pass.
        first: String,
        /// How many are missing.
        count: usize,
    },
    /// A tensor that the model does not have.
    #[error("{file}: tensor {tensor} does not belong to this model")]
    Extra {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
    },
    /// One tensor under two spellings of its name.
    #[error("tensors {first} and {second} are the same tensor of the model")]
    TwoSpellings {
        /// One name.
        first: String,
        /// The other name.
        second: String,
    },
    /// A tensor has the wrong extents.
    #[error("{file}: tensor {tensor} has shape {got:?}, expected {expected:?}")]
    Shape {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The extents that the configuration implies.
        expected: Vec<usize>,
        /// The extents stored.
        got: Vec<usize>,
    },
    /// A tensor is stored in an element type that this version does not read.
    #[error("{file}: tensor {tensor} is stored as {got}, expected {expected}")]
    DType {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The element type stored.
        got: StoredDType,
        /// The element types it may have.
        expected: String,
    },
}

fn and_others(count: usize) -> String {
    match count {
        0 | 1 => String::new(),
        _ => format!(", and {} more", count - 1),
    }
}
