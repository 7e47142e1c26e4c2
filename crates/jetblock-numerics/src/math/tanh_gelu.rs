//! tanh, and the gelu that is defined by it.

use super::exp::{exp, exp_sum};
use super::{bits, horner, with_sign};
use crate::lanes::Lanes;
use crate::round::{canonical, nan};

/// Below 0.6, 1 - 2 / (e^2x + 1) would cancel.
const TANH_NEAR: u32 = 0x3F19_999A;
/// (tanh(x) / x - 1) / x^2 as a polynomial in x^2, highest power first.
const TANH_POLY: [u32; 5] = [
    0xBBC1_43BB,
    0x3CAA_61E1,
    0xBD5C_4D5D,
    0x3E08_84DF,
    0xBEAA_AA9F,
];

/// 2 sqrt(2/pi), as the sum of two floats.
const GELU_C1_HI: u32 = 0x3FCC_422A;
const GELU_C1_LO: u32 = 0xB342_BC9B;
/// 0.044715 times that.
const GELU_C3_HI: u32 = 0x3D92_2279;
const GELU_C3_LO: u32 = 0x3124_D8B5;

/// Hyperbolic tangent.
#[inline(always)]
pub fn tanh<V: Lanes>(x: V) -> V {
    let a = x.abs();
    let s = a.mul(a);
    let near = horner(s, TANH_POLY).fma(a.mul(s), a);
    let one = V::splat(1.0);
    let far = one.sub(V::splat(2.0).div(exp(a.add(a)).add(one)));
    let y = V::select(a.lt(bits(TANH_NEAR)), near, far);
    V::select(x.is_nan(), nan(), with_sign(y, x))
}

/// x / 2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), computed as x / (1 + e^w) with
/// w = -x (c1 + c3 x^2): that form has no cancellation for negative x. -0 below about -10.03.
///
/// |w| reaches 88 and its absolute error is the relative error of e^w, so w is a sum of two floats.
#[inline(always)]
pub fn gelu_tanh<V: Lanes>(x: V) -> V {
    let floor = V::splat(-14.0);
    let ceil = V::splat(14.0);
    let x = V::select(x.lt(floor), floor, x);
    let z = V::select(ceil.lt(x), ceil, x);
    let q = z.mul(z);
    let q_low = z.fma(z, q.neg());
    let c1 = bits::<V>(GELU_C1_HI);
    let c3 = bits::<V>(GELU_C3_HI);
    let t = c3.mul(q);
    let t_low = bits::<V>(GELU_C3_LO).fma(q, c3.fma(q_low, c3.fma(q, t.neg())));
    // TwoSum (Knuth): s + s_low = c1 + t exactly.
    let s = c1.add(t);
    let back = s.sub(c1);
    let s_low = c1.sub(s.sub(back)).add(t.sub(back));
    let s_low = s_low.add(t_low.add(bits(GELU_C1_LO)));
    let z = z.neg();
    let w = z.mul(s);
    let w_low = z.fma(s_low, z.fma(s, w.neg()));
    canonical(x.div(V::splat(1.0).add(exp_sum(w, w_low))))
}
