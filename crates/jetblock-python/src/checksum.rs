//! Digests of arrays (NUMERICS.md section 12), and where two arrays differ.

use jetblock_tensor::digest;
use pyo3::prelude::*;

use crate::error::argument;
use crate::tensor::Tensor;

/// The contract's digest of an array, 64 hex digits.
#[pyfunction]
pub(crate) fn checksum(py: Python<'_>, array: Tensor<'_>) -> String {
    let bytes = array.bytes();
    let (bytes, name, shape) = (&bytes[..], array.element.name, &array.shape[..]);
    let digest = py.detach(|| digest::tensor_bytes(name, shape, bytes));
    digest.to_string()
}

/// The flat index of the first element whose bits differ, with both elements' bits in hex; `None` where all are equal.
#[pyfunction]
pub(crate) fn first_difference(
    py: Python<'_>,
    left: Tensor<'_>,
    right: Tensor<'_>,
) -> PyResult<Option<(usize, String, String)>> {
    if (left.element, &left.shape) != (right.element, &right.shape) {
        return Err(argument(format!(
            "the arrays are {}{:?} and {}{:?}, expected equal dtypes and shapes",
            left.element.name, left.shape, right.element.name, right.shape
        )));
    }
    let (a, b, size) = (left.bytes(), right.bytes(), left.element.size);
    let (a, b) = (&a[..], &b[..]);
    Ok(py.detach(|| {
        let at = a
            .chunks(size)
            .zip(b.chunks(size))
            .position(|(a, b)| a != b)?;
        let hex = |bytes: &[u8]| {
            let element = &bytes[at * size..][..size];
            element
                .iter()
                .rev()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        };
        Some((at, hex(a), hex(b)))
    }))
}
