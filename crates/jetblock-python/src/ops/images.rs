//! How alike the images of two batches are.

use jetblock_ops::OpError;
use jetblock_ops::similarity::Similarity;
use pyo3::prelude::*;

use super::shape;
use crate::error::argument;
use crate::tensor::Tensor;

/// For each pair of images of `left [B, H, W, C]` and `right` alike: mean squared difference and SSIM.
#[pyfunction]
pub(crate) fn similarity(
    py: Python<'_>,
    left: Tensor<'_>,
    right: Tensor<'_>,
) -> PyResult<Vec<(f64, f64)>> {
    const OP: &str = "similarity";
    let [images, height, width, channels] = shape::dims(OP, "left", &left, "[B, H, W, C]")?;
    shape::check(OP, "right", &right, "[B, H, W, C]", &left.shape)?;
    let (left, right) = (
        left.f32s("similarity: left")?,
        right.f32s("similarity: right")?,
    );
    let (left, right) = (&left[..], &right[..]);
    let size = height * width * channels;
    let one = |image: usize| -> Result<(f64, f64), OpError> {
        let found = Similarity {
            left: &left[image * size..][..size],
            right: &right[image * size..][..size],
            height,
            width,
            channels,
        }
        .reference()?;
        Ok((found.mse, found.ssim))
    };
    py.detach(|| (0..images).map(one).collect::<Result<_, _>>())
        .map_err(argument)
}
