//! Operators along one dimension of an array of any rank: reductions, running sums, orders.

use jetblock_ops::cumsum::Cumsum;
use jetblock_ops::reduce::{Reduce, Reduction};
use jetblock_ops::sort::Sort;
use pyo3::prelude::*;

use super::{compute, shape};
use crate::error::argument;
use crate::tensor::Tensor;

/// `out`: x without dimension `dim`, which is reduced; the reduction by name.
#[pyfunction]
pub(crate) fn reduce(
    py: Python<'_>,
    name: &str,
    x: Tensor<'_>,
    dim: usize,
    correction: usize,
    mut out: Tensor<'_>,
) -> PyResult<()> {
    let reduction = match name {
        "sum" => Reduction::Sum,
        "sum_of_squares" => Reduction::SumOfSquares,
        "mean" => Reduction::Mean,
        "amax" => Reduction::Amax,
        "amin" => Reduction::Amin,
        "var" => Reduction::Var { correction },
        _ => return Err(argument(format!("{name:?} is no reduction"))),
    };
    let (outer, len, inner) = split(name, &x, dim)?;
    shape::check(name, "out", &out, "x without dim", &[outer, inner].concat())?;
    let inner = inner.iter().product::<usize>().max(1);
    let x = x.f32s(name)?;
    let x = &x[..];
    compute(py, &mut out, |out, cpu| {
        let op = Reduce {
            reduction,
            x,
            len,
            inner,
        };
        op.cpu(out, cpu)
    })
}

/// `out`, as x: sums of the elements up to each along dimension `dim`.
#[pyfunction]
pub(crate) fn cumsum(
    py: Python<'_>,
    x: Tensor<'_>,
    dim: usize,
    mut out: Tensor<'_>,
) -> PyResult<()> {
    const OP: &str = "cumsum";
    let (_, len, inner) = split(OP, &x, dim)?;
    shape::check(OP, "out", &out, "as x", &x.shape)?;
    if x.len() == 0 {
        return Ok(());
    }
    let inner = inner.iter().product();
    let x = x.f32s("cumsum: x")?;
    let x = &x[..];
    compute(py, &mut out, |out, cpu| {
        Cumsum { x, len, inner }.cpu(out, cpu)
    })
}

/// `values` and `indices [.., k]` of the first k elements of each sorted row of `x [.., n]`.
#[pyfunction]
pub(crate) fn topk(
    py: Python<'_>,
    x: Tensor<'_>,
    k: usize,
    largest: bool,
    mut values: Tensor<'_>,
    mut indices: Tensor<'_>,
) -> PyResult<()> {
    const OP: &str = "topk";
    let row_len = shape::last(OP, "x", &x)?;
    let expected = [&x.shape[..x.shape.len() - 1], &[k]].concat();
    shape::check(OP, "values", &values, "[.., k]", &expected)?;
    shape::check(OP, "indices", &indices, "[.., k]", &expected)?;
    let x = x.f32s("topk: x")?;
    let op = Sort {
        x: &x,
        row_len,
        k,
        descending: largest,
    };
    let indices = indices.i64s_mut("topk: indices")?;
    compute(py, &mut values, |values, cpu| op.cpu(values, indices, cpu))
}

/// The dimensions before `dim`, its length, and those behind it.
fn split<'a>(
    op: &str,
    x: &'a Tensor<'_>,
    dim: usize,
) -> PyResult<(&'a [usize], usize, &'a [usize])> {
    let len = *x.shape.get(dim).ok_or_else(|| {
        argument(format!(
            "{op}: dim is {dim}, expected below the {} dimensions of x",
            x.shape.len()
        ))
    })?;
    Ok((&x.shape[..dim], len, &x.shape[dim + 1..]))
}
