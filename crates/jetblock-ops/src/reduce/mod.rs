//! Reductions of one dimension: sum, sum of squares, mean, variance, largest and smallest element.
//!
//! x is read as `[O, n, I]`; output (o, i) reduces the row `x[o, 0..n, i]`. Several dimensions are one after they have been
//! flattened in logical order: dimensions that are neighbours need no copy, others are permuted first.
//!
//! `mean = sum / f32(n)`; `var = sum_of_squares(x - mean) / f32(n - correction)`, a divisor of +0 where the correction is n
//! or more. An empty row has the sum +0. Source: `torch.sum`, `torch.mean`, `torch.var`, `torch.amax`, `torch.amin`;
//! NUMERICS.md sections 4 and 13.3.
//!
//! | name | shape | dtype |
//! |---|---|---|
//! | x | `[O, n, I]` | f32 |
//! | y | `[O, I]` | f32 |
//!
//! Rounding points: each addition in the order of section 4; `x - mean`; the division. A NaN makes its row NaN.

mod columns;
mod cpu;
mod reference;
#[cfg(test)]
mod tests;

use crate::OpError;

/// What becomes of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Sum.
    Sum,
    /// Sum of squares.
    SumOfSquares,
    /// Arithmetic mean.
    Mean,
    /// Mean squared distance to the mean.
    Var {
        /// Taken off the number of elements in the divisor: 1 for a sample.
        correction: usize,
    },
    /// Largest element.
    Amax,
    /// Smallest element.
    Amin,
}

/// Arguments of a reduction.
#[derive(Clone, Copy, Debug)]
pub struct Reduce<'a> {
    /// What to compute.
    pub reduction: Reduction,
    /// `[O, n, I]`.
    pub x: &'a [f32],
    /// n.
    pub len: usize,
    /// I: the distance between neighbours of a row.
    pub inner: usize,
}

impl Reduce<'_> {
    const NAME: &'static str = "reduce";

    /// Checks shapes. Only sums are defined on empty rows, and their number follows from `out`.
    fn check(&self, out: &[f32]) -> Result<(), OpError> {
        OpError::check_rows(Self::NAME, "out [O, I]", out.len(), self.inner)?;
        let sum = matches!(self.reduction, Reduction::Sum | Reduction::SumOfSquares);
        if self.len == 0 && !sum {
            return Err(OpError::Value {
                op: Self::NAME,
                arg: "n",
                expected: format!("at least 1 for {:?}", self.reduction),
                got: "0".into(),
            });
        }
        let expected = out.len().saturating_mul(self.len);
        OpError::check_len(Self::NAME, "x [O, n, I]", self.x.len(), expected)
    }
}

impl Reduction {
    /// From the sum of a row (of its squared deviations for a variance).
    fn divide(self, sum: f32, len: usize) -> f32 {
        match self {
            Reduction::Mean => sum / len as f32,
            Reduction::Var { correction } => sum / len.saturating_sub(correction) as f32,
            _ => sum,
        }
    }
}
