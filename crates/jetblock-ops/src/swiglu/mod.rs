//! `y = silu(gate) * up`, elementwise: the middle of a gated MLP.
//!
//! Shazeer 2020, "GLU Variants Improve Transformer". NUMERICS.md section 9.
//!
//! | name        | shape | dtype |
//! |-------------|-------|-------|
//! | gate, up, y | `[n]` | f32   |
//!
//! Rounding points: those of silu (section 5.4); the product.

mod cpu;
mod reference;
#[cfg(test)]
mod tests;

use crate::OpError;

/// Arguments of swiglu; the result replaces the gate.
#[derive(Clone, Copy, Debug)]
pub struct SwiGlu<'a> {
    /// `[n]`.
    pub up: &'a [f32],
}

impl SwiGlu<'_> {
    fn check(&self, gate: &[f32]) -> Result<(), OpError> {
        OpError::check_len("swiglu", "gate [n]", gate.len(), self.up.len())
    }
}
