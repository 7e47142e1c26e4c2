//! Products of matrices, and weights packed once.

use std::sync::Arc;

use jetblock_ops::linear::{
    Epilogue, Linear, OperandKind, PackedMatrix, Prepared, WeightRows, linear as multiply,
};
use jetblock_ops::matmul::{Layout, Matmul};
use jetblock_tensor::DType;
use pyo3::prelude::*;

use super::{Units, native, shape};
use crate::error::argument;
use crate::pool;
use crate::tensor::{Element, Tensor};

/// A weight matrix `[N, K]`, packed for one operand kind. It does not follow later changes of its source.
#[pyclass(frozen, module = "jetblock._core")]
pub(crate) struct PackedWeight(Arc<PackedMatrix>);

#[pymethods]
impl PackedWeight {
    #[new]
    fn new(py: Python<'_>, weight: Tensor<'_>, kind: &str) -> PyResult<PackedWeight> {
        let [rows, k] = shape::dims("linear", "weight", &weight, "[N, K]")?;
        let dtype = float_dtype("linear: weight", weight.element)?;
        let kind = operand_kind(kind)?;
        let bytes = weight.bytes();
        let rows = WeightRows {
            dtype,
            rows,
            bytes: &bytes,
        };
        let packed = py.detach(|| PackedMatrix::pack(kind, &[rows], k, &mut |_, _| {}));
        Ok(PackedWeight(Arc::new(packed.map_err(argument)?)))
    }

    /// N and K.
    #[getter]
    fn shape(&self) -> (usize, usize) {
        (self.0.n(), self.0.k())
    }

    /// The operand kind.
    #[getter]
    fn kind(&self) -> &'static str {
        self.0.kind().name()
    }

    /// Memory, padding included.
    #[getter]
    fn nbytes(&self) -> usize {
        self.0.bytes()
    }
}

/// An operand kind by its name.
pub(super) fn operand_kind(name: &str) -> PyResult<OperandKind> {
    match name {
        "f32" => Ok(OperandKind::F32),
        "bf16" => Ok(OperandKind::Bf16),
        _ => Err(argument(format!(
            "kind is {name:?}, expected \"f32\" or \"bf16\""
        ))),
    }
}

/// The stored dtype of a floating-point array.
pub(super) fn float_dtype(name: &str, element: Element) -> PyResult<DType> {
    match element {
        Element::F32 => Ok(DType::F32),
        Element::BF16 => Ok(DType::BF16),
        Element::F16 => Ok(DType::F16),
        other => Err(argument(format!(
            "{name} has dtype {}, expected f32, bf16 or f16",
            other.name
        ))),
    }
}

/// Elements of x or of the output that a thread brings to or from f32 at once, and rows worth reading the weight again for.
const LEFT: usize = 1 << 19;
const MIN_ROWS: usize = 64;

/// `out [.., N]` of `x [.., K]`, `weight [N, K]` and `bias [N]`.
#[pyfunction]
#[pyo3(signature = (x, weight, bias, out))]
pub(crate) fn linear(
    py: Python<'_>,
    x: Tensor<'_>,
    weight: &PackedWeight,
    bias: Option<Tensor<'_>>,
    mut out: Tensor<'_>,
) -> PyResult<()> {
    const OP: &str = "linear";
    let weight = &*weight.0;
    let rows = match x.shape.split_last() {
        Some((&k, rows)) if k == weight.k() => rows,
        _ => {
            return Err(argument(format!(
                "{OP}: x has shape {:?}, expected a last dimension of {} (K of weight [N, K])",
                x.shape,
                weight.k()
            )));
        }
    };
    shape::check(OP, "out", &out, "[.., N]", &[rows, &[weight.n()]].concat())?;
    if let Some(bias) = &bias {
        shape::check(OP, "bias", bias, "N", &[weight.n()])?;
    }
    let x = x.source("linear: x")?;
    let bias = bias
        .as_ref()
        .map(|bias| bias.f32s("linear: bias"))
        .transpose()?;
    let bias = bias.as_deref();
    let (k, n) = (weight.k(), weight.n());
    let mut prepared = Prepared::new(weight.kind());
    let rows = Units {
        inputs: [(&x, k)],
        out: n,
        at_most: (LEFT * pool::operators()?.threads() / k.max(n)).max(MIN_ROWS),
    };
    rows.compute(py, &mut out, |_, [x], out, cpu| {
        prepared.prepare_into(cpu, x, k)?;
        let args = Linear {
            x: &prepared,
            weight,
            bias,
            epilogue: Epilogue::None,
        };
        multiply(cpu, args, out)
    })
}

/// `out [B, M, N]` of `a [B, M, K]` and `b [B, K, N]`.
#[pyfunction]
pub(crate) fn matmul(
    py: Python<'_>,
    a: Tensor<'_>,
    mut b: Tensor<'_>,
    kind: &str,
    mut out: Tensor<'_>,
) -> PyResult<()> {
    const OP: &str = "matmul";
    let (&[batch, m, k], &[_, _, n]) = (&a.shape[..], &b.shape[..]) else {
        return Err(argument(format!(
            "{OP}: a and b have {} and {} dimensions, expected [B, M, K] and [B, K, N]",
            a.shape.len(),
            b.shape.len()
        )));
    };
    let kind = operand_kind(kind)?;
    shape::check(OP, "b", &b, "[B, K, N] with a [B, M, K]", &[batch, k, n])?;
    shape::check(OP, "out", &out, "[B, M, N]", &[batch, m, n])?;
    let layout = match b.transpose_last_two() {
        true => Layout::Turned,
        false => Layout::Plain,
    };
    let (a, b) = (a.stored("matmul: a")?, b.stored("matmul: b")?);
    let op = Matmul {
        kind,
        a: a.floats(),
        b: b.floats(),
        layout,
        batch,
        m,
        k,
        n,
    };
    native(py, &mut out, |out, cpu| op.cpu(out, cpu))
}
