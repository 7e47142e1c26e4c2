//! The meaning of [`super::linear`] in plain loops over `jetblock_numerics`; slow and obvious.

use jetblock_numerics::{canonical, max, reduce, round};

use super::{Epilogue, OP, OperandKind};
use crate::OpError;

/// Arguments of [`linear`]: everything in f32, weights widened exactly from their dtype.
#[derive(Clone, Copy, Debug)]
pub struct Linear<'a> {
    /// How operands enter the dot products.
    pub kind: OperandKind,
    /// Inputs per output.
    pub k: usize,
    /// `[M, K]`.
    pub x: &'a [f32],
    /// `[N, K]`.
    pub weight: &'a [f32],
    /// `[N]`.
    pub bias: Option<&'a [f32]>,
    /// Applied to every output.
    pub epilogue: Epilogue,
}

/// `[M, N]`.
pub fn linear(args: Linear<'_>) -> Result<Vec<f32>, OpError> {
    let Linear {
        kind,
        k,
        x,
        weight,
        bias,
        epilogue,
    } = args;
    if k == 0 || !x.len().is_multiple_of(k) || !weight.len().is_multiple_of(k) {
        let expected = "a positive divisor of the elements of x and weight".into();
        return Err(OpError::Value {
            op: OP,
            arg: "K",
            expected,
            got: k.to_string(),
        });
    }
    if let Some(bias) = bias {
        OpError::check_len(OP, "bias [N]", bias.len(), weight.len() / k)?;
    }
    let mut out = Vec::with_capacity(x.len() / k * (weight.len() / k));
    for x in x.chunks_exact(k) {
        for (n, w) in weight.chunks_exact(k).enumerate() {
            let mut y = dot(kind, x, w);
            if let Some(bias) = bias {
                y += bias[n];
            }
            out.push(match epilogue {
                Epilogue::None => canonical(y),
                Epilogue::Relu2 => {
                    let r = max(y, 0.0);
                    canonical(r * r)
                }
            });
        }
    }
    Ok(out)
}

fn dot(kind: OperandKind, x: &[f32], w: &[f32]) -> f32 {
    match kind {
        OperandKind::F32 => reduce::dot_f32(x, w),
        OperandKind::Bf16 => {
            let operands = |v: &[f32]| {
                v.iter()
                    .map(|&v| round::bf16_operand(v))
                    .collect::<Vec<u16>>()
            };
            reduce::dot_bf16(&operands(x), &operands(w))
        }
    }
}
