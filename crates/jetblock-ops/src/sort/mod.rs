//! The first k elements of each sorted row, with their indices: sort (k = n) and topk.
//!
//! The order is that of numbers, `-0 = +0`, NaN greatest; equal elements keep the order of their indices, in a descending
//! sort too. Source: `torch.sort(stable=True)`, `torch.topk`; NUMERICS.md section 13.3.
//!
//! | name | shape | dtype |
//! |---|---|---|
//! | x | `[R, n]` | f32 |
//! | values | `[R, k]` | f32 |
//! | indices | `[R, k]` | i64 |
//!
//! No rounding; a NaN is canonical.

mod cpu;
mod reference;
#[cfg(test)]
mod tests;

use crate::OpError;

/// Arguments of sort and topk.
#[derive(Clone, Copy, Debug)]
pub struct Sort<'a> {
    /// Rows, `[R, n]`.
    pub x: &'a [f32],
    /// n.
    pub row_len: usize,
    /// How many elements are wanted.
    pub k: usize,
    /// The greatest first.
    pub descending: bool,
}

impl Sort<'_> {
    const NAME: &'static str = "sort";

    fn check(&self, values: &[f32], indices: &[i64]) -> Result<(), OpError> {
        OpError::check_rows(Self::NAME, "x [R, n]", self.x.len(), self.row_len)?;
        // Indices share a word with the order of their values.
        if self.row_len > 1 << 32 {
            return Err(OpError::Value {
                op: Self::NAME,
                arg: "n",
                expected: "at most 2^32".into(),
                got: self.row_len.to_string(),
            });
        }
        if self.k == 0 || self.k > self.row_len {
            return Err(OpError::Value {
                op: Self::NAME,
                arg: "k",
                expected: format!("1..={}", self.row_len),
                got: self.k.to_string(),
            });
        }
        let expected = self.x.len() / self.row_len * self.k;
        OpError::check_len(Self::NAME, "values [R, k]", values.len(), expected)?;
        OpError::check_len(Self::NAME, "indices [R, k]", indices.len(), expected)
    }
}
