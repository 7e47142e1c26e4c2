//! Linear layers, and their weights packed once.

use std::sync::Arc;

use jetblock_ops::linear::{
    Epilogue, Linear, OperandKind, PackedMatrix, Prepared, WeightRows, linear as multiply,
};
use jetblock_tensor::DType;
use pyo3::prelude::*;

use super::{compute, shape};
use crate::error::argument;
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
        let kind = match kind {
            "f32" => OperandKind::F32,
            "bf16" => OperandKind::Bf16,
            _ => {
                return Err(argument(format!(
                    "linear: kind is {kind:?}, expected \"f32\" or \"bf16\""
                )));
            }
        };
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
    let x = x.f32s("linear: x")?;
    let bias = bias
        .as_ref()
        .map(|bias| bias.f32s("linear: bias"))
        .transpose()?;
    let (x, bias) = (&x[..], bias.as_deref());
    compute(py, &mut out, |out, cpu| {
        let x = Prepared::prepare(cpu, weight.kind(), x, weight.k())?;
        let args = Linear {
            x: &x,
            weight,
            bias,
            epilogue: Epilogue::None,
        };
        multiply(cpu, args, out)
    })
}
