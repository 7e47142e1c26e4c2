//! Softmax and log softmax of each row.
//!
//! `m = max(x)`; `p[i] = exp(x[i] - m)`; `l = sum(p)`. Softmax: `y[i] = p[i] / l`. Log softmax:
//! `y[i] = (x[i] - m) - log(l)`. NUMERICS.md section 4.
//!
//! | name | shape    | dtype |
//! |------|----------|-------|
//! | x    | `[R, V]` | f32   |
//! | y    | `[R, V]` | f32   |
//!
//! Rounding points: `x - m`; those of exp; the sum in its stated order; the division, or those of log and the
//! difference. A row with a NaN or `+inf`, or without a finite element, is NaN.

mod cpu;
mod reference;
#[cfg(test)]
mod tests;

use crate::OpError;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Probabilities.
    Linear,
    /// Logarithms of probabilities.
    Log,
}

/// Arguments of softmax.
#[derive(Clone, Copy, Debug)]
pub struct Softmax<'a> {
    /// Rows, `[R, V]`.
    pub x: &'a [f32],
    /// V.
    pub row_len: usize,
    /// Probabilities or their logarithms.
    pub scale: Scale,
}

impl Softmax<'_> {
    const NAME: &'static str = "softmax";

    /// Checks shapes.
    pub fn check(&self) -> Result<(), OpError> {
        if self.row_len == 0 {
            let (expected, got) = ("at least 1".to_owned(), "0".to_owned());
            return Err(OpError::Value {
                op: Self::NAME,
                arg: "row_len",
                expected,
                got,
            });
        }
        let rows = self.x.len() / self.row_len;
        OpError::check_len(Self::NAME, "x [R, V]", self.x.len(), rows * self.row_len)
    }

    fn check_out(&self, out: &[f32]) -> Result<(), OpError> {
        self.check()?;
        OpError::check_len(Self::NAME, "out [R, V]", out.len(), self.x.len())
    }
}

/// Log probability of one element of a row: the same bits as that element of the log softmax.
pub fn log_prob(row: &[f32], index: usize, cpu: &jetblock_simd::Cpu) -> Result<f32, OpError> {
    if index >= row.len() {
        let (expected, got) = (format!("below V = {}", row.len()), index.to_string());
        return Err(OpError::Value {
            op: "log_prob",
            arg: "index",
            expected,
            got,
        });
    }
    Ok(cpu::log_prob(row, index, cpu))
}
