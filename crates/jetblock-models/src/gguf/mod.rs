//! GGUF files: a whole model in one file, as llama.cpp writes them.
//!
//! The file is mapped like any checkpoint. Its metadata gives the configuration ([`Gguf::config`]); its tensors are put under the names
//! of the Hugging Face checkpoint they were made from ([`Gguf::checkpoint`]), so that everything behind sees one kind of model.

mod config;
mod header;
mod names;
mod value;

use std::fs::File;
use std::path::Path;

pub use header::{Header, Tensor};
pub use value::{Array, Metadata, Value};

use jetblock_numerics::math;
use jetblock_numerics::round::{bf16_to_f32, f32_to_bf16};

use crate::checkpoint::{Checkpoint, CheckpointError, MappedFile, StoredDType};
use crate::config::ModelConfig;

/// The decay rates of NUMERICS.md from those of a file, which are `-exp(A_log)` by the converter's exp: another one than the
/// contract's, that differs in the last bits.
///
/// Where the A_log behind a value is a bf16 number, as in every release, it is found again, and the rate is what the checkpoint itself
/// would give. Any other value stays as it is.
pub(crate) fn decay_rates(stored: &[f32]) -> Vec<f32> {
    let rate = |a: &f32| {
        let a_log = bf16_to_f32(f32_to_bf16(math::log(-a)));
        let own = -math::exp(a_log);
        let near = (own - a).abs() <= a.abs() * f32::EPSILON * 2.0;
        if near { own } else { *a }
    };
    stored.iter().map(rate).collect()
}

impl Header {
    /// The configuration of the model, where nothing in the data has a part in it: without frequency factors of its rotary embedding.
    pub fn config(&self, file: &str) -> Result<ModelConfig, CheckpointError> {
        let values = &self.metadata;
        config::read(Metadata { file, values }, &self.tensors, None)
    }
}

/// An open GGUF file.
pub struct Gguf {
    file: String,
    header: Header,
    map: MappedFile,
}

impl Gguf {
    /// Whether a path names a GGUF file.
    pub fn is_named(path: &Path) -> bool {
        path.extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
    }

    /// Opens a file and reads its header. While it is open it must be neither written nor truncated, see [`Checkpoint::open`].
    pub fn open(path: &Path) -> Result<Gguf, CheckpointError> {
        let io = |source| CheckpointError::Io {
            path: path.into(),
            source,
        };
        let map = MappedFile::new(&File::open(path).map_err(io)?).map_err(io)?;
        let file = path
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let header = Header::parse(&file, map.bytes())?;
        Ok(Gguf { file, header, map })
    }

    /// What the file says about itself.
    pub fn metadata(&self) -> Metadata<'_> {
        Metadata {
            file: &self.file,
            values: &self.header.metadata,
        }
    }

    /// The bytes before the first tensor: all that is not weights.
    pub(crate) fn head(&self) -> &[u8] {
        let bytes = self.map.bytes();
        let starts = self.header.tensors.iter().map(|t| t.bytes.start);
        &bytes[..starts.min().unwrap_or(bytes.len())]
    }

    /// Its tensors under the file's own names.
    pub fn tensors(&self) -> &[Tensor] {
        &self.header.tensors
    }

    /// The configuration of the model in it.
    pub fn config(&self) -> Result<ModelConfig, CheckpointError> {
        let tensors = &self.header.tensors;
        let factors = tensors.iter().find(|t| t.name == names::ROPE_FACTORS);
        let factors = match factors {
            None => None,
            Some(t) if t.dtype == StoredDType::F32 => {
                let quads = self.map.bytes()[t.bytes.clone()].as_chunks().0;
                Some(quads.iter().map(|b| f32::from_le_bytes(*b)).collect())
            }
            Some(t) => {
                return Err(CheckpointError::DType {
                    file: self.file.clone(),
                    tensor: t.name.clone(),
                    got: t.dtype,
                    expected: "F32".into(),
                });
            }
        };
        config::read(self.metadata(), tensors, factors)
    }

    /// Its tensors under the names of the configuration's family.
    pub fn checkpoint(self, config: &ModelConfig) -> Result<Checkpoint, CheckpointError> {
        let entries = names::entries(&self.file, config, &self.header.tensors)?;
        Checkpoint::of_mapped(self.file, self.map, entries)
    }
}

impl std::fmt::Debug for Gguf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gguf")
            .field("file", &self.file)
            .field("tensors", &self.header.tensors.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decay_rates_of_bf16_logarithms_are_found_again() {
        for code in 0x3C00..0x4040_u16 {
            let own = -math::exp(bf16_to_f32(code));
            for ulps in [-1_i32, 0, 1] {
                let stored = f32::from_bits(own.to_bits().wrapping_add_signed(ulps));
                let found = decay_rates(&[stored])[0];
                assert_eq!(found.to_bits(), own.to_bits(), "{code:04X} {ulps}");
            }
        }
        // Half way between two bf16 numbers: nothing to find.
        let stored = -math::exp(1.501_953_1);
        assert_eq!(decay_rates(&[stored]), [stored]);
    }
}
