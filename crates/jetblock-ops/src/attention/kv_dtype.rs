//! The formats a cache keeps keys and values in (NUMERICS.md section 8).

use std::fmt;

use jetblock_numerics::{canonical, e4m3, nvfp4};

/// The dtype of a KV cache; `Display` gives the name used in digests and on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvDtype {
    /// As computed.
    F32,
    /// Rounded to bf16.
    Bf16,
    /// E4M3 of the value over the layer's scale.
    Fp8,
    /// NVFP4 blocks of 16 along the head, of the value over the layer's scale.
    Nvfp4,
}

impl KvDtype {
    /// All of them, the widest first.
    pub const ALL: [KvDtype; 4] = [KvDtype::F32, KvDtype::Bf16, KvDtype::Fp8, KvDtype::Nvfp4];

    /// The name in digests and messages.
    pub fn name(self) -> &'static str {
        match self {
            KvDtype::F32 => "f32",
            KvDtype::Bf16 => "bf16",
            KvDtype::Fp8 => "fp8",
            KvDtype::Nvfp4 => "nvfp4",
        }
    }

    /// Bytes of one key (or value) of `head_dim` elements.
    pub fn row_bytes(self, head_dim: usize) -> usize {
        match self {
            KvDtype::F32 => 4 * head_dim,
            KvDtype::Bf16 => 2 * head_dim,
            KvDtype::Fp8 => head_dim,
            // Two codes a byte, then the scales of the blocks.
            KvDtype::Nvfp4 => head_dim.div_ceil(2) + head_dim.div_ceil(nvfp4::BLOCK),
        }
    }

    /// What `head_dim` must be a multiple of.
    pub fn head_dim_multiple(self) -> usize {
        match self {
            KvDtype::Nvfp4 => nvfp4::BLOCK,
            _ => 1,
        }
    }

    /// Whether the cache keeps codes under a scale of the layer.
    pub fn is_quantized(self) -> bool {
        matches!(self, KvDtype::Fp8 | KvDtype::Nvfp4)
    }

    /// The codes of a key or value `x [head_dim]`, already divided by the scale; for the quantized formats.
    pub(super) fn encode(self, x: &[f32], row: &mut [u8]) {
        match self {
            KvDtype::Nvfp4 => {
                let (codes, scales) = row.split_at_mut(x.len() / 2);
                let rows = codes.as_chunks_mut().0.iter_mut().zip(scales);
                for (x, (codes, scale)) in x.as_chunks().0.iter().zip(rows) {
                    let block = nvfp4::encode_kv(x);
                    (*codes, *scale) = (block.codes, block.scale);
                }
            }
            _ => {
                for (code, &x) in row.iter_mut().zip(x) {
                    *code = e4m3::encode(x);
                }
            }
        }
    }

    /// The elements of a row of codes, without the layer's scale; exact.
    pub(super) fn decode(self, row: &[u8], out: &mut [f32]) {
        match self {
            KvDtype::Nvfp4 => {
                let (codes, scales) = row.split_at(out.len() / 2);
                let rows = codes.as_chunks().0.iter().zip(scales);
                for (out, (&codes, &scale)) in out.as_chunks_mut().0.iter_mut().zip(rows) {
                    *out = nvfp4::Block { scale, codes }.decode();
                }
            }
            _ => {
                for (out, &code) in out.iter_mut().zip(row) {
                    *out = canonical(e4m3::decode(code));
                }
            }
        }
    }

    /// Where a row of codes differs from everything [`encode`](Self::encode) gives.
    pub(super) fn find_foreign(self, row: &[u8], head_dim: usize) -> Option<usize> {
        match self {
            KvDtype::Nvfp4 => {
                let (codes, scales) = row.split_at(head_dim / 2);
                let blocks = codes.chunks(nvfp4::BLOCK / 2).zip(scales);
                for (i, (codes, &scale)) in blocks.enumerate() {
                    // A scale is positive; under a NaN the codes are zero.
                    if scale == 0 || scale > e4m3::NAN {
                        return Some(head_dim / 2 + i);
                    }
                    let at = codes.iter().position(|&code| code != 0);
                    if let (e4m3::NAN, Some(at)) = (scale, at) {
                        return Some(i * nvfp4::BLOCK / 2 + at);
                    }
                }
                None
            }
            // The other NaN.
            _ => row.iter().position(|&code| code == 0xFF),
        }
    }
}

impl fmt::Display for KvDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
