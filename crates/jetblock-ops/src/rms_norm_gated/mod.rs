//! Mamba-2's gated norm: `g = y * silu(z)`, then rms_norm of each group of columns.
//!
//! Dao and Gu 2024, "Transformers are SSMs" (the gate comes first: `norm_before_gate = false`). NUMERICS.md section 4.
//!
//! | name   | shape        | dtype                          |
//! |--------|--------------|--------------------------------|
//! | y      | `[R, inner]` | f32                            |
//! | z      | `[R, inner]` | f32, columns of a wider matrix |
//! | weight | `[inner]`    | f32                            |
//! | out    | `[R, inner]` | f32                            |
//!
//! Rounding points: those of silu; `y * silu(z)`; then those of [`crate::rms_norm`] with D = inner / groups.

mod cpu;
mod reference;
#[cfg(test)]
mod tests;

use crate::rms_norm::check_row;
use crate::{Columns, OpError};

/// Arguments of the gated norm.
#[derive(Clone, Debug)]
pub struct RmsNormGated<'a> {
    /// Rows, `[R, inner]`.
    pub y: &'a [f32],
    /// Gate, `[R, inner]`.
    pub z: Columns<'a>,
    /// Scale, `[inner]`.
    pub weight: &'a [f32],
    /// Number of equal consecutive groups that are normalised apart; divides `inner`.
    pub groups: usize,
    /// Added to the mean square; finite and not negative.
    pub eps: f32,
}

impl RmsNormGated<'_> {
    const NAME: &'static str = "rms_norm_gated";

    /// Checks shapes and domains.
    pub fn check(&self) -> Result<(), OpError> {
        let (op, inner) = (Self::NAME, self.weight.len());
        check_row(op, inner, self.eps)?;
        if self.groups == 0 || !inner.is_multiple_of(self.groups) {
            let expected = format!("a divisor of inner = {inner}");
            return Err(OpError::Value {
                op,
                arg: "groups",
                expected,
                got: self.groups.to_string(),
            });
        }
        let rows = self.y.len() / inner;
        OpError::check_len(op, "y [R, inner]", self.y.len(), rows * inner)?;
        self.z.check(op, "z [R, inner]", rows, inner)
    }

    fn check_out(&self, out: &[f32]) -> Result<(), OpError> {
        self.check()?;
        OpError::check_len(Self::NAME, "out [R, inner]", out.len(), self.y.len())
    }

    /// Width of a group.
    fn width(&self) -> usize {
        self.weight.len() / self.groups
    }
}
