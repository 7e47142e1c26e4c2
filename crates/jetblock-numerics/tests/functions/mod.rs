//! The functions of one argument, each with a binary64 oracle. Shared by the accuracy test and `exhaustive`.

use jetblock_numerics::{e4m3, math};

/// A function under test.
pub(crate) struct Function {
    /// Its name in NUMERICS.md.
    pub(crate) name: &'static str,
    /// Applies it to a slice.
    pub(crate) apply: fn(&[f32], &mut [f32]),
    /// The exact function, to binary64 precision.
    pub(crate) oracle: fn(f64) -> f64,
    /// Largest error in units in the last place, as NUMERICS.md states it.
    pub(crate) bound: f64,
    /// Arguments whose result is documented as this zero although the exact one is not.
    pub(crate) flush: Option<Flush>,
}

/// Results that are replaced by a zero.
pub(crate) struct Flush {
    /// Arguments below this one are flushed.
    pub(crate) below: f32,
    /// What they become.
    pub(crate) to: f32,
    /// Largest magnitude of an exact result that is lost.
    pub(crate) lost: f64,
}

/// Expands to a loop that the compiler can vectorise: `|x, y| for (x, y) in zip { *y = math::exp(*x) }`.
macro_rules! apply {
    ($f:path) => {
        |x, y| {
            for (x, y) in x.iter().zip(y) {
                *y = $f(*x);
            }
        }
    };
}

fn plain(
    name: &'static str,
    apply: fn(&[f32], &mut [f32]),
    oracle: fn(f64) -> f64,
    bound: f64,
) -> Function {
    Function {
        name,
        apply,
        oracle,
        bound,
        flush: None,
    }
}

/// Every function of one argument.
#[expect(
    clippy::disallowed_methods,
    reason = "the platform's binary64 functions are the oracle"
)]
pub(crate) fn all() -> Vec<Function> {
    let flush = |function: Function, below: u32, to: f32, lost: f64| Function {
        flush: Some(Flush {
            below: f32::from_bits(below),
            to,
            lost,
        }),
        ..function
    };
    vec![
        flush(
            plain("exp", apply!(math::exp), f64::exp, 1.0),
            0xC2AE_AC4F,
            0.0,
            1.1755e-38,
        ),
        flush(
            plain("exp2", apply!(math::exp2), f64::exp2, 1.0),
            0xC2FC_0000,
            0.0,
            1.1755e-38,
        ),
        plain("log", apply!(math::log), f64::ln, 1.0),
        plain("log1p", apply!(math::log1p), f64::ln_1p, 1.3),
        flush(
            plain("softplus", apply!(math::softplus), softplus, 2.0),
            0xC2AE_AC4F,
            0.0,
            1.1755e-38,
        ),
        flush(
            plain(
                "sigmoid",
                apply!(math::sigmoid),
                |x| 1.0 / (1.0 + (-x).exp()),
                3.0,
            ),
            0xC2B1_7217,
            0.0,
            2.94e-39,
        ),
        flush(
            plain("silu", apply!(math::silu), |x| x / (1.0 + (-x).exp()), 3.0),
            0xC2B1_7217,
            -0.0,
            2.61e-37,
        ),
        plain("tanh", apply!(math::tanh), f64::tanh, 2.0),
        flush(
            plain("gelu_tanh", apply!(math::gelu_tanh), gelu_tanh, 4.0),
            0xC120_F9B7,
            -0.0,
            2.96e-38,
        ),
        plain("erf", apply!(math::erf), libm::erf, 2.0),
        flush(
            plain("gelu_erf", apply!(math::gelu_erf), gelu_erf, 4.5),
            0xC153_765A,
            -0.0,
            4.67e-39,
        ),
        plain("rsqrt", apply!(math::rsqrt), |x| 1.0 / x.sqrt(), 1.5),
        plain(
            "relu2",
            apply!(math::relu2),
            |x| if x > 0.0 { x * x } else { 0.0 },
            0.5,
        ),
        plain("sin", apply!(math::sin), f64::sin, 0.501),
        plain("cos", apply!(math::cos), f64::cos, 0.501),
        plain("e4m3", apply!(through_e4m3), nearest_e4m3, 0.0),
    ]
}

/// f32 to E4M3 and back.
fn through_e4m3(x: f32) -> f32 {
    e4m3::decode(e4m3::encode(x))
}

/// The E4M3 value nearest to `x`, of two the one with an even fraction, by comparing distances.
fn nearest_e4m3(x: f64) -> f64 {
    // Steps of 2^-9 below 2^-5; from there on eight between two powers of two.
    let a = x.abs().min(448.0);
    let mut step = 1.0 / 512.0;
    while a >= 16.0 * step {
        step *= 2.0;
    }
    let below = (a / step).floor() * step;
    let above = below + step;
    let nearest = if a - below < above - a {
        below
    } else if above - a < a - below || (below / step) % 2.0 == 1.0 {
        above
    } else {
        below
    };
    if x.is_nan() { x } else { nearest.copysign(x) }
}

#[expect(clippy::disallowed_methods, reason = "oracle")]
fn softplus(x: f64) -> f64 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

#[expect(clippy::disallowed_methods, reason = "oracle")]
fn gelu_tanh(x: f64) -> f64 {
    if x == f64::NEG_INFINITY {
        return -0.0;
    }
    let c = (2.0 / std::f64::consts::PI).sqrt();
    x / (1.0 + (-2.0 * c * (x + 0.044715 * x * x * x)).exp())
}

fn gelu_erf(x: f64) -> f64 {
    if x == f64::NEG_INFINITY {
        return -0.0;
    }
    0.5 * x * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)
}

impl Function {
    /// Error of `y = f(x)` in units in the last place; infinite where an edge case is wrong.
    pub(crate) fn error(&self, x: f32, y: f32) -> f64 {
        let wrong = |is_wrong: bool| if is_wrong { f64::INFINITY } else { 0.0 };
        let exact = (self.oracle)(f64::from(x));
        if exact.is_nan() || x.is_nan() {
            return wrong(y.to_bits() != 0x7FC0_0000);
        }
        if let Some(flush) = &self.flush
            && x < flush.below
        {
            return wrong(y.to_bits() != flush.to.to_bits() || exact.abs() > flush.lost);
        }
        if !y.is_finite() || (exact as f32).is_infinite() {
            return wrong(y != exact as f32);
        }
        if exact == 0.0 {
            return wrong(y != 0.0 || y.is_sign_negative() != exact.is_sign_negative());
        }
        let exponent = (((exact.to_bits() >> 52) & 0x7FF) as i32 - 1023).max(-126);
        let unit = f64::from_bits(((1023 + exponent - 23) as u64) << 52);
        (f64::from(y) - exact).abs() / unit
    }
}
