//! `config.json` of a model folder, typed and checked.
//!
//! Field names are the checkpoint's. Sizes are bounded so that no product of them overflows later, and every field that the
//! layers of the stack need must be spelled out: the defaults of the programs that write these files differ.

mod error;
mod generation;
mod json;
mod nemotron_h;
mod pattern;
mod tensors;

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

pub use error::ConfigError;
pub(crate) use error::abbreviated;
pub use generation::GenerationConfig;
pub use json::MAX_CONFIG_BYTES;
pub use nemotron_h::{MAX_EXPERTS, MAX_ROWS, MAX_WIDTH, NemotronHConfig};
pub use pattern::{LayerKind, MAX_LAYERS, pattern};
pub use tensors::{ExpectedTensor, Presence, TensorKind, canonical_name};

/// The whole of a small file, refused when it is larger than any real configuration.
pub(crate) fn read_small(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let io = |source| ConfigError::Io {
        path: path.to_path_buf(),
        source,
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(io)?;
    file.take(MAX_CONFIG_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(io)?;
    Ok(bytes)
}
