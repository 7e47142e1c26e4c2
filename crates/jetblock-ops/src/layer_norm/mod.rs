//! Normalisation of each row to mean 0 and variance 1, then an affine map of each element.
//!
//! `mean = sum(x) / f32(D)`; `d_i = x_i - mean`; `var = sum_of_squares(d) / f32(D)`; `r = 1 / sqrt(var + eps)`;
//! `y_i = ((d_i * r) * w_i) + b_i`, without `w` or `b` where there is none. Source: Ba et al. 2016;
//! `torch.nn.functional.layer_norm`; NUMERICS.md section 13.2.
//!
//! | name | shape | dtype |
//! |---|---|---|
//! | x | `[R, D]` | f32 |
//! | weight, bias | `[D]` | f32 |
//! | y | `[R, D]` | f32 |
//!
//! Rounding points: every operation above; the sums in the order of section 4.

mod cpu;
mod reference;
#[cfg(test)]
mod tests;

pub(crate) use reference::standardize;

use crate::OpError;

/// Arguments of layer_norm.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm<'a> {
    /// Rows, `[R, D]`.
    pub x: &'a [f32],
    /// D.
    pub row_len: usize,
    /// `[D]`.
    pub weight: Option<&'a [f32]>,
    /// `[D]`.
    pub bias: Option<&'a [f32]>,
    /// Added to the variance.
    pub eps: f32,
}

impl LayerNorm<'_> {
    const NAME: &'static str = "layer_norm";

    /// Checks shapes and eps.
    pub fn check(&self) -> Result<(), OpError> {
        OpError::check_rows(Self::NAME, "x [R, D]", self.x.len(), self.row_len)?;
        for (arg, affine) in [("weight [D]", self.weight), ("bias [D]", self.bias)] {
            if let Some(affine) = affine {
                OpError::check_len(Self::NAME, arg, affine.len(), self.row_len)?;
            }
        }
        OpError::check_eps(Self::NAME, self.eps)
    }

    fn check_out(&self, out: &[f32]) -> Result<(), OpError> {
        self.check()?;
        OpError::check_len(Self::NAME, "out [R, D]", out.len(), self.x.len())
    }
}
