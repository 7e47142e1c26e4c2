//! The meaning of [`super::linear`] in plain loops over `jetblock_numerics`; slow and obvious.

use jetblock_numerics::reduce::K_BLOCK;
use jetblock_numerics::{canonical, fma, max, reduce, round};

use super::quantized::Format;
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
            out.push(finish(y, epilogue));
        }
    }
    Ok(out)
}

fn finish(y: f32, epilogue: Epilogue) -> f32 {
    match epilogue {
        Epilogue::None => canonical(y),
        Epilogue::Relu2 => {
            let r = max(y, 0.0);
            canonical(r * r)
        }
    }
}

/// Arguments of [`quantized`]: codes one a byte, scales and offsets widened to f32.
#[derive(Clone, Copy, Debug)]
pub struct Quantized<'a> {
    /// How x enters the dot products.
    pub kind: OperandKind,
    /// How weights are stored; K is a multiple of its scale block.
    pub format: Format,
    /// Inputs per output.
    pub k: usize,
    /// `[M, K]`.
    pub x: &'a [f32],
    /// `[N, K]`.
    pub codes: &'a [u8],
    /// `[N, K / block]`.
    pub scales: &'a [f32],
    /// As `scales`; empty in a format without offsets.
    pub offsets: &'a [f32],
    /// `[N]`.
    pub factors: &'a [f32],
    /// `[N]`.
    pub bias: Option<&'a [f32]>,
    /// Applied to every output.
    pub epilogue: Epilogue,
}

/// `[M, N]`.
///
/// # Panics
/// If the lengths do not agree.
pub fn quantized(args: Quantized<'_>) -> Vec<f32> {
    let Quantized { kind, k, x, .. } = args;
    let mut out = Vec::new();
    for x in x.chunks_exact(k) {
        let x: Vec<f32> = match kind {
            OperandKind::F32 => x.to_vec(),
            OperandKind::Bf16 => x
                .iter()
                .map(|&x| round::bf16_widen(round::bf16_operand(x)))
                .collect(),
        };
        for n in 0..args.factors.len() {
            let mut y = total(&args, &x, n) * args.factors[n];
            if let Some(bias) = args.bias {
                y += bias[n];
            }
            out.push(finish(y, args.epilogue));
        }
    }
    out
}

fn total(args: &Quantized<'_>, x: &[f32], n: usize) -> f32 {
    let Quantized {
        kind, format, k, ..
    } = *args;
    let codes = &args.codes[n * k..][..k];
    let mut tot = 0.0;
    for start in (0..k).step_by(K_BLOCK) {
        let end = k.min(start + K_BLOCK);
        let (x, codes) = (&x[start..end], &codes[start..end]);
        let Some(blocks) = format.blocks else {
            tot += chain(kind, x, codes, |c| format.codes.value(c));
            continue;
        };
        let mut acc = 0.0;
        for (b, (x, codes)) in x
            .chunks_exact(blocks.len)
            .zip(codes.chunks_exact(blocks.len))
            .enumerate()
        {
            let at = n * (k / blocks.len) + start / blocks.len + b;
            let c = chain(kind, x, codes, |c| format.codes.value(c));
            acc = fma(args.scales[at], c, acc);
            if blocks.offset.is_some() {
                acc = fma(args.offsets[at], chain(kind, x, codes, |_| 1.0), acc);
            }
        }
        tot += acc;
    }
    tot
}

/// The kind's chain from +0 over one run of k that starts at an even one.
fn chain(kind: OperandKind, x: &[f32], codes: &[u8], value: impl Fn(u8) -> f32) -> f32 {
    let step = |i: usize, p: f32| match codes.get(i) {
        Some(&code) => fma(x[i], value(code), p),
        None => p,
    };
    let mut p = 0.0;
    for i in (0..codes.len()).step_by(2) {
        p = match kind {
            OperandKind::F32 => step(i + 1, step(i, p)),
            OperandKind::Bf16 => step(i, step(i + 1, p)),
        };
    }
    p
}

/// One dot product of the kind, NaN canonical; both sides are brought to operands.
pub(crate) fn dot(kind: OperandKind, x: &[f32], w: &[f32]) -> f32 {
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
