//! The operators on arrays of Python, one function each: shapes are checked here, values by the operator itself.
//!
//! Inputs are f32, bf16 or f16 at any strides: read in place where they are f32 in order, else copied once and widened
//! exactly. The arithmetic is the contract's in f32; an output of two bytes is rounded once at the end. The caller
//! brings the outputs.

mod along;
mod convolution;
mod grid;
mod norm;
mod random;
mod rows;
mod sequence;
mod shape;
mod token;
mod weight;

use jetblock_ops::OpError;
use jetblock_simd::Cpu;
use pyo3::prelude::*;

use crate::convert::{self, Buffer, Values};
use crate::error::argument;
use crate::pool;
use crate::tensor::{Element, Tensor};

pub(crate) use along::{cumsum, reduce, topk};
pub(crate) use convolution::{PackedConv, conv};
pub(crate) use grid::{adaptive_avg_pool, avg_pool, upsample};
pub(crate) use norm::{group_norm, layer_norm};
pub(crate) use random::randn;
pub(crate) use rows::{activation, power, rms_norm, rms_norm_gated, softmax, swiglu};
pub(crate) use sequence::{
    attention, causal_conv1d, decay_rates, dynamic_causal_conv1d, gated_delta_rule,
    linear_attention, rope, sdpa, selective_scan,
};
pub(crate) use token::{embedding, moe_combine, moe_router, sample};
pub(crate) use weight::{PackedWeight, linear, matmul};

/// Runs an operator that writes f32, without Python's lock, and rounds where the output has another dtype.
fn compute(
    py: Python<'_>,
    out: &mut Tensor<'_>,
    op: impl FnOnce(&mut [f32], &Cpu) -> Result<(), OpError> + Send,
) -> PyResult<()> {
    let cpu = pool::operators()?;
    let element = out.element;
    if ![Element::BF16, Element::F16].contains(&element) {
        let out = out.f32s_mut("out")?;
        return py.detach(|| op(out, &cpu)).map_err(argument);
    }
    let out = out.words_mut("out")?;
    let result = py.detach(|| {
        let mut wide = Buffer::new(out.len());
        op(&mut wide, &cpu)?;
        convert::narrow(&wide, element, out, &cpu);
        Ok(())
    });
    result.map_err(|e: OpError| argument(e))
}

/// A vector that may be there, of `len` elements.
fn optional<'a>(
    op: &str,
    name: &str,
    vector: Option<&'a Tensor<'_>>,
    dims: &str,
    len: usize,
) -> PyResult<Option<Values<'a>>> {
    let Some(vector) = vector else {
        return Ok(None);
    };
    shape::check(op, name, vector, dims, &[len])?;
    vector.f32s(&format!("{op}: {name}")).map(Some)
}
