//! erf, and the gelu that is defined by it.

use super::exp::{exp, exp_sum};
use super::{horner, with_sign};
use crate::lanes::Lanes;
use crate::round::nan;

/// erf(x) / x - 1 as a polynomial in x^2 below 0.9375, highest power first.
const ERF_NEAR: [u32; 7] = [
    0x38A7_C722,
    0xBA53_0936,
    0x3BAA_2554,
    0xBCDC_0090,
    0x3DE7_16B2,
    0xBEC0_93A0,
    0x3E03_75D4,
];
/// -log(1 - erf(t)) / t - 1 on [0.9375, 4].
const ERF_FAR: [u32; 7] = [
    0x3747_7199,
    0xB9AC_B335,
    0x3B70_7A08,
    0xBCC3_2097,
    0x3DD9_B5B0,
    0x3F22_969F,
    0x3E03_BF0F,
];
/// (Phi(x) - 1/2) / x as a polynomial in x^2 below 0.75.
const GELU_NEAR: [u32; 5] = [
    0x38CE_33ED,
    0xBA9A_1078,
    0x3C23_5897,
    0xBD88_2BDB,
    0x3ECC_4229,
];
/// (1 + 2z) e^(z^2/2) Phi(-z) as a polynomial in q = (z - 3) / (z + 3).
const GELU_FAR: [u32; 11] = [
    0x389B_A3F9,
    0xB8B5_D8D9,
    0xBA8F_160C,
    0xB99F_A63E,
    0x3BE5_9A73,
    0xBA1D_16ED,
    0xBD53_5837,
    0x3E0B_D1B7,
    0xBE1F_D5A9,
    0x3C5A_B62B,
    0x3F59_C0C4,
];

/// The error function.
#[inline(always)]
pub fn erf<V: Lanes>(x: V) -> V {
    let a = x.abs();
    let near = horner(a.mul(a), ERF_NEAR).fma(a, a);
    // erf(4) is within half a unit of 1.
    let t = V::select(a.lt(V::splat(4.0)), a, V::splat(4.0));
    let far = V::splat(1.0).sub(exp(horner(t, ERF_FAR).fma(t, t).neg()));
    let y = V::select(a.lt(V::splat(0.9375)), near, far);
    V::select(x.is_nan(), nan(), with_sign(y, x))
}

/// x Phi(x), Phi the normal distribution function: x / 2 (1 + erf(x / sqrt 2)) without its cancellation for
/// negative x. -0 below about -13.2.
///
/// Phi(x) is a polynomial near 0. Further out, with z = |x| and h = Phi(-z) = e^(-z^2/2) p(q) / (1 + 2z), the result is
/// -z h or x - z h.
#[inline(always)]
pub fn gelu_erf<V: Lanes>(x: V) -> V {
    let near = x.mul(x.fma(horner(x.mul(x), GELU_NEAR), V::splat(0.5)));
    let a = x.abs();
    // From 13.22 on e^(-z^2/2) is +0.
    let z = V::select(a.lt(V::splat(14.0)), a, V::splat(14.0));
    let half = z.mul(V::splat(-0.5));
    let w = half.mul(z);
    let e = exp_sum(w, half.fma(z, w.neg()));
    let q = z.sub(V::splat(3.0)).div(z.add(V::splat(3.0)));
    let p = horner(q, GELU_FAR);
    // z first: e p / (1 + 2z) alone may be subnormal where the product with z is not.
    let zh = z.mul(e).mul(p).div(z.fma(V::splat(2.0), V::splat(1.0)));
    let far = V::select(x.lt(V::splat(0.0)), zh.neg(), x.sub(zh));
    let y = V::select(a.lt(V::splat(0.75)), near, far);
    V::select(x.is_nan(), nan(), y)
}
