//! Operators on images `[B, C, ..]` of one to three dimensions: resizing, means of windows.

use jetblock_ops::pool::{Pool, Pooling, Window};
use jetblock_ops::upsample::{Mode, Upsample};
use pyo3::prelude::*;

use super::{shape, units};
use crate::error::argument;
use crate::tensor::Tensor;

/// `out [B, C, ..]`: `x [B, C, ..]` in the size of out. `scale_factor` has 0 where it follows from the sizes.
#[pyfunction]
pub(crate) fn upsample(
    py: Python<'_>,
    mode: &str,
    x: Tensor<'_>,
    align_corners: bool,
    scale_factor: Vec<f64>,
    mut out: Tensor<'_>,
) -> PyResult<()> {
    const OP: &str = "interpolate";
    let mode = match mode {
        "nearest" => Mode::Nearest,
        "nearest-exact" => Mode::NearestExact,
        "linear" => Mode::Linear,
        "cubic" => Mode::Cubic,
        _ => {
            return Err(argument(format!(
                "{OP}: mode is {mode:?}, expected nearest, nearest-exact, linear or cubic"
            )));
        }
    };
    let (input, output) = (size(OP, &x)?, size(OP, &out)?);
    let expected = [&x.shape[..2], &out.shape[2..]].concat();
    if out.shape.len() != x.shape.len() {
        return Err(argument(format!(
            "{OP}: {} extents of the output, expected {}",
            out.shape.len() - 2,
            x.shape.len() - 2
        )));
    }
    shape::check(OP, "out", &out, "[B, C, ..]", &expected)?;
    let scale_factor = three(OP, "scale_factor", &scale_factor, x.shape.len() - 2, 0.0)?;
    let x = x.source("interpolate: x")?;
    let planes = [input, output].map(|size| size.iter().product());
    units([(&x, planes[0])], planes[1]).compute(py, &mut out, |_, [x], out, cpu| {
        let op = Upsample {
            x,
            input_size: input,
            output_size: output,
            mode,
            align_corners,
            scale_factor,
        };
        op.cpu(out, cpu)
    })
}

/// `out [B, C, ..]`: means of windows of `x [B, C, ..]`.
#[pyfunction]
#[pyo3(signature = (x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor, out))]
pub(crate) fn avg_pool(
    py: Python<'_>,
    x: Tensor<'_>,
    kernel_size: Vec<usize>,
    stride: Vec<usize>,
    padding: Vec<usize>,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: Option<usize>,
    mut out: Tensor<'_>,
) -> PyResult<()> {
    const OP: &str = "avg_pool";
    let dims = x.shape.len().saturating_sub(2);
    let window = Window {
        kernel_size: three(OP, "kernel_size", &kernel_size, dims, 1)?,
        stride: three(OP, "stride", &stride, dims, 1)?,
        padding: three(OP, "padding", &padding, dims, 0)?,
        dilation: [1; 3],
        ceil_mode,
    };
    let pooling = Pooling::Avg {
        window,
        count_include_pad,
        divisor,
    };
    pool(py, OP, &x, pooling, &mut out)
}

/// `out [B, C, ..]`: means of windows that cover `x [B, C, ..]` as evenly as can be.
#[pyfunction]
pub(crate) fn adaptive_avg_pool(
    py: Python<'_>,
    x: Tensor<'_>,
    mut out: Tensor<'_>,
) -> PyResult<()> {
    const OP: &str = "adaptive_avg_pool";
    let pooling = Pooling::AdaptiveAvg(size(OP, &out)?);
    pool(py, OP, &x, pooling, &mut out)
}

fn pool(
    py: Python<'_>,
    name: &str,
    x: &Tensor<'_>,
    pooling: Pooling,
    out: &mut Tensor<'_>,
) -> PyResult<()> {
    let input_size = size(name, x)?;
    let output = Pool {
        x: &[],
        input_size,
        pooling,
    };
    let output = output.output_size().map_err(argument)?;
    let dims = x.shape.len() - 2;
    let expected = [&x.shape[..2], &output[3 - dims..]].concat();
    shape::check(name, "out", out, "[B, C, ..]", &expected)?;
    let x = x.source(name)?;
    let planes = [input_size, output].map(|size| size.iter().product());
    units([(&x, planes[0])], planes[1]).compute(py, out, |_, [x], out, cpu| {
        let op = Pool {
            x,
            input_size,
            pooling,
        };
        op.cpu(out, cpu)
    })
}

/// The extents behind batch and channels, as three.
fn size(op: &str, x: &Tensor<'_>) -> PyResult<[usize; 3]> {
    match &x.shape[..] {
        [_, channels, size @ ..]
            if *channels > 0 && (1..=3).contains(&size.len()) && !size.contains(&0) =>
        {
            three(op, "size", size, size.len(), 1)
        }
        shape => Err(argument(format!(
            "{op}: an array has shape {shape:?}, expected [B, C, ..] of 3 to 5 dimensions, none of them 0 but the first"
        ))),
    }
}

/// Numbers of `dims` dimensions as those of three: lower ones are three with leading ones that change nothing.
pub(super) fn three<T: Copy + std::fmt::Debug>(
    op: &str,
    name: &str,
    numbers: &[T],
    dims: usize,
    lead: T,
) -> PyResult<[T; 3]> {
    if numbers.len() != dims || !(1..=3).contains(&dims) {
        return Err(argument(format!(
            "{op}: {name} is {numbers:?}, expected {dims} numbers for {dims} dimensions, 1 to 3"
        )));
    }
    let mut all = [lead; 3];
    all[3 - dims..].copy_from_slice(numbers);
    Ok(all)
}
