//! Operators that draw random numbers.

use jetblock_ops::randn::Randn;
use pyo3::prelude::*;

use super::{compute, shape};
use crate::error::argument;
use crate::tensor::Tensor;

/// `out [B, C, T, H, W]`, or without T, H, C, from the left of these: normal variates of the `seeds [B]` and `images [B]`.
#[pyfunction]
pub(crate) fn randn(
    py: Python<'_>,
    seeds: Tensor<'_>,
    images: Tensor<'_>,
    step: u32,
    mut out: Tensor<'_>,
) -> PyResult<()> {
    const OP: &str = "randn";
    let [batch] = shape::dims(OP, "seeds", &seeds, "[B]")?;
    shape::check(OP, "images", &images, "[B]", &[batch])?;
    let size = match out.shape.get(1..).unwrap_or_default() {
        &[w] => [1, 1, 1, w],
        &[c, w] => [c, 1, 1, w],
        &[c, h, w] => [c, 1, h, w],
        &[c, t, h, w] => [c, t, h, w],
        other => {
            return Err(argument(format!(
                "{OP}: size has {} dimensions, expected 1 to 4",
                other.len()
            )));
        }
    };
    let seeds: Vec<u64> = seeds
        .i64s("randn: seeds")?
        .iter()
        .map(|seed| seed.cast_unsigned())
        .collect();
    let images = images.u32s("randn: images")?;
    let op = Randn {
        seeds: &seeds,
        images: &images,
        step,
        size,
    };
    compute(py, &mut out, |out, cpu| op.cpu(out, cpu))
}
