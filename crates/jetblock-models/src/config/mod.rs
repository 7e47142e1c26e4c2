//! `config.json` of a model folder, typed and checked.
//!
//! Field names are the checkpoint's. Sizes are bounded so that no product of them overflows later, and every field that the
//! layers of the stack need must be spelled out: the defaults of the programs that write these files differ.

mod domain;
mod error;
mod json;
mod llama;
mod model;
mod nemotron_h;
mod pattern;
mod quantization;
mod tensors;
mod transformer;

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

pub use error::ConfigError;
pub(crate) use error::abbreviated;
pub use json::MAX_CONFIG_BYTES;
pub(crate) use json::parse_object;
pub(crate) use model::MAX_HEADS;
pub use model::{Family, MAX_EXPERTS, MAX_ROWS, MAX_WIDTH, ModelConfig};
pub use pattern::{LayerKind, MAX_LAYERS, pattern};
pub use quantization::{HF_QUANT_CONFIG, QuantizationConfig, WeightFormat, matches};
pub use tensors::{ExpectedTensor, LayerNames, Presence, TensorKind, canonical_name};
pub use transformer::{TransformerConfig, TransformerFamily};

/// The bytes of a model folder's `config.json`, refused when the file is larger than any real configuration.
pub(crate) fn read_config(dir: &Path) -> Result<Vec<u8>, ConfigError> {
    read_json(dir, "config.json")
}

/// What the folder says about the quantization of its weights. Where both files do, they must agree.
pub(crate) fn read_quantization(
    dir: &Path,
    config: &serde_json::Map<String, serde_json::Value>,
) -> Result<Option<QuantizationConfig>, ConfigError> {
    let inside = QuantizationConfig::from_config(config)?;
    if !dir.join(HF_QUANT_CONFIG).exists() {
        return Ok(inside);
    }
    let bytes = read_json(dir, HF_QUANT_CONFIG)?;
    let beside = QuantizationConfig::from_model_opt(&parse_object(&bytes)?)?;
    match inside {
        Some(inside) if inside.format != beside.format => {
            let name =
                |format: Option<WeightFormat>| format.map_or("MIXED_PRECISION", WeightFormat::name);
            Err(ConfigError::Conflict {
                first: "quantization_config".into(),
                first_value: name(inside.format).into(),
                second: HF_QUANT_CONFIG.into(),
                second_value: name(beside.format).into(),
            })
        }
        _ => Ok(Some(beside)),
    }
}

fn read_json(dir: &Path, name: &str) -> Result<Vec<u8>, ConfigError> {
    let path = dir.join(name);
    let io = |source| ConfigError::Io {
        path: path.clone(),
        source,
    };
    let mut bytes = Vec::new();
    let file = File::open(&path).map_err(io)?;
    file.take(MAX_CONFIG_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(io)?;
    Ok(bytes)
}

/// The model family that a `config.json` names, if it names one.
pub(crate) fn model_type(bytes: &[u8]) -> Result<Option<String>, ConfigError> {
    let map = parse_object(bytes)?;
    Ok(map
        .get("model_type")
        .and_then(|name| name.as_str())
        .map(str::to_string))
}
