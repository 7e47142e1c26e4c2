//! Inclusive prefix sums along one dimension.
//!
//! x is read as `[O, n, I]`; each row `x[o, 0..n, i]` is summed as NUMERICS.md section 2 says: a chain in each block of
//! 256, to which the block's offset is added. Source: `torch.cumsum`.
//!
//! | name | shape | dtype |
//! |---|---|---|
//! | x, y | `[O, n, I]` | f32 |
//!
//! Rounding points: each step of a chain, the addition of the offset, each offset.

mod cpu;
mod reference;
#[cfg(test)]
mod tests;

use crate::OpError;

/// Arguments of cumsum.
#[derive(Clone, Copy, Debug)]
pub struct Cumsum<'a> {
    /// `[O, n, I]`.
    pub x: &'a [f32],
    /// n.
    pub len: usize,
    /// I: the distance between neighbours of a row.
    pub inner: usize,
}

impl Cumsum<'_> {
    const NAME: &'static str = "cumsum";

    fn check(&self, out: &[f32]) -> Result<(), OpError> {
        let slab = self.len.saturating_mul(self.inner);
        OpError::check_rows(Self::NAME, "x [O, n, I]", self.x.len(), slab)?;
        OpError::check_len(Self::NAME, "out [O, n, I]", out.len(), self.x.len())
    }
}
