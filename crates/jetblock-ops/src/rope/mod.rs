//! Rotary position embedding: pairs of a query's or key's elements turned by an angle that grows with the position.
//!
//! ```text
//! angle_i = position * inv_freq_i                    i = 0 .. rotary_dim / 2
//! a' = a * cos(angle_i) - b * sin(angle_i)           a = x[i],  b = x[i + rotary_dim / 2]
//! b' = b * cos(angle_i) + a * sin(angle_i)           elements from rotary_dim on stay as they are
//! ```
//!
//! Su et al. 2021, "RoFormer", with the halves paired as in GPT-NeoX and Hugging Face's Llama. A checkpoint whose rows are
//! permuted for neighbouring pairs has them put back when it is loaded, so one layout serves. NUMERICS.md section 8.
//!
//! | name     | shape                    | dtype |
//! |----------|--------------------------|-------|
//! | inv_freq | [rotary_dim / 2]         | f64   |
//! | cos, sin | [M, rotary_dim / 2]      | f32   |
//! | x        | [M, H, head_dim]         | f32   |
//!
//! Rounding points: frequencies and angles in binary64, every operation; cos and sin once to f32; of a', `b * sin` and the fused
//! step; of b', `a * sin` and the fused step.

mod cpu;
mod reference;
mod table;
#[cfg(test)]
mod tests;

pub use table::{RopeConfig, RopeScaling, RopeTable};

use crate::OpError;

const OP: &str = "rope";

/// Arguments of rope.
#[derive(Clone, Copy, Debug)]
pub struct Rope<'a> {
    /// Cosines and sines of each row's position.
    pub table: &'a RopeTable,
    /// Width of a head.
    pub head_dim: usize,
}

impl Rope<'_> {
    /// Checks that `x` is `[M, H, head_dim]` with the M rows of the table; gives H * head_dim.
    fn check(&self, x: &[f32]) -> Result<usize, OpError> {
        let (rows, rotary_dim) = (self.table.rows(), self.table.rotary_dim());
        if rotary_dim > self.head_dim {
            return Err(OpError::Value {
                op: OP,
                arg: "rotary_dim",
                expected: format!("at most head_dim = {}", self.head_dim),
                got: rotary_dim.to_string(),
            });
        }
        let width = x.len().checked_div(rows).unwrap_or(0);
        OpError::check_len(OP, "x [M, H, head_dim]", x.len(), rows * width)?;
        if !width.is_multiple_of(self.head_dim) {
            return Err(OpError::Value {
                op: OP,
                arg: "row of x [H, head_dim]",
                expected: format!("a multiple of head_dim = {}", self.head_dim),
                got: width.to_string(),
            });
        }
        Ok(width)
    }
}
