//! Whether a checkpoint has the tensors of a configuration.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use super::{Checkpoint, CheckpointError, PLAIN_DTYPES, StoredDType, TensorInfo};
use crate::config::{ExpectedTensor, Presence, TensorKind, canonical_name};

impl Checkpoint {
    /// Fails unless the checkpoint has every required tensor, in its shape and in a type this version reads, and no other
    /// tensors. Those of a multi-token-prediction head (`mtp.*`) and rotary leftovers of converters are passed over.
    pub fn check(&self, expected: &[ExpectedTensor]) -> Result<(), CheckpointError> {
        let stored = self.by_canonical_name()?;
        let mut missing: Vec<String> = Vec::new();
        let mut known: HashSet<Cow<'_, str>> =
            expected.iter().map(|t| canonical_name(&t.name)).collect();
        // What is there comes first: its types say what else must be.
        for tensor in expected {
            if tensor.kind.is_linear() && tensor.presence == Presence::Required {
                let quantized = self.check_quantized(
                    tensor,
                    &mut |name| {
                        known.insert(canonical_name(&name).into_owned().into());
                    },
                    &mut |name| missing.push(name),
                )?;
                if quantized {
                    continue;
                }
            }
            match stored.get(&*canonical_name(&tensor.name)) {
                Some(info) => check_tensor(tensor, *info)?,
                None if tensor.presence == Presence::Required => missing.push(tensor.name.clone()),
                None => {}
            }
        }
        let extra = stored
            .iter()
            .find(|(name, _)| !known.contains(name.as_str()) && !is_passed_over(name));
        match (missing.first(), extra) {
            (Some(first), _) => Err(CheckpointError::Missing {
                first: first.to_string(),
                count: missing.len(),
            }),
            (None, Some((_, info))) => Err(CheckpointError::Extra {
                file: info.file.into(),
                tensor: info.name.into(),
            }),
            (None, None) => Ok(()),
        }
    }

    fn by_canonical_name(&self) -> Result<BTreeMap<String, TensorInfo<'_>>, CheckpointError> {
        let mut stored: BTreeMap<String, TensorInfo<'_>> = BTreeMap::new();
        for info in self.infos() {
            if let Some(other) = stored.insert(canonical_name(info.name).into_owned(), info) {
                return Err(CheckpointError::TwoSpellings {
                    first: other.name.into(),
                    second: info.name.into(),
                });
            }
        }
        Ok(stored)
    }
}

/// Whether a tensor with this canonical name is not a part of inference.
pub(crate) fn is_passed_over(name: &str) -> bool {
    is_mtp(name) || name.contains("rotary_emb.") || name.ends_with(".inv_freq")
}

/// Whether a tensor with this canonical name belongs to a multi-token-prediction head.
pub(crate) fn is_mtp(name: &str) -> bool {
    name.strip_prefix("backbone.")
        .unwrap_or(name)
        .starts_with("mtp.")
}

fn check_tensor(expected: &ExpectedTensor, info: TensorInfo<'_>) -> Result<(), CheckpointError> {
    if expected.presence == Presence::Unused {
        return Ok(());
    }
    let (file, tensor) = (info.file.to_string(), info.name.to_string());
    match info.dtype.dtype() {
        Some(dtype) if ExpectedTensor::DTYPES.contains(&dtype) => {}
        None if matches!(info.dtype, StoredDType::Block(_)) && expected.kind.is_matrix() => {}
        _ => {
            return Err(CheckpointError::DType {
                file,
                tensor,
                got: info.dtype,
                expected: if expected.kind.is_linear() {
                    format!("{PLAIN_DTYPES}; F8_E4M3 or U8 where quantized")
                } else {
                    PLAIN_DTYPES.into()
                },
            });
        }
    }
    // A scale is written as a number or as a list of one.
    let is_scale = expected.kind == TensorKind::KvScale && info.elements() == 1;
    if info.shape != expected.shape && !is_scale {
        let (expected, got) = (expected.shape.clone(), info.shape.to_vec());
        return Err(CheckpointError::Shape {
            file,
            tensor,
            expected,
            got,
        });
    }
    Ok(())
}
