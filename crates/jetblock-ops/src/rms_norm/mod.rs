//! `y = (x * r) * weight` with `r = 1 / sqrt(mean(x^2) + eps)`, over each row.
//!
//! Zhang and Sennrich 2019, "Root Mean Square Layer Normalization". NUMERICS.md section 4.
//!
//! | name   | shape    | dtype |
//! |--------|----------|-------|
//! | x      | `[R, D]` | f32   |
//! | weight | `[D]`    | f32   |
//! | y      | `[R, D]` | f32   |
//!
//! Rounding points: the sum of squares in its stated order; `/ f32(D)`; `+ eps`; `sqrt`; `1 /`; `x * r`; `* weight`.

mod cpu;
mod reference;
#[cfg(test)]
mod tests;

pub(crate) use cpu::normalize_in_place;
pub(crate) use reference::normalize_reference;

use crate::OpError;

/// Arguments of rms_norm.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm<'a> {
    /// Rows, `[R, D]`.
    pub x: &'a [f32],
    /// Scale, `[D]`.
    pub weight: &'a [f32],
    /// Added to the mean square; finite and not negative.
    pub eps: f32,
}

impl RmsNorm<'_> {
    const NAME: &'static str = "rms_norm";

    /// Checks shapes and domains.
    pub fn check(&self) -> Result<(), OpError> {
        check_row(Self::NAME, self.weight.len(), self.eps)?;
        let width = self.weight.len();
        let rows = self.x.len() / width;
        OpError::check_len(Self::NAME, "x [R, D]", self.x.len(), rows * width)
    }

    fn check_out(&self, out: &[f32]) -> Result<(), OpError> {
        self.check()?;
        OpError::check_len(Self::NAME, "out [R, D]", out.len(), self.x.len())
    }
}

/// What every rms norm asks of its row width and eps.
pub(crate) fn check_row(op: &'static str, width: usize, eps: f32) -> Result<(), OpError> {
    if width == 0 {
        let (expected, got) = ("at least one element".to_owned(), "empty".to_owned());
        return Err(OpError::Value {
            op,
            arg: "weight [D]",
            expected,
            got,
        });
    }
    if !(eps.is_finite() && eps >= 0.0) {
        return Err(OpError::Value {
            op,
            arg: "eps",
            expected: "finite and >= 0".to_owned(),
            got: eps.to_string(),
        });
    }
    Ok(())
}
