//! Elementary functions: fixed sequences of the operations of [`Lanes`], given step by step in NUMERICS.md section 5.
//!
//! They are branch-free and written once for scalars and vectors, so every instruction set computes the same bits.
//! Constants come from `derive_constants.py`. Each function returns the canonical NaN for a NaN argument. The largest
//! error of each over all 2^32 arguments is in NUMERICS.md section 5.8, measured by `examples/exhaustive.rs`.
//!
//! [`sin`], [`cos`] and [`pow`] fill tables on the host and are scalar; they round the functions of [`binary64`].

pub mod binary64;

mod erf_gelu;
mod exp;
mod log;
mod sigmoid;
mod sin_pow;
mod tanh_gelu;

pub use erf_gelu::{erf, gelu_erf};
pub use exp::{exp, exp2};
pub use log::{log, log1p, softplus};
pub use sigmoid::{relu2, rsqrt, sigmoid, silu};
pub use sin_pow::{cos, pow, sin};
pub use tanh_gelu::{gelu_tanh, tanh};

use crate::lanes::Lanes;

/// The float with these bits in every lane.
#[inline(always)]
fn bits<V: Lanes>(bits: u32) -> V {
    V::splat(f32::from_bits(bits))
}

/// `c[0] x^(N-1) + ... + c[N-1]` by Horner's rule, one fma for each step. Coefficients are given as bits.
#[inline(always)]
fn horner<V: Lanes, const N: usize>(x: V, c: [u32; N]) -> V {
    let mut y = bits::<V>(c[0]);
    for &c in &c[1..] {
        y = y.fma(x, bits(c));
    }
    y
}

/// `magnitude` (not negative) with the sign bit of `sign`.
#[inline(always)]
fn with_sign<V: Lanes>(magnitude: V, sign: V) -> V {
    let sign = V::int_and(sign.to_bits(), V::splat_int(i32::MIN));
    V::from_bits(V::int_or(magnitude.to_bits(), sign))
}
