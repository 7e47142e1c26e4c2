//! sigmoid, silu, relu2 and rsqrt: short compositions.

use super::exp::exp;
use crate::lanes::Lanes;
use crate::round::{canonical, max};

/// 1 / (1 + exp(-x)).
#[inline(always)]
pub fn sigmoid<V: Lanes>(x: V) -> V {
    let one = V::splat(1.0);
    canonical(one.div(one.add(exp(x.neg()))))
}

/// x / (1 + exp(-x)); -0 below -88.72283, NaN at -infinity (infinity over infinity).
#[inline(always)]
pub fn silu<V: Lanes>(x: V) -> V {
    canonical(x.div(V::splat(1.0).add(exp(x.neg()))))
}

/// r * r with r = max(x, +0).
#[inline(always)]
pub fn relu2<V: Lanes>(x: V) -> V {
    let r = max(x, V::splat(0.0));
    canonical(r.mul(r))
}

/// 1 / sqrt(x): both rounded.
#[inline(always)]
pub fn rsqrt<V: Lanes>(x: V) -> V {
    canonical(V::splat(1.0).div(x.sqrt()))
}
