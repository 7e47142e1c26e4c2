//! From a model folder with plain weights to one with quantized ones, in ModelOpt's layout.
//!
//! Tensors pass through one at a time, a few rows at a time; memory does not grow with the model. The new folder appears
//! under its name when it is complete.

mod encode;
mod recipe;
mod write;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use jetblock_simd::Cpu;

pub use recipe::Recipe;

use crate::ModelError;
use crate::checkpoint::{Checkpoint, CheckpointError, TensorInfo};
use crate::config::{ConfigError, ModelConfig, WeightFormat, canonical_name, matches};
use crate::model::LoadProgress;

/// Elements under one block scale of NVFP4.
const BLOCK: usize = 16;

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct Quantize<'a> {
    /// The folder to read.
    pub source: &'a Path,
    /// The folder to make; it must not exist.
    pub out: &'a Path,
    /// The format of the weights.
    pub format: WeightFormat,
    /// Which linear layers keep their weights.
    pub recipe: Recipe,
    /// Patterns of further layers that keep them; `*` stands for any text.
    pub exclude: &'a [String],
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// Matrices that were quantized.
    pub matrices: usize,
    /// Their parameters.
    pub parameters: u64,
    /// Their bytes now, scales included.
    pub quantized_bytes: u64,
    /// Linear layers that kept their weights.
    pub excluded: Vec<String>,
    /// Bytes of all tensors before.
    pub bytes_before: u64,
    /// Bytes of all tensors now.
    pub bytes_after: u64,
}

/// Why a folder cannot be quantized.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuantizeError {
    /// The source.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The new folder is there.
    #[error("{} is there already, expected a new name", .0.display())]
    Exists(PathBuf),
    /// The source is quantized.
    #[error("{layer} is stored as {format} already, expected plain weights")]
    Quantized {
        /// The layer.
        layer: String,
        /// Its format.
        format: WeightFormat,
    },
    /// A pattern that names nothing.
    #[error("--exclude {0}: no linear layer has this name")]
    NoSuchLayer(String),
    /// There is nothing to do.
    #[error("every linear layer is excluded, expected at least one to quantize")]
    NothingLeft,
    /// A weight has no scale.
    #[error("tensor {tensor} holds NaN or an infinity, which have no scale")]
    NotFinite {
        /// The tensor.
        tensor: String,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl From<CheckpointError> for QuantizeError {
    fn from(e: CheckpointError) -> QuantizeError {
        QuantizeError::Model(e.into())
    }
}

impl From<ConfigError> for QuantizeError {
    fn from(e: ConfigError) -> QuantizeError {
        QuantizeError::Model(e.into())
    }
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> QuantizeError + use<> {
    let path = path.to_path_buf();
    move |source| QuantizeError::Io { path, source }
}

impl Quantize<'_> {
    /// Makes the new folder; `progress` hears after each tensor, in bytes of the source.
    pub fn run(
        &self,
        cpu: &Cpu,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Summary, QuantizeError> {
        if self.out.exists() {
            return Err(QuantizeError::Exists(self.out.into()));
        }
        let config = ModelConfig::open(self.source)?;
        let checkpoint = Checkpoint::open(self.source)?;
        checkpoint.check(&config.tensors())?;
        let plan = self.plan(&config, &checkpoint)?;
        let unfinished = Unfinished::beside(self.out)?;
        let dir = &unfinished.0;
        let summary = write::weights(dir, &checkpoint, &plan, self.format, cpu, progress)?;
        write::descriptions(self.source, dir, self.format, &plan.excluded)?;
        if self.out.exists() {
            return Err(QuantizeError::Exists(self.out.into()));
        }
        fs::rename(dir, self.out).map_err(io(self.out))?;
        Ok(summary)
    }

    fn plan(&self, config: &ModelConfig, checkpoint: &Checkpoint) -> Result<Plan, QuantizeError> {
        let mut plan = Plan::default();
        let mut named = vec![false; self.exclude.len()];
        let patterns: Vec<_> = self.exclude.iter().map(|p| canonical_name(p)).collect();
        for tensor in config.tensors().iter().filter(|t| t.kind.is_linear()) {
            let Some(info) = checkpoint.info(&tensor.name) else {
                continue;
            };
            if let Some(format) = checkpoint.weight_format(&tensor.name) {
                return Err(QuantizeError::Quantized {
                    layer: layer_of(info.name).into(),
                    format,
                });
            }
            let mut keeps = self.recipe.keeps(config, self.format, tensor);
            let canonical = canonical_name(layer_of(info.name)).into_owned();
            for (pattern, named) in patterns.iter().zip(&mut named) {
                if matches(pattern, &canonical) {
                    (keeps, *named) = (true, true);
                }
            }
            // Blocks of NVFP4 do not cross rows.
            keeps |= self.format == WeightFormat::Nvfp4 && !tensor.shape[1].is_multiple_of(BLOCK);
            match keeps {
                true => plan.excluded.push(layer_of(info.name).into()),
                false => {
                    let shape = [tensor.shape[0], tensor.shape[1]];
                    plan.quantized.insert(info.name.into(), shape);
                }
            }
        }
        if let Some(at) = named.iter().position(|named| !named) {
            return Err(QuantizeError::NoSuchLayer(self.exclude[at].clone()));
        }
        match plan.quantized.is_empty() {
            true => Err(QuantizeError::NothingLeft),
            false => Ok(plan),
        }
    }
}

/// A folder that is removed unless it was renamed.
struct Unfinished(PathBuf);

impl Unfinished {
    /// Beside the final place, so that renaming does not copy.
    fn beside(out: &Path) -> Result<Unfinished, QuantizeError> {
        let name = out.file_name().unwrap_or_default().to_string_lossy();
        let dir = out.with_file_name(format!(".{name}.unfinished-{}", std::process::id()));
        fs::create_dir(&dir).map_err(io(&dir))?;
        Ok(Unfinished(dir))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // After the renaming there is nothing; an error elsewhere is reported already.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What happens to each tensor.
#[derive(Debug, Default)]
struct Plan {
    /// Stored names and shapes of weights to quantize.
    quantized: BTreeMap<String, [usize; 2]>,
    /// Linear layers that are not quantized.
    excluded: Vec<String>,
}

fn layer_of(name: &str) -> &str {
    name.strip_suffix(".weight").unwrap_or(name)
}

/// The tensors that stand for one stored tensor: name, element type, shape, bytes.
fn outputs(
    plan: &Plan,
    format: WeightFormat,
    info: &TensorInfo<'_>,
) -> Vec<(String, &'static str, Vec<usize>, u64)> {
    let Some(&[n, k]) = plan.quantized.get(info.name) else {
        let shape = info.shape.to_vec();
        return vec![(info.name.into(), info.dtype.name(), shape, info.bytes)];
    };
    let layer = layer_of(info.name);
    let of = |part: &str, dtype, shape: Vec<usize>, size: usize| {
        let bytes = size * shape.iter().product::<usize>();
        (format!("{layer}.{part}"), dtype, shape, bytes as u64)
    };
    match format {
        WeightFormat::Fp8 => vec![
            of("weight", "F8_E4M3", vec![n, k], 1),
            of("weight_scale", "F32", vec![], 4),
        ],
        WeightFormat::Nvfp4 => vec![
            of("weight", "U8", vec![n, k / 2], 1),
            of("weight_scale", "F8_E4M3", vec![n, k / BLOCK], 1),
            of("weight_scale_2", "F32", vec![], 4),
        ],
    }
}
