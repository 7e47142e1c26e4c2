//! Norms with a mean: of rows, of groups of channels.

use jetblock_ops::group_norm::GroupNorm;
use jetblock_ops::layer_norm::LayerNorm;
use pyo3::prelude::*;

use super::{compute, optional, shape};
use crate::error::argument;
use crate::tensor::Tensor;

/// `out [.., D]` of `x [.., D]`, `weight` and `bias [D]`.
#[pyfunction]
#[pyo3(signature = (x, weight, bias, eps, out))]
pub(crate) fn layer_norm(
    py: Python<'_>,
    x: Tensor<'_>,
    weight: Option<Tensor<'_>>,
    bias: Option<Tensor<'_>>,
    eps: f32,
    mut out: Tensor<'_>,
) -> PyResult<()> {
    const OP: &str = "layer_norm";
    let row_len = shape::last(OP, "x", &x)?;
    shape::check(OP, "out", &out, "as x", &x.shape)?;
    let dims = "D, the last dimension of x";
    let weight = optional(OP, "weight", weight.as_ref(), dims, row_len)?;
    let bias = optional(OP, "bias", bias.as_ref(), dims, row_len)?;
    let x = x.f32s("layer_norm: x")?;
    let op = LayerNorm {
        x: &x,
        row_len,
        weight: weight.as_deref(),
        bias: bias.as_deref(),
        eps,
    };
    compute(py, &mut out, |out, cpu| op.cpu(out, cpu))
}

/// `out [B, C, ..]` of `x [B, C, ..]`, `weight` and `bias [C]`.
#[pyfunction]
#[pyo3(signature = (x, groups, weight, bias, eps, out))]
pub(crate) fn group_norm(
    py: Python<'_>,
    x: Tensor<'_>,
    groups: usize,
    weight: Option<Tensor<'_>>,
    bias: Option<Tensor<'_>>,
    eps: f32,
    mut out: Tensor<'_>,
) -> PyResult<()> {
    const OP: &str = "group_norm";
    let (channels, positions) = match &x.shape[..] {
        [_, channels, size @ ..] if *channels > 0 && !size.contains(&0) => {
            (*channels, size.iter().product())
        }
        shape => {
            return Err(argument(format!(
                "{OP}: x has shape {shape:?}, expected [B, C, ..], none of them 0 but the first"
            )));
        }
    };
    shape::check(OP, "out", &out, "as x", &x.shape)?;
    let weight = optional(OP, "weight", weight.as_ref(), "C", channels)?;
    let bias = optional(OP, "bias", bias.as_ref(), "C", channels)?;
    let x = x.f32s("group_norm: x")?;
    let op = GroupNorm {
        x: &x,
        channels,
        positions,
        groups,
        weight: weight.as_deref(),
        bias: bias.as_deref(),
        eps,
    };
    compute(py, &mut out, |out, cpu| op.cpu(out, cpu))
}
