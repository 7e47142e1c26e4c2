//! Functions of f64 elements: tables of angles, which models make in binary64 although the rest is f32.

use jetblock_numerics::math::binary64;
use pyo3::prelude::*;

use super::shape;
use crate::error::argument;
use crate::pool;
use crate::tensor::{Element, Tensor};

/// Elements worth a thread of their own.
const PIECE: usize = 1 << 12;

/// `out = f(x)` of f64 elements, NUMERICS.md section 5.7; f by name: `sin`, `cos`, `exp`, `log`, `pow` (`x^number`),
/// `power_of` (`number^x`).
#[pyfunction]
pub(crate) fn binary64_function(
    py: Python<'_>,
    name: &str,
    x: Tensor<'_>,
    number: f64,
    mut out: Tensor<'_>,
) -> PyResult<()> {
    let f: &(dyn Fn(f64) -> f64 + Sync) = match name {
        "sin" => &binary64::sin,
        "cos" => &binary64::cos,
        "exp" => &binary64::exp,
        "log" => &binary64::log,
        "pow" => &|x| binary64::pow(x, number),
        "power_of" => &|x| binary64::pow(number, x),
        _ => {
            return Err(argument(format!(
                "{name:?} is no function of f64 elements, expected sin, cos, exp, log, pow or power_of"
            )));
        }
    };
    if x.element != Element::F64 {
        let got = x.element.name;
        return Err(argument(format!("{name}: x is {got}, expected f64")));
    }
    shape::check(name, "out", &out, "as x", &x.shape)?;
    let x = x.bytes();
    let (x, _) = x.as_chunks::<8>();
    let (out, cpu) = (out.f64s_mut("out")?, pool::operators()?);
    py.detach(|| {
        let pieces = out.chunks_mut(PIECE).zip(x.chunks(PIECE));
        cpu.par_items(pieces.collect(), |(out, x)| {
            for (out, x) in out.iter_mut().zip(x) {
                let y = f(f64::from_ne_bytes(*x));
                *out = if y.is_nan() { f64::NAN } else { y };
            }
        });
    });
    Ok(())
}
