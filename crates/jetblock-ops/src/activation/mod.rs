//! Elementary functions of each element: `y[i] = f(x[i])`.
//!
//! | name       | f                                   | source |
//! |------------|-------------------------------------|--------|
//! | Relu2      | `r * r` with `r = max(x, +0)`       | So et al. 2021, "Primer" |
//! | Silu       | `x / (1 + exp(-x))`                 | Elfwing et al. 2017 |
//! | Sigmoid    | `1 / (1 + exp(-x))`                 | |
//! | Softplus   | `x > 20 ? x : log1p(exp(x))`        | |
//! | GeluTanh   | the tanh form of gelu               | Hendrycks and Gimpel 2016 |
//! | GeluErf    | `x * Phi(x)`                        | Hendrycks and Gimpel 2016 |
//! | Exp, Exp2, Log, Log1p, Tanh, Erf | as named      | |
//! | Sin, Cos   | as named; computed in binary64, so not at vector speed | |
//! | Rsqrt      | `1 / sqrt(x)`                       | |
//!
//! [`pow`] raises to one exponent, which has its own rule for the usual ones.
//!
//! | name | shape | dtype |
//! |------|-------|-------|
//! | x, y | `[n]` | f32   |
//!
//! Rounding points: every operation of the sequences in NUMERICS.md section 5.

mod cpu;
mod power;
mod reference;
#[cfg(test)]
mod tests;

pub use power::{pow, pow_reference};

use crate::OpError;

/// The function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// Square of the positive part.
    Relu2,
    /// `x * sigmoid(x)`.
    Silu,
    /// The logistic function.
    Sigmoid,
    /// A smooth positive part.
    Softplus,
    /// Gelu by its tanh approximation.
    GeluTanh,
    /// Gelu by the error function.
    GeluErf,
    /// e to the power x.
    Exp,
    /// 2 to the power x.
    Exp2,
    /// Natural logarithm.
    Log,
    /// Natural logarithm of 1 + x.
    Log1p,
    /// Hyperbolic tangent.
    Tanh,
    /// The error function.
    Erf,
    /// Sine.
    Sin,
    /// Cosine.
    Cos,
    /// One over the square root.
    Rsqrt,
}

impl Activation {
    const NAME: &'static str = "activation";

    /// All functions.
    pub const ALL: [Activation; 15] = [
        Activation::Relu2,
        Activation::Silu,
        Activation::Sigmoid,
        Activation::Softplus,
        Activation::GeluTanh,
        Activation::GeluErf,
        Activation::Exp,
        Activation::Exp2,
        Activation::Log,
        Activation::Log1p,
        Activation::Tanh,
        Activation::Erf,
        Activation::Sin,
        Activation::Cos,
        Activation::Rsqrt,
    ];

    fn check<T>(x: &[T], out: &[T]) -> Result<(), OpError> {
        OpError::check_len(Self::NAME, "out [n]", out.len(), x.len())
    }
}
