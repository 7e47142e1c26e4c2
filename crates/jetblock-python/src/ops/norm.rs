//! Norms with a mean: of rows, of groups of channels.

use jetblock_ops::group_norm::GroupNorm;
use jetblock_ops::layer_norm::LayerNorm;
use pyo3::prelude::*;

use super::{optional, shape, units};
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
    let (weight, bias) = (weight.as_deref(), bias.as_deref());
    let x = x.source("layer_norm: x")?;
    units([(&x, row_len)], row_len).compute(py, &mut out, |_, [x], out, cpu| {
        let op = LayerNorm {
            x,
            row_len,
            weight,
            bias,
            eps,
        };
        op.cpu(out, cpu)
    })
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
    let (weight, bias) = (weight.as_deref(), bias.as_deref());
    let x = x.source("group_norm: x")?;
    if groups == 0 || channels % groups != 0 || x.in_place().is_some() {
        // All at once; or the operator says what is wrong.
        let image = channels * positions;
        return units([(&x, image)], image).compute(py, &mut out, |_, [x], out, cpu| {
            let op = GroupNorm {
                x,
                channels,
                positions,
                groups,
                weight,
                bias,
                eps,
            };
            op.cpu(out, cpu)
        });
    }
    // Groups of different images are on their own, so a piece may end anywhere between two.
    let channels = channels / groups;
    let group = channels * positions;
    units([(&x, group)], group).compute(py, &mut out, |range, [x], out, cpu| {
        let mut first = range.start;
        while first < range.end {
            let end = range.end.min((first / groups + 1) * groups);
            let at = (first - range.start) * group..(end - range.start) * group;
            let own = first % groups * channels..(first % groups + end - first) * channels;
            let op = GroupNorm {
                x: &x[at.clone()],
                channels: own.len(),
                positions,
                groups: end - first,
                weight: weight.map(|weight| &weight[own.clone()]),
                bias: bias.map(|bias| &bias[own.clone()]),
                eps,
            };
            op.cpu(&mut out[at], cpu)?;
            first = end;
        }
        Ok(())
    })
}
