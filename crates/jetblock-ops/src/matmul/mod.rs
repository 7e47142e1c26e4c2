//! Products of two activations: `y[b, m, n] = dot(a[b, m, :], b[b, :, n])`.
//!
//! The same sums as [`crate::linear`], for a right operand that is used once. Source: `torch.matmul`, `torch.bmm`; NUMERICS.md
//! section 3.
//!
//! | name | shape | dtype |
//! |---|---|---|
//! | a | `[B, M, K]`, or `[1, M, K]` for every b | f32, brought to the kind's operands |
//! | b | `[B, K, N]`, or turned `[B, N, K]`; 1 in place of B as above | f32, the same |
//! | y | `[B, M, N]` | f32 |
//!
//! Rounding points: operands to bf16 in the bf16 kind; each step of a chain; each block sum. K = 0 gives +0.

mod cpu;
mod reference;
#[cfg(test)]
mod tests;

pub(crate) use cpu::Right;

use crate::linear::OperandKind;
use crate::{Floats, OpError};

/// How the right operand lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `[K, N]`.
    Plain,
    /// `[N, K]`: the rows of a weight, or the keys of attention.
    Turned,
}

/// Arguments of a product.
#[derive(Clone, Copy, Debug)]
pub struct Matmul<'a> {
    /// How operands enter the sums.
    pub kind: OperandKind,
    /// Left operands.
    pub a: Floats<'a>,
    /// Right operands.
    pub b: Floats<'a>,
    /// How each right operand lies.
    pub layout: Layout,
    /// B.
    pub batch: usize,
    /// M.
    pub m: usize,
    /// K.
    pub k: usize,
    /// N.
    pub n: usize,
}

impl Matmul<'_> {
    const NAME: &'static str = "matmul";

    fn check(&self, out: usize) -> Result<(), OpError> {
        let Self { batch, m, k, n, .. } = *self;
        for (arg, got, one) in [
            ("a [B, M, K]", self.a.len(), m.saturating_mul(k)),
            ("b [B, K, N]", self.b.len(), k.saturating_mul(n)),
        ] {
            if got != one {
                OpError::check_len(Self::NAME, arg, got, batch.saturating_mul(one))?;
            }
        }
        let expected = batch.saturating_mul(m).saturating_mul(n);
        OpError::check_len(Self::NAME, "out [B, M, N]", out, expected)
    }

    /// The operands of one product.
    fn operands(&self, batch: usize) -> (Floats<'_>, Floats<'_>) {
        fn pick(all: Floats<'_>, batch: usize, len: usize) -> Floats<'_> {
            let at = if all.len() == len { 0 } else { batch * len };
            all.slice(at..at + len)
        }
        (
            pick(self.a, batch, self.m * self.k),
            pick(self.b, batch, self.k * self.n),
        )
    }
}
