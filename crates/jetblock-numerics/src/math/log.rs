//! log, log1p and softplus.

use super::exp::exp;
use super::{bits, horner};
use crate::lanes::Lanes;
use crate::round::nan;

const LN2: u32 = 0x3F31_7218;
/// Bits of 0.75: arguments are scaled by a power of two into [0.75, 1.5).
const SPLIT: i32 = 0x3F40_0000;
const EXPONENT_MASK: i32 = 0xFF80_0000_u32.cast_signed();
/// 2^-126, the least normal number.
const LEAST_NORMAL: u32 = 0x0080_0000;

/// (log(1 + m) - m) / m^2 on [-0.25, 0.5], highest power first.
const LOG_POLY: [u32; 9] = [
    0xBD38_B9F1,
    0x3DD6_5F5C,
    0xBE06_CBA4,
    0x3E14_42A3,
    0xBE2A_774A,
    0x3E4C_B4B7,
    0xBE80_0022,
    0x3EAA_AAD2,
    0xBF00_0000,
];

/// Natural logarithm; log(0) is -infinity, a negative argument gives NaN.
#[inline(always)]
pub fn log<V: Lanes>(x: V) -> V {
    let small = x.lt(bits(LEAST_NORMAL));
    let normal = V::select(small, x.mul(V::splat(8_388_608.0)), x);
    let scale = V::int_and(
        V::int_sub(normal.to_bits(), V::splat_int(SPLIT)),
        V::splat_int(EXPONENT_MASK),
    );
    let m = V::from_bits(V::int_sub(normal.to_bits(), scale)).sub(V::splat(1.0));
    let n =
        V::from_int(V::int_shr::<23>(scale)).add(V::select(small, V::splat(-23.0), V::splat(0.0)));
    let y = log_sum(m, n);
    let y = V::select(x.eq(V::splat(f32::INFINITY)), x, y);
    let outside = V::select(x.eq(V::splat(0.0)), V::splat(f32::NEG_INFINITY), nan());
    V::select(V::splat(0.0).lt(x), y, outside)
}

/// log(1 + x), accurate for small x; log1p(-1) is -infinity, below -1 it is NaN; log1p(-0) = -0.
#[inline(always)]
pub fn log1p<V: Lanes>(x: V) -> V {
    let y = V::select(x.eq(V::splat(f32::INFINITY)), x, log1p_inside(x));
    let y = V::select(x.eq(V::splat(0.0)), x, y);
    let outside = V::select(x.eq(V::splat(-1.0)), V::splat(f32::NEG_INFINITY), nan());
    V::select(V::splat(-1.0).lt(x), y, outside)
}

/// x > 20 ? x : log1p(exp(x)).
#[inline(always)]
pub fn softplus<V: Lanes>(x: V) -> V {
    // exp(x) is +0, or positive and finite, where this branch is taken: log1p needs none of its edges.
    let y = V::select(V::splat(20.0).lt(x), x, log1p_inside(exp(x)));
    V::select(x.is_nan(), nan(), y)
}

/// log1p for finite x > -1 other than -0.
///
/// With 1 + x = 2^n (1 + m), both terms of m = 2^-n x + (2^-n - 1) are exact, so the rounding of 1 + x is
/// harmless: it only chooses n.
#[inline(always)]
fn log1p_inside<V: Lanes>(x: V) -> V {
    let u = x.add(V::splat(1.0));
    let scale = V::int_and(
        V::int_sub(u.to_bits(), V::splat_int(SPLIT)),
        V::splat_int(EXPONENT_MASK),
    );
    let x = V::from_bits(V::int_sub(x.to_bits(), scale));
    // 4 * 2^-n, since 2^-n itself is subnormal for the largest x.
    let four = V::from_bits(V::int_sub(V::splat(4.0).to_bits(), scale));
    let m = x.add(four.fma(V::splat(0.25), V::splat(-1.0)));
    log_sum(m, V::from_int(V::int_shr::<23>(scale)))
}

/// log(2^n (1 + m)) for m in [-0.25, 0.5).
#[inline(always)]
fn log_sum<V: Lanes>(m: V, n: V) -> V {
    let r = horner(m, LOG_POLY).fma(m.mul(m), m);
    n.fma(bits(LN2), r)
}
