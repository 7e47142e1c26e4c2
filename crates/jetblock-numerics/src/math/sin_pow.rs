//! sin, cos and pow of f32: the binary64 functions, rounded.

use super::binary64;
use crate::round::canonical;

/// Sine, rounded from binary64; NaN at the infinities.
pub fn sin(x: f32) -> f32 {
    canonical(binary64::sin(f64::from(x)) as f32)
}

/// Cosine, rounded from binary64; NaN at the infinities.
pub fn cos(x: f32) -> f32 {
    canonical(binary64::cos(f64::from(x)) as f32)
}

/// x^y, rounded from binary64, with the special cases of IEEE 754: x^0 = 1^y = 1 even for NaN.
pub fn pow(x: f32, y: f32) -> f32 {
    canonical(binary64::pow(f64::from(x), f64::from(y)) as f32)
}
