//! The operators, one folder each: definition, reference, fast CPU version and tests side by side.
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | what the op computes: formula, source, shapes, dtypes, rounding points; its argument struct and checks |
//! | `reference.rs` | the meaning, in plain loops over `jetblock_numerics`; slow and obvious |
//! | `cpu.rs` | the same bits, faster: a [`jetblock_simd::Kernel`] per inner loop, threads over whole outputs |
//! | `tests.rs` | cpu equals reference bit for bit at every level and thread count, properties, error cases |
//!
//! Matrices are row-major `f32` slices. Rows of several sequences stand one after another without padding
//! (a *ragged batch*); [`Segment`] says which rows belong to which sequence.
#![forbid(unsafe_code)]

pub mod activation;
pub mod argmax;
pub mod attention;
pub mod causal_conv1d;
pub mod conv;
pub mod cumsum;
pub mod embedding;
pub mod gated_delta_rule;
pub mod group_norm;
pub mod layer_norm;
pub mod linear;
pub mod linear_attention;
pub mod matmul;
pub mod moe;
pub mod pool;
pub mod randn;
pub mod reduce;
pub mod rms_norm;
pub mod rms_norm_gated;
pub mod rope;
pub mod sampling;
pub mod sdpa;
pub mod selective_scan;
pub mod similarity;
pub mod softmax;
pub mod sort;
pub mod swiglu;
pub mod upsample;

mod columns;
mod columns_of_state;
mod error;
mod floats;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod pieces;
mod row;
mod segment;

pub use columns::Columns;
pub use error::OpError;
pub use floats::{Floats, FloatsMut};
pub use segment::Segment;
