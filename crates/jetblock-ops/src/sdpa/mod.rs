//! Attention of queries, keys and values that are given at once, as `torch.nn.functional.scaled_dot_product_attention`.
//!
//! The sums of [`crate::attention`] (NUMERICS.md section 8), without a cache: any mask, any bias, lengths of their own for queries
//! and keys. Keys are cut in blocks of 256; of a block only the keys that the query admits exist.
//!
//! ```text
//! (m, l, o) = (-inf, +0, +0);   for each block with an admitted key, ascending:
//!     s_j = scale * dot(q, k_j) (+ bias_j)        m_b = max s_j;   p_j = exp(s_j - m_b);   l_b = sum of p over the slots
//!     o_b[d] = dot(p, v[:, d]), f32 kind, over the admitted keys
//!     M = max(m, m_b);   a = exp(m - M);   b = exp(m_b - M);   l = fma(l, a, l_b * b);   o = fma(o, a, o_b * b);   m = M
//! y[d] = o[d] / l, +0 where no key is admitted
//! ```
//!
//! Source: NUMERICS.md section 13.5. Query head h reads key/value head `h / (QH / KVH)`.
//!
//! | name | shape | dtype |
//! |---|---|---|
//! | q | `[B, QH, T, K]` | f32, bf16, f16 |
//! | k, v | `[B, KVH, S, K]`, `[B, KVH, S, V]` | f32, bf16, f16 |
//! | mask | `[B or 1, QH or 1, T or 1, S]` | bool, or f32 |
//! | y | `[B, QH, T, V]` | f32, or rounded to bf16 or f16 at the end |
//!
//! Rounding points: every operation above; q and k enter `dot` as operands of the kind.

mod cpu;
mod reference;
#[cfg(test)]
mod tests;
mod weigh;

use crate::linear::OperandKind;
use crate::{Floats, OpError};

/// Keys in a block.
const SPLIT: usize = 256;

/// Which keys a query admits, and what is added to their scores.
#[derive(Clone, Copy, Debug)]
pub enum Mask<'a> {
    /// All.
    None,
    /// Query t admits keys 0..=t.
    Causal,
    /// Those that are true.
    Admitted(Broadcast<'a, bool>),
    /// Added to the scores after the scale; `-inf` keeps a key out.
    Bias(Broadcast<'a, f32>),
}

/// A tensor `[B, QH, T, S]` of which leading extents may be 1.
#[derive(Clone, Copy, Debug)]
pub struct Broadcast<'a, T> {
    /// The elements.
    pub data: &'a [T],
    /// B, or 1 for all.
    pub batch: usize,
    /// QH, or 1 for all.
    pub heads: usize,
    /// T, or 1 for all.
    pub rows: usize,
}

/// Rows of heads, `[B, H, T, K]`: where they lie in some array. The K elements of a row are neighbours.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    /// The array, from the first row on.
    pub values: Floats<'a>,
    /// Elements between neighbours along B, H and T.
    pub strides: [usize; 3],
}

impl<'a> Heads<'a> {
    /// Rows of `width` that lie without gaps, `[B, heads, rows, width]`.
    pub fn contiguous(
        values: impl Into<Floats<'a>>,
        [heads, rows, width]: [usize; 3],
    ) -> Heads<'a> {
        Heads {
            values: values.into(),
            strides: [heads * rows * width, rows * width, width],
        }
    }

    /// Where row `[b, h, t]` begins.
    fn at(&self, index: [usize; 3]) -> usize {
        index.iter().zip(&self.strides).map(|(i, s)| i * s).sum()
    }

    /// `width` elements of a row.
    fn row(&self, index: [usize; 3], width: usize) -> Floats<'a> {
        let at = self.at(index);
        self.values.slice(at..at + width)
    }

    /// Whether the array has rows of `width` at all places below `extents`.
    fn check(&self, arg: &'static str, extents: [usize; 3], width: usize) -> Result<(), OpError> {
        if width == 0 || extents.contains(&0) {
            return Ok(());
        }
        let places = extents.iter().zip(&self.strides);
        let needed = places.fold(width, |sum, (&extent, &stride)| {
            sum.saturating_add((extent - 1).saturating_mul(stride))
        });
        match self.values.len() >= needed {
            true => Ok(()),
            false => Err(value(
                arg,
                format!("at least {needed} elements"),
                self.values.len(),
            )),
        }
    }
}

/// Arguments of attention.
#[derive(Clone, Copy, Debug)]
pub struct Sdpa<'a> {
    /// How q and k enter their dot products.
    pub kind: OperandKind,
    /// Queries.
    pub q: Heads<'a>,
    /// Keys.
    pub k: Heads<'a>,
    /// Values.
    pub v: Heads<'a>,
    /// Admitted keys.
    pub mask: Mask<'a>,
    /// What a dot product is multiplied by; absent `1 / sqrt(f32(K))`.
    pub scale: Option<f32>,
    /// B.
    pub batch: usize,
    /// QH.
    pub heads: usize,
    /// KVH, a divisor of QH.
    pub kv_heads: usize,
    /// T.
    pub queries: usize,
    /// S.
    pub keys: usize,
    /// K.
    pub head_dim: usize,
    /// V.
    pub value_dim: usize,
}

impl<'a, T> Broadcast<'a, T> {
    /// The S elements of one query.
    fn row(&self, at: [usize; 3], keys: usize) -> &'a [T] {
        let [b, h, t] = at;
        let pick = |index: usize, extent: usize| if extent == 1 { 0 } else { index };
        let (b, h, t) = (pick(b, self.batch), pick(h, self.heads), pick(t, self.rows));
        &self.data[((b * self.heads + h) * self.rows + t) * keys..][..keys]
    }

    fn check(&self, op: &Sdpa<'_>) -> Result<(), OpError> {
        for (arg, got, all) in [
            ("B of the mask", self.batch, op.batch),
            ("QH of the mask", self.heads, op.heads),
            ("T of the mask", self.rows, op.queries),
        ] {
            if got != 1 && got != all {
                return Err(value(arg, format!("1 or {all}"), got));
            }
        }
        let extents = [self.batch, self.heads, self.rows, op.keys];
        len("mask [B, QH, T, S]", self.data.len(), extents)
    }
}

impl Sdpa<'_> {
    const NAME: &'static str = "sdpa";

    fn check(&self, out: usize) -> Result<(), OpError> {
        let Self {
            batch,
            heads,
            kv_heads,
            queries,
            keys,
            head_dim,
            value_dim,
            ..
        } = *self;
        if kv_heads == 0 || heads % kv_heads != 0 {
            let expected = format!("a positive divisor of {heads} query heads");
            return Err(value("key/value heads", expected, kv_heads));
        }
        if head_dim == 0 {
            return Err(value("K", "at least 1".into(), 0));
        }
        let kv = [batch, kv_heads, keys];
        (self.q).check("q [B, QH, T, K]", [batch, heads, queries], head_dim)?;
        self.k.check("k [B, KVH, S, K]", kv, head_dim)?;
        self.v.check("v [B, KVH, S, V]", kv, value_dim)?;
        match &self.mask {
            Mask::None | Mask::Causal => {}
            Mask::Admitted(mask) => mask.check(self)?,
            Mask::Bias(mask) => mask.check(self)?,
        }
        let y = [batch, heads, queries, value_dim];
        len("out [B, QH, T, V]", out, y)
    }

    fn scale(&self) -> f32 {
        self.scale.unwrap_or(1.0 / (self.head_dim as f32).sqrt())
    }
}

fn len(arg: &'static str, got: usize, extents: [usize; 4]) -> Result<(), OpError> {
    let expected = extents.iter().fold(1_usize, |a, &b| a.saturating_mul(b));
    OpError::check_len(Sdpa::NAME, arg, got, expected)
}

fn value(arg: &'static str, expected: String, got: usize) -> OpError {
    OpError::Value {
        op: Sdpa::NAME,
        arg,
        expected,
        got: got.to_string(),
    }
}
