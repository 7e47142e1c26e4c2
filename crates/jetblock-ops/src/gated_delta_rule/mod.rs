//! The gated delta rule over the tokens of each sequence: linear attention that corrects what it remembers.
//!
//! For each token and head, with state `S [K, V]`: `P = exp(g) * S`; `u[j] = beta * (v[j] - dot(k, P[:, j]))`;
//! `S[i, j] = fma(k[i], u[j], P[i, j])`; `o[j] = dot(q, S[:, j])`. Before that q and k may be scaled to length 1
//! (`qk_l2norm`), and q is multiplied by `scale`. Yang, Kautz and Hatamizadeh 2024, "Gated Delta Networks";
//! `fused_recurrent_gated_delta_rule` of flash-linear-attention. NUMERICS.md section 7.1.
//!
//! | name  | shape       | dtype                                                                   |
//! |-------|-------------|-------------------------------------------------------------------------|
//! | q, k  | `[R, G, K]` | f32, columns of a wider matrix; rows of all sequences one after another; head h uses `h / (H / G)` |
//! | v     | `[R, H, V]` | f32, likewise                                                           |
//! | g     | `[R, H]`    | f32, likewise: the logarithm of the decay                               |
//! | beta  | `[R, H]`    | f32, likewise: how much of the correction is written                    |
//! | state | `[H, K, V]` | f32, one for each sequence; zeros before the first token                |
//! | o     | `[R, H, V]` | f32                                                                     |
//!
//! Rounding points: the sum of squares, `+ 1e-6`, rsqrt and the product of the scaling to length 1; `q * scale`; those of
//! exp; `exp(g) * S`; each fma and block sum of both dot products; `v - ..`; `beta * ..`; the fma into S.
//!
//! One row for each segment is a decode step. It is the same code, and there is no chunked form, which would round
//! otherwise: where a prompt is split cannot be seen in the result.

mod cpu;
mod reference;
#[cfg(test)]
mod tests;

use crate::{Columns, OpError, Segment};

/// Added to the squared length that q and k are divided by.
pub const L2_EPS: f32 = 1e-6;

/// Arguments of the rule.
#[derive(Clone, Debug)]
pub struct GatedDeltaRule<'a> {
    /// How a token reads the state, `[R, G * K]`.
    pub q: Columns<'a>,
    /// Where it writes, `[R, G * K]`.
    pub k: Columns<'a>,
    /// What it writes, `[R, H * V]`.
    pub v: Columns<'a>,
    /// Logarithm of the decay, `[R, H]`.
    pub g: Columns<'a>,
    /// Strength of the correction, `[R, H]`.
    pub beta: Columns<'a>,
    /// Number of heads G of q and k; divides H.
    pub groups: usize,
    /// Multiplies q.
    pub scale: f32,
    /// Whether q and k are scaled to length 1 first.
    pub qk_l2norm: bool,
    /// Which rows belong to which sequence; they cover all rows in order.
    pub segments: &'a [Segment],
}

impl GatedDeltaRule<'_> {
    const NAME: &'static str = "gated_delta_rule";

    /// Checks shapes.
    pub fn check(&self) -> Result<(), OpError> {
        let (op, heads) = (Self::NAME, self.heads());
        let value = |arg, expected: String, got: String| {
            Err(OpError::Value {
                op,
                arg,
                expected,
                got,
            })
        };
        if self.groups == 0 || heads == 0 || !heads.is_multiple_of(self.groups) {
            let got = self.groups.to_string();
            return value("groups", format!("a divisor of H = {heads}"), got);
        }
        let columns = |columns: &Columns<'_>| format!("{} columns", columns.width());
        let parts = [
            ("q [R, G, K]", &self.q, "G", self.groups),
            ("v [R, H, V]", &self.v, "H", heads),
        ];
        for (arg, matrix, letter, count) in parts {
            if matrix.width() == 0 || !matrix.width().is_multiple_of(count) {
                let expected = format!("a positive multiple of {letter} = {count} columns");
                return value(arg, expected, columns(matrix));
            }
        }
        let rows = self.rows();
        self.q.check(op, "q [R, G, K]", rows, self.q.width())?;
        self.k.check(op, "k [R, G, K]", rows, self.q.width())?;
        self.v.check(op, "v [R, H, V]", rows, self.v.width())?;
        self.g.check(op, "g [R, H]", rows, heads)?;
        self.beta.check(op, "beta [R, H]", rows, heads)?;
        Segment::check_cover(op, self.segments, rows)
    }

    fn check_all(&self, states: &[&mut [f32]], out: &[f32]) -> Result<(), OpError> {
        self.check()?;
        let len = self.key_dim() * self.v.width();
        Segment::check_states(Self::NAME, "state [H, K, V]", self.segments, states, len)?;
        let len = self.rows() * self.v.width();
        OpError::check_len(Self::NAME, "out [R, H, V]", out.len(), len)
    }

    fn rows(&self) -> usize {
        self.v.data.len() / self.v.row_len.max(1)
    }

    fn heads(&self) -> usize {
        self.g.width()
    }

    /// K.
    fn key_dim(&self) -> usize {
        self.q.width() / self.groups
    }

    /// V.
    fn value_dim(&self) -> usize {
        self.v.width() / self.heads()
    }

    /// Columns of `q` and `k` that a head uses.
    fn key_columns(&self, head: usize) -> std::ops::Range<usize> {
        let (group, width) = (head / (self.heads() / self.groups), self.key_dim());
        group * width..(group + 1) * width
    }
}
