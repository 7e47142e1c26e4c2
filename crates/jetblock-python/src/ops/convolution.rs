//! Convolutions, and their weights packed once.

use std::sync::Arc;

use jetblock_ops::conv::{Conv, ConvParams, ConvWeight};
use jetblock_ops::linear::OperandKind;
use pyo3::prelude::*;

use super::grid::three;
use super::weight::operand_kind;
use super::{native, optional, shape};
use crate::error::argument;
use crate::pool;
use crate::tensor::Tensor;

const OP: &str = "conv";

/// A weight `[N, C/g, kernel..]` (transposed `[C, N/g, kernel..]`) of one to three dimensions, packed for one operand
/// kind. It does not follow later changes of its source.
#[pyclass(frozen, module = "jetblock._core")]
pub(crate) struct PackedConv {
    weight: Arc<ConvWeight>,
    dims: usize,
    nbytes: usize,
}

#[pymethods]
impl PackedConv {
    #[new]
    #[pyo3(signature = (weight, kind, stride, padding, dilation, groups, output_padding=None))]
    fn new(
        py: Python<'_>,
        weight: Tensor<'_>,
        kind: &str,
        stride: Vec<usize>,
        padding: Vec<usize>,
        dilation: Vec<usize>,
        groups: usize,
        output_padding: Option<Vec<usize>>,
    ) -> PyResult<PackedConv> {
        let kind = operand_kind(kind)?;
        let (first, second, kernel) = match &weight.shape[..] {
            [first, second, kernel @ ..] if (1..=3).contains(&kernel.len()) => {
                (*first, *second, kernel)
            }
            _ => {
                return Err(argument(format!(
                    "{OP}: weight has {} dimensions, expected 3 to 5",
                    weight.shape.len()
                )));
            }
        };
        let dims = kernel.len();
        let transposed = output_padding.is_some();
        let other = second.checked_mul(groups);
        let other = other.ok_or_else(|| argument(format!("{OP}: groups is {groups}, too many")))?;
        let (in_channels, out_channels) = if transposed {
            (first, other)
        } else {
            (other, first)
        };
        let params = ConvParams {
            in_channels,
            out_channels,
            kernel_size: three(OP, "weight", kernel, dims, 1)?,
            stride: three(OP, "stride", &stride, dims, 1)?,
            padding: three(OP, "padding", &padding, dims, 0)?,
            dilation: three(OP, "dilation", &dilation, dims, 1)?,
            groups,
            transposed: output_padding
                .map(|more| three(OP, "output_padding", &more, dims, 0))
                .transpose()?,
        };
        let size = match kind {
            OperandKind::F32 => size_of::<f32>(),
            OperandKind::Bf16 => size_of::<u16>(),
        };
        let nbytes = weight.len() * size;
        let values = weight.f32s("conv: weight")?;
        let (values, cpu) = (&values[..], pool::operators()?);
        let weight = py
            .detach(|| ConvWeight::pack(&cpu, kind, params, values))
            .map_err(argument)?;
        Ok(PackedConv {
            weight: Arc::new(weight),
            dims,
            nbytes,
        })
    }

    /// The operand kind.
    #[getter]
    fn kind(&self) -> &'static str {
        self.weight.kind().name()
    }

    /// Memory.
    #[getter]
    fn nbytes(&self) -> usize {
        self.nbytes
    }

    /// The shape of the output for an input `[B, C, ..]`.
    fn output_shape(&self, shape: Vec<usize>) -> PyResult<Vec<usize>> {
        let (batch, size) = self.input(&shape)?;
        let params = self.weight.params();
        let size = params.output_size(size).map_err(argument)?;
        let mut shape = vec![batch, params.out_channels];
        shape.extend_from_slice(&size[3 - self.dims..]);
        Ok(shape)
    }
}

impl PackedConv {
    /// Batch and extents of an input `[B, C, ..]`.
    fn input(&self, shape: &[usize]) -> PyResult<(usize, [usize; 3])> {
        let channels = self.weight.params().in_channels;
        match shape {
            [batch, c, size @ ..] if *c == channels && size.len() == self.dims => {
                Ok((*batch, three(OP, "x", size, self.dims, 1)?))
            }
            _ => Err(argument(format!(
                "{OP}: x has shape {shape:?}, expected [B, {channels}] and {} more dimensions",
                self.dims
            ))),
        }
    }
}

/// `out [B, N, ..]` of `x [B, C, ..]` and `bias [N]`.
#[pyfunction]
#[pyo3(signature = (x, weight, bias, out))]
pub(crate) fn conv(
    py: Python<'_>,
    x: Tensor<'_>,
    weight: &PackedConv,
    bias: Option<Tensor<'_>>,
    mut out: Tensor<'_>,
) -> PyResult<()> {
    let (batch, input_size) = weight.input(&x.shape)?;
    let expected = weight.output_shape(x.shape.clone())?;
    shape::check(OP, "out", &out, "[B, N, ..]", &expected)?;
    let weight = &*weight.weight;
    let channels = weight.params().out_channels;
    let bias = optional(OP, "bias", bias.as_ref(), "N", channels)?;
    let x = x.stored("conv: x")?;
    let op = Conv {
        x: x.floats(),
        batch,
        input_size,
        weight,
        bias: bias.as_deref(),
    };
    native(py, &mut out, |out, cpu| op.cpu(out, cpu))
}
