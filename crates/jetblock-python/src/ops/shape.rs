//! Shapes: what they are, what they should be.

use std::fmt::Write as _;

use pyo3::PyResult;

use crate::error::argument;
use crate::tensor::Tensor;

/// A shape in messages, such as `[2, 3]`.
fn text(shape: &[usize]) -> String {
    let mut text = String::from("[");
    for (i, dim) in shape.iter().enumerate() {
        let comma = if i > 0 { ", " } else { "" };
        write!(text, "{comma}{dim}").expect("writing to a string cannot fail");
    }
    text + "]"
}

/// `Ok` where `array` has this shape; `dims` says what it means, such as `[B, T, C]`.
pub(super) fn check(
    op: &str,
    name: &str,
    array: &Tensor<'_>,
    dims: &str,
    expected: &[usize],
) -> PyResult<()> {
    if array.shape == expected {
        return Ok(());
    }
    Err(argument(format!(
        "{op}: {name} has shape {}, expected {} ({dims})",
        text(&array.shape),
        text(expected)
    )))
}

/// The dimensions of an array that has `N` of them, none of them 0 but the first.
pub(super) fn dims<const N: usize>(
    op: &str,
    name: &str,
    array: &Tensor<'_>,
    dims: &str,
) -> PyResult<[usize; N]> {
    match <[usize; N]>::try_from(&array.shape[..]) {
        Ok(shape) if !shape[1..].contains(&0) => Ok(shape),
        _ => Err(argument(format!(
            "{op}: {name} has shape {}, expected {dims}, none of them 0 but the first",
            text(&array.shape)
        ))),
    }
}

/// The last dimension, at least 1.
pub(super) fn last(op: &str, name: &str, array: &Tensor<'_>) -> PyResult<usize> {
    match array.shape.last() {
        Some(&last) if last > 0 => Ok(last),
        _ => Err(argument(format!(
            "{op}: {name} has shape {}, expected a last dimension of at least 1",
            text(&array.shape)
        ))),
    }
}
