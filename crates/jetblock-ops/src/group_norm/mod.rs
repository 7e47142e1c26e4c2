//! Normalisation of groups of channels to mean 0 and variance 1, then an affine map of each channel.
//!
//! The channels of an image are cut into G equal consecutive groups. A group's `n = C/G * S` elements, in logical order
//! (channel, then position), are the row of [`crate::layer_norm`]: `y = ((d * r) * w[c]) + b[c]`. Instance norm is G = C.
//! Source: Wu and He 2018; `torch.nn.functional.group_norm`; NUMERICS.md section 13.2.
//!
//! | name | shape | dtype |
//! |---|---|---|
//! | x | `[B, C, S]`, S positions | f32 |
//! | weight, bias | `[C]` | f32 |
//! | y | `[B, C, S]` | f32 |
//!
//! Rounding points: every operation of layer_norm; the sums in the order of section 4.

mod cpu;
mod reference;
#[cfg(test)]
mod tests;

use crate::OpError;

/// Arguments of group_norm.
#[derive(Clone, Copy, Debug)]
pub struct GroupNorm<'a> {
    /// `[B, C, S]`.
    pub x: &'a [f32],
    /// C.
    pub channels: usize,
    /// S: the product of the extents behind the channel.
    pub positions: usize,
    /// G.
    pub groups: usize,
    /// `[C]`.
    pub weight: Option<&'a [f32]>,
    /// `[C]`.
    pub bias: Option<&'a [f32]>,
    /// Added to the variance.
    pub eps: f32,
}

impl GroupNorm<'_> {
    const NAME: &'static str = "group_norm";

    /// Checks shapes and eps.
    pub fn check(&self) -> Result<(), OpError> {
        let Self {
            channels, groups, ..
        } = *self;
        if groups == 0 || channels % groups != 0 {
            return Err(OpError::Value {
                op: Self::NAME,
                arg: "groups",
                expected: format!("a divisor of {channels} channels"),
                got: groups.to_string(),
            });
        }
        let image = channels.saturating_mul(self.positions);
        OpError::check_rows(Self::NAME, "x [B, C, S]", self.x.len(), image)?;
        for (arg, affine) in [("weight [C]", self.weight), ("bias [C]", self.bias)] {
            if let Some(affine) = affine {
                OpError::check_len(Self::NAME, arg, affine.len(), channels)?;
            }
        }
        OpError::check_eps(Self::NAME, self.eps)
    }

    fn check_out(&self, out: &[f32]) -> Result<(), OpError> {
        self.check()?;
        OpError::check_len(Self::NAME, "out [B, C, S]", out.len(), self.x.len())
    }

    /// Elements of a group.
    fn row_len(&self) -> usize {
        self.channels / self.groups * self.positions
    }
}
