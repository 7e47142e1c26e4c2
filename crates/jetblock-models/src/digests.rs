//! What a model is, in digests (NUMERICS.md section 12): each stored tensor, all weights, the configuration.

use std::path::Path;

use jetblock_simd::Cpu;
use jetblock_tensor::{Digest, digest};

use crate::checkpoint::Checkpoint;
use crate::config;
use crate::gguf::Gguf;
use crate::{LoadProgress, ModelError};

/// The digests of a model folder or a GGUF file. Two models with equal digests give equal bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelDigests {
    /// SHA-256 of `config.json`, or of what stands before the first tensor in a GGUF file.
    pub config: Digest,
    /// Over the names and digests of all tensors.
    pub weights: Digest,
    /// Each tensor's digest, as it is stored, by ascending name. Tensors of a GGUF file have the names of the checkpoint
    /// it was made from.
    pub tensors: Vec<(String, Digest)>,
}

/// Bytes hashed between two reports of progress.
const GROUP_BYTES: u64 = 64 << 20;

impl ModelDigests {
    /// Reads every byte of a model; `progress` hears of it.
    pub fn compute(
        path: &Path,
        cpu: &Cpu,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<ModelDigests, ModelError> {
        let (config, checkpoint) = if Gguf::is_named(path) {
            let gguf = Gguf::open(path)?;
            let head = digest::sha256(gguf.head());
            let config = gguf.config()?;
            (head, gguf.checkpoint(&config)?)
        } else {
            let bytes = config::read_config(path)?;
            (digest::sha256(&bytes), Checkpoint::open(path)?)
        };
        let tensors = of_tensors(&checkpoint, cpu, progress)?;
        Ok(ModelDigests {
            config,
            weights: of_weights(&tensors),
            tensors,
        })
    }
}

/// The digest of each tensor, several at a time.
fn of_tensors(
    checkpoint: &Checkpoint,
    cpu: &Cpu,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<Vec<(String, Digest)>, ModelError> {
    let infos: Vec<_> = checkpoint.infos().collect();
    let total = infos.iter().map(|info| info.bytes).sum();
    let mut state = LoadProgress { done: 0, total };
    let mut digests: Vec<_> = infos
        .iter()
        .map(|info| (info.name.to_string(), Digest([0; 32])))
        .collect();
    let mut first = 0;
    while first < infos.len() {
        let (mut group, mut bytes_in_group) = (Vec::new(), 0);
        for (info, (_, slot)) in infos.iter().zip(&mut digests).skip(first) {
            if bytes_in_group >= GROUP_BYTES {
                break;
            }
            let (_, bytes) = checkpoint.raw(info.name)?;
            bytes_in_group += info.bytes;
            group.push((info, bytes, slot));
        }
        first += group.len();
        cpu.par_items(group, |(info, bytes, slot)| {
            let dtype = info.dtype.name().to_lowercase();
            *slot = digest::tensor_bytes(&dtype, info.shape, bytes);
            checkpoint.release(bytes);
        });
        state.done += bytes_in_group;
        progress(state);
    }
    Ok(digests)
}

/// `weights <n>` and each tensor's name, a line each, each name followed by its tensor's digest.
fn of_weights(tensors: &[(String, Digest)]) -> Digest {
    let mut bytes = format!("weights {}\n", tensors.len()).into_bytes();
    for (name, digest) in tensors {
        bytes.extend(name.as_bytes());
        bytes.push(b'\n');
        bytes.extend(digest.0);
    }
    digest::sha256(&bytes)
}

#[cfg(test)]
mod tests {
    use jetblock_simd::Level;

    use super::*;

    #[test]
    fn digests_are_those_of_the_stored_bytes() {
        let big = vec![0x3F_u8; GROUP_BYTES as usize];
        let odd: Vec<u8> = (0..70_006).map(|i| (i % 251) as u8).collect();
        let view = |dtype, shape, bytes| safetensors::tensor::TensorView::new(dtype, shape, bytes);
        use safetensors::Dtype;
        let tensors = [
            ("b.big", view(Dtype::U8, vec![big.len()], &big).unwrap()),
            (
                "a.odd",
                view(Dtype::BF16, vec![odd.len() / 2, 1], &odd).unwrap(),
            ),
            ("c.none", view(Dtype::F32, vec![0, 3], &[]).unwrap()),
        ];
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("model.safetensors");
        safetensors::serialize_to_file(tensors, None, &file).unwrap();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let want = vec![
            (
                "a.odd".into(),
                digest::tensor_bytes("bf16", &[odd.len() / 2, 1], &odd),
            ),
            (
                "b.big".into(),
                digest::tensor_bytes("u8", &[big.len()], &big),
            ),
            ("c.none".into(), digest::tensor_bytes("f32", &[0, 3], &[])),
        ];
        for threads in [1, 3] {
            let cpu = Cpu::new(threads, Level::best()).unwrap();
            let mut heard = Vec::new();
            let got = of_tensors(&checkpoint, &cpu, &mut |p| heard.push((p.done, p.total)));
            assert_eq!(got.unwrap(), want);
            let total = (big.len() + odd.len()) as u64;
            assert_eq!(heard.last(), Some(&(total, total)));
            assert_eq!(heard.len(), 2, "the last tensor is in a group of its own");
        }
    }
}
