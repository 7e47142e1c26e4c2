//! Operators along one dimension of an array of any rank: reductions, running sums, orders.

use jetblock_ops::OpError;
use jetblock_ops::cumsum::Cumsum;
use jetblock_ops::reduce::{Reduce, Reduction};
use jetblock_ops::sort::Sort;
use jetblock_simd::Cpu;
use pyo3::prelude::*;

use super::{PIECE, native, shape, units};
use crate::convert::Buffer;
use crate::error::argument;
use crate::pool;
use crate::tensor::{GRAIN, Source, Tensor};

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
    let x = x.source(name)?;
    let lines = Lines {
        x: &x,
        len,
        inner,
        out_len: 1,
    };
    lines.compute(py, &mut out, |x, inner, out, cpu| {
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
    let x = x.source("cumsum: x")?;
    let lines = Lines {
        x: &x,
        len,
        inner,
        out_len: len,
    };
    lines.compute(py, &mut out, |x, inner, out, cpu| {
        Cumsum { x, len, inner }.cpu(out, cpu)
    })
}

/// An operator along the middle of `x [outer, len, inner]`, with an output `[outer, out_len, inner]`.
struct Lines<'a> {
    x: &'a Source<'a>,
    len: usize,
    inner: usize,
    out_len: usize,
}

impl Lines<'_> {
    /// `op` gets `[.., len, inner]`, its inner and its output; both may have fewer outer and inner elements than x.
    fn compute(
        &self,
        py: Python<'_>,
        out: &mut Tensor<'_>,
        mut op: impl FnMut(&[f32], usize, &mut [f32], &Cpu) -> Result<(), OpError> + Send,
    ) -> PyResult<()> {
        let Lines {
            x,
            len,
            inner,
            out_len,
        } = *self;
        let (unit, out_unit) = (len * inner, out_len * inner);
        let piece = PIECE * pool::operators()?.threads();
        if unit <= piece || inner == 1 || x.in_place().is_some() {
            let units = units([(x, unit)], out_unit);
            return units.compute(py, out, |_, [x], out, cpu| op(x, inner, out, cpu));
        }
        // Columns of one unit at a time.
        let width = (piece / len).clamp(MIN_WIDTH, inner);
        native(py, out, |mut out, cpu| {
            let (mut from, mut to) = (Buffer::new(len * width), Buffer::new(out_len * width));
            let thread = cpu.one_thread();
            for unit in 0..out.len() / out_unit {
                for first in (0..inner).step_by(width) {
                    let width = width.min(inner - first);
                    let (from, to) = (&mut from[..len * width], &mut to[..out_len * width]);
                    let grain = GRAIN.div_ceil(width);
                    cpu.par_rows(from, width, grain, |row, rows| {
                        for (i, values) in rows.chunks_mut(width).enumerate() {
                            x.read((unit * len + row + i) * inner + first, values, &thread);
                        }
                    });
                    op(from, width, to, cpu)?;
                    for (row, values) in to.chunks(width).enumerate() {
                        let at = (unit * out_len + row) * inner + first;
                        let out = out.reborrow().slice(at..at + width);
                        out.write(cpu.level(), values);
                    }
                }
            }
            Ok(())
        })
    }
}

/// Columns that are read together at least: some cache lines.
const MIN_WIDTH: usize = 64;

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
    let x = x.source("topk: x")?;
    let indices = indices.i64s_mut("topk: indices")?;
    units([(&x, row_len)], k).compute(py, &mut values, |rows, [x], values, cpu| {
        let op = Sort {
            x,
            row_len,
            k,
            descending: largest,
        };
        let first = rows.start * k;
        op.cpu(values, &mut indices[first..][..values.len()], cpu)
    })
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
