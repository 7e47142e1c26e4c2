//! Causal attention without softmax, over the tokens of each sequence: its time is proportional to their number.
//!
//! With `f(x) = elu(x) + 1`, that is `x > 0 ? x + 1 : exp(x)`, and a state `S [K, V]`, `z [K]` for each head:
//! `S[i, j] = fma(f(k[i]), v[j], S[i, j])`; `z[i] = z[i] + f(k[i])`; `n[j] = dot(f(q), S[:, j])`; `d` = the row reduction of
//! the products `f(q[i]) * z[i]`; `y[j] = n[j] / (d + 1e-6)`. Katharopoulos et al. 2020, "Transformers are RNNs". NUMERICS.md section 7.1.
//!
//! | name  | shape           | dtype                                                                   |
//! |-------|-----------------|-------------------------------------------------------------------------|
//! | q, k  | `[R, H, K]`     | f32, columns of a wider matrix; rows of all sequences one after another |
//! | v     | `[R, H, V]`     | f32, likewise                                                           |
//! | state | `[H, K, V + 1]` | f32, one for each sequence, `z` in the last column; zeros before the first token |
//! | y     | `[R, H, V]`     | f32                                                                     |
//!
//! Rounding points: `x + 1` and those of exp; the fma into S; the addition into z; each fma and block sum of the dot
//! product; the products and each addition of the row reduction; `d + 1e-6`; the division.
//!
//! One row for each segment is a decode step. It is the same code: where a prompt is split cannot be seen in the result.

mod cpu;
mod reference;
#[cfg(test)]
mod tests;

use crate::{Columns, OpError, Segment};

/// Added to the sum of weights that the output is divided by.
pub const EPS: f32 = 1e-6;

/// Arguments of the attention.
#[derive(Clone, Debug)]
pub struct LinearAttention<'a> {
    /// How a token reads the state, `[R, H * K]`.
    pub q: Columns<'a>,
    /// Where it writes, `[R, H * K]`.
    pub k: Columns<'a>,
    /// What it writes, `[R, H * V]`.
    pub v: Columns<'a>,
    /// Number of heads H.
    pub heads: usize,
    /// Which rows belong to which sequence; they cover all rows in order.
    pub segments: &'a [Segment],
}

impl LinearAttention<'_> {
    const NAME: &'static str = "linear_attention";

    /// Checks shapes.
    pub fn check(&self) -> Result<(), OpError> {
        let op = Self::NAME;
        let value = |arg, expected: String, got: String| {
            Err(OpError::Value {
                op,
                arg,
                expected,
                got,
            })
        };
        let heads = self.heads;
        if heads == 0 {
            return value("heads", "at least 1".into(), "0".into());
        }
        for (arg, matrix) in [("q [R, H, K]", &self.q), ("v [R, H, V]", &self.v)] {
            if matrix.width() == 0 || !matrix.width().is_multiple_of(heads) {
                let expected = format!("a positive multiple of H = {heads} columns");
                return value(arg, expected, format!("{} columns", matrix.width()));
            }
        }
        let rows = self.rows();
        self.q.check(op, "q [R, H, K]", rows, self.q.width())?;
        self.k.check(op, "k [R, H, K]", rows, self.q.width())?;
        self.v.check(op, "v [R, H, V]", rows, self.v.width())?;
        Segment::check_cover(op, self.segments, rows)
    }

    fn check_all(&self, states: &[&mut [f32]], out: &[f32]) -> Result<(), OpError> {
        self.check()?;
        let len = self.q.width() * (self.value_dim() + 1);
        Segment::check_states(
            Self::NAME,
            "state [H, K, V + 1]",
            self.segments,
            states,
            len,
        )?;
        let len = self.rows() * self.v.width();
        OpError::check_len(Self::NAME, "out [R, H, V]", out.len(), len)
    }

    fn rows(&self) -> usize {
        self.v.data.len() / self.v.row_len.max(1)
    }

    /// K.
    fn key_dim(&self) -> usize {
        self.q.width() / self.heads
    }

    /// V.
    fn value_dim(&self) -> usize {
        self.v.width() / self.heads
    }
}
