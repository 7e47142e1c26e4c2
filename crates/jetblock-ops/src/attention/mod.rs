//! Attention with grouped queries over a key/value cache.
//!
//! ```text
//! scale = (1 / sqrt(f32(hd))) * k_scale;   (m, l, o) = (-inf, +0, +0)
//! for each block of `split` keys (absolute positions) with an admitted key, ascending:
//!     s_j = scale * dot(q, k_j)                   m_b = max s_j;   p_j = exp(s_j - m_b);   l_b = sum p_j
//!     o_b[d] = chain from +0 of fma(p_j, v_j[d], o_b[d]), admitted keys ascending
//!     M = max(m, m_b);   a = exp(m - M);   b = exp(m_b - M)
//!     l = fma(l, a, l_b * b);   o[d] = fma(o[d], a, o_b[d] * b);   m = M
//! y[d] = (o[d] / l) * v_scale
//! ```
//!
//! Source: NUMERICS.md section 8; Dao, "FlashAttention-2", 2023, for the fold. The query at position t admits keys
//! 0..=t, which the cache holds already. Query head j reads key/value head `j / (QH / KVH)`.
//!
//! | name   | shape            | dtype                |
//! |--------|------------------|----------------------|
//! | q      | `[R, QH * hd]`   | f32                  |
//! | caches | `[n, KVH, hd]` k and v, one for each segment | f32, bf16, fp8 or nvfp4 |
//! | y      | `[R, QH * hd]`   | f32                  |
//!
//! Rounding points: every operation above; in the bf16 kind q and k enter `dot` as bf16 operands. Codes of fp8 and nvfp4
//! caches are read exactly and without the layer's scales, which stand above (1 in the other caches). A block's partial
//! result depends on its admitted keys only, so a row has the same bits in prefill, in decode and at any cut between.

mod blocks;
mod cpu;
mod decode;
mod export;
mod kv_cache;
mod kv_dtype;
mod panels;
mod reference;
mod scores;
#[cfg(test)]
mod tests;
mod unrolled;
mod values;

pub use kv_cache::{KvCache, KvCacheConfig};
pub use kv_dtype::KvDtype;

use jetblock_simd::Cpu;

use crate::{Columns, OpError, Segment};

/// Largest `split`.
const MAX_SPLIT: usize = 256;

/// Arguments of attention.
#[derive(Clone, Debug)]
pub struct Attention<'a> {
    /// Queries `[R, QH * hd]`.
    pub q: Columns<'a>,
    /// Which rows belong to which sequence: ascending and gapless, covering all rows.
    pub segments: &'a [Segment],
    /// The cache of each segment; it holds the keys and values of the segment's rows already.
    pub caches: &'a [&'a KvCache],
    /// Query heads.
    pub num_attention_heads: usize,
    /// Keys in a block: 64, 128 or 256. Part of the request, because it decides bits.
    pub split: usize,
}

impl Attention<'_> {
    const NAME: &'static str = "attention";
    /// The default of `split`.
    pub const DEFAULT_SPLIT: usize = 256;

    /// Whether the arguments fit together and `out` has the shape of the result.
    pub fn check(&self, out: &[f32]) -> Result<(), OpError> {
        let value = |arg, expected: String, got: String| {
            Err(OpError::Value {
                op: Self::NAME,
                arg,
                expected,
                got,
            })
        };
        if ![64, 128, 256].contains(&self.split) {
            return value("split", "64, 128 or 256".into(), self.split.to_string());
        }
        OpError::check_len(Self::NAME, "caches", self.caches.len(), self.segments.len())?;
        let mut row = 0;
        for (segment, cache) in self.segments.iter().zip(self.caches) {
            if segment.rows.start != row || segment.rows.end < row {
                let got = format!("{:?}", segment.rows);
                return value("segments", format!("rows from {row}"), got);
            }
            row = segment.rows.end;
            let needed = segment.start + segment.len();
            if cache.len() < needed {
                let got = format!("{} tokens", cache.len());
                return value("a cache", format!("at least {needed} tokens"), got);
            }
            let (config, first) = (cache.config(), self.caches[0].config());
            if config != first {
                return value("caches", format!("all {first:?}"), format!("{config:?}"));
            }
            let (heads, kv_heads) = (self.num_attention_heads, config.num_key_value_heads);
            if heads == 0 || heads % kv_heads != 0 {
                let expected = format!("a multiple of {kv_heads} key/value heads");
                return value("num_attention_heads", expected, heads.to_string());
            }
        }
        let width = match self.caches.first() {
            Some(cache) => self.num_attention_heads * cache.config().head_dim,
            None => self.q.width(),
        };
        self.q.check(Self::NAME, "q [R, QH * hd]", row, width)?;
        let expected = row * self.q.width();
        OpError::check_len(Self::NAME, "y [R, QH * hd]", out.len(), expected)
    }

    /// The meaning: plain loops.
    pub fn reference(&self, out: &mut [f32]) -> Result<(), OpError> {
        self.check(out)?;
        reference::attention(self, out);
        Ok(())
    }

    /// The same bits, fast.
    pub fn cpu(&self, out: &mut [f32], cpu: &Cpu) -> Result<(), OpError> {
        self.check(out)?;
        cpu::attention(self, out, cpu);
        Ok(())
    }

    /// What a dot product with a stored key is multiplied by.
    fn scale(config: &KvCacheConfig) -> f32 {
        (1.0 / (config.head_dim as f32).sqrt()) * config.k_scale
    }
}
