//! Index of the largest or the smallest element of each row.
//!
//! The first element that equals the row's maximum (minimum) numerically, so `-0 = +0`; the first NaN where there is one.
//! Source: `torch.argmax`, `torch.argmin`; NUMERICS.md section 13.3.
//!
//! | name | shape | dtype |
//! |---|---|---|
//! | x | `[R, n]` | f32 |
//! | y | `[R]` | i64 |
//!
//! No rounding.

mod cpu;
mod reference;
#[cfg(test)]
mod tests;

use crate::OpError;

/// Arguments of argmax and argmin.
#[derive(Clone, Copy, Debug)]
pub struct ArgMax<'a> {
    /// Rows, `[R, n]`.
    pub x: &'a [f32],
    /// n.
    pub row_len: usize,
    /// The largest element; else the smallest.
    pub largest: bool,
}

impl ArgMax<'_> {
    const NAME: &'static str = "argmax";

    fn check(&self, out: &[i64]) -> Result<(), OpError> {
        OpError::check_rows(Self::NAME, "x [R, n]", self.x.len(), self.row_len)?;
        OpError::check_len(
            Self::NAME,
            "out [R]",
            out.len(),
            self.x.len() / self.row_len,
        )
    }
}
