//! Operators on the rows or elements of one array.

use jetblock_ops::activation::{Activation, pow};
use jetblock_ops::rms_norm::RmsNorm;
use jetblock_ops::rms_norm_gated::RmsNormGated;
use jetblock_ops::softmax::{Scale, Softmax};
use jetblock_ops::swiglu::SwiGlu;
use jetblock_ops::{Columns, Floats, FloatsMut};
use pyo3::prelude::*;

use super::{native, shape, units};
use crate::error::argument;
use crate::tensor::{Element, Source, Tensor};

/// `out [.., D]` of `x [.., D]` and `weight [D]`.
#[pyfunction]
pub(crate) fn rms_norm(
    py: Python<'_>,
    x: Tensor<'_>,
    weight: Tensor<'_>,
    eps: f32,
    mut out: Tensor<'_>,
) -> PyResult<()> {
    let width = shape::last("rms_norm", "x", &x)?;
    shape::check(
        "rms_norm",
        "weight",
        &weight,
        "D, the last dimension of x",
        &[width],
    )?;
    shape::check("rms_norm", "out", &out, "as x", &x.shape)?;
    let (x, weight) = (x.source("rms_norm: x")?, weight.f32s("rms_norm: weight")?);
    let weight = &weight[..];
    units([(&x, width)], width).compute(py, &mut out, |_, [x], out, cpu| {
        RmsNorm { x, weight, eps }.cpu(out, cpu)
    })
}

/// `out [.., D]` of `y [.., D]`, the gate `z [.., D]` and `weight [D]`, normalised in groups.
#[pyfunction]
pub(crate) fn rms_norm_gated(
    py: Python<'_>,
    y: Tensor<'_>,
    z: Tensor<'_>,
    weight: Tensor<'_>,
    groups: usize,
    eps: f32,
    mut out: Tensor<'_>,
) -> PyResult<()> {
    const OP: &str = "rms_norm_gated";
    let width = shape::last(OP, "y", &y)?;
    shape::check(OP, "z", &z, "as y", &y.shape)?;
    shape::check(
        OP,
        "weight",
        &weight,
        "D, the last dimension of y",
        &[width],
    )?;
    shape::check(OP, "out", &out, "as y", &y.shape)?;
    let (y, z) = (
        y.source("rms_norm_gated: y")?,
        z.source("rms_norm_gated: z")?,
    );
    let weight = weight.f32s("rms_norm_gated: weight")?;
    let weight = &weight[..];
    units([(&y, width), (&z, width)], width).compute(py, &mut out, |_, [y, z], out, cpu| {
        let op = RmsNormGated {
            y,
            z: Columns::whole(z, width),
            weight,
            groups,
            eps,
        };
        op.cpu(out, cpu)
    })
}

/// `out = f(x)`, elementwise; f by name.
#[pyfunction]
pub(crate) fn activation(
    py: Python<'_>,
    name: &str,
    x: Tensor<'_>,
    mut out: Tensor<'_>,
) -> PyResult<()> {
    let f = match name {
        "relu2" => Activation::Relu2,
        "silu" => Activation::Silu,
        "sigmoid" => Activation::Sigmoid,
        "softplus" => Activation::Softplus,
        "gelu_tanh" => Activation::GeluTanh,
        "gelu" => Activation::GeluErf,
        "exp" => Activation::Exp,
        "exp2" => Activation::Exp2,
        "log" => Activation::Log,
        "log1p" => Activation::Log1p,
        "tanh" => Activation::Tanh,
        "erf" => Activation::Erf,
        "sin" => Activation::Sin,
        "cos" => Activation::Cos,
        "rsqrt" => Activation::Rsqrt,
        _ => return Err(argument(format!("{name:?} is no activation"))),
    };
    shape::check(name, "out", &out, "as x", &x.shape)?;
    let x = x.source("x")?;
    if let (Source::Floats(Floats::Bf16(x)), Element::BF16) = (&x, out.element) {
        return native(py, &mut out, |out, cpu| match out {
            FloatsMut::Bf16(out) => f.cpu_bf16(x, out, cpu),
            _ => unreachable!("the dtype was looked at"),
        });
    }
    units([(&x, 1)], 1).compute(py, &mut out, |_, [x], out, cpu| f.cpu(x, out, cpu))
}

/// `out = x^exponent`, elementwise.
#[pyfunction]
pub(crate) fn power(
    py: Python<'_>,
    x: Tensor<'_>,
    exponent: f32,
    mut out: Tensor<'_>,
) -> PyResult<()> {
    shape::check("pow", "out", &out, "as x", &x.shape)?;
    let x = x.source("pow: x")?;
    units([(&x, 1)], 1).compute(py, &mut out, |_, [x], out, cpu| pow(x, exponent, out, cpu))
}

/// `out = silu(gate) * up`.
#[pyfunction]
pub(crate) fn swiglu(
    py: Python<'_>,
    gate: Tensor<'_>,
    up: Tensor<'_>,
    mut out: Tensor<'_>,
) -> PyResult<()> {
    shape::check("swiglu", "up", &up, "as gate", &gate.shape)?;
    shape::check("swiglu", "out", &out, "as gate", &gate.shape)?;
    let (gate, up) = (gate.source("swiglu: gate")?, up.source("swiglu: up")?);
    units([(&gate, 1), (&up, 1)], 1).compute(py, &mut out, |_, [gate, up], out, cpu| {
        out.copy_from_slice(gate);
        SwiGlu { up }.cpu(out, cpu)
    })
}

/// Softmax of the last dimension, or its logarithm.
#[pyfunction]
pub(crate) fn softmax(
    py: Python<'_>,
    x: Tensor<'_>,
    is_log: bool,
    mut out: Tensor<'_>,
) -> PyResult<()> {
    let (op, scale) = match is_log {
        true => ("log_softmax", Scale::Log),
        false => ("softmax", Scale::Linear),
    };
    let row_len = shape::last(op, "x", &x)?;
    shape::check(op, "out", &out, "as x", &x.shape)?;
    let x = x.source(op)?;
    units([(&x, row_len)], row_len).compute(py, &mut out, |_, [x], out, cpu| {
        Softmax { x, row_len, scale }.cpu(out, cpu)
    })
}
