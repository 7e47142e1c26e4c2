//! exp and exp2.

use super::{bits, horner};
use crate::lanes::Lanes;
use crate::round::nan;

/// 1.5 * 2^23: added to a small float, it rounds it to an integer, which is then in the low bits.
const ROUND: u32 = 0x4B40_0000;
const LOG2_E: u32 = 0x3FB8_AA3B;
const NEG_LN2_HI: u32 = 0xBF31_7218;
const NEG_LN2_LO: u32 = 0x3102_E308;

/// -87.33654: the least argument whose exponential is a normal number.
const EXP_LEAST: u32 = 0xC2AE_AC4F;
/// 88.72283: the greatest argument whose exponential is finite.
const EXP_GREATEST: u32 = 0x42B1_7217;

/// (e^r - 1 - r) / r^2 on |r| <= ln2 / 2, highest power first.
const EXP_POLY: [u32; 5] = [
    0x3AB5_27A9,
    0x3C09_1CBE,
    0x3D2A_AC57,
    0x3E2A_AA49,
    0x3EFF_FFFE,
];
/// (2^r - 1) / r on |r| <= 1/2.
const EXP2_POLY: [u32; 6] = [
    0x3920_BD4E,
    0x3AAF_84A4,
    0x3C1D_96E9,
    0x3D63_57BD,
    0x3E75_FDEE,
    0x3F31_7218,
];

/// e^x; +0 below -87.33654 (where the result would be subnormal), infinite above 88.72283.
#[inline(always)]
pub fn exp<V: Lanes>(x: V) -> V {
    let (shifted, r) = reduce(x);
    finish(x, shifted, r)
}

/// e^(x + low) for |low| far below |x|; decides under- and overflow by `x` alone.
#[inline(always)]
pub(super) fn exp_sum<V: Lanes>(x: V, low: V) -> V {
    let (shifted, r) = reduce(x);
    finish(x, shifted, r.add(low))
}

/// x = n ln2 + r: `shifted` holds n in its low bits.
#[inline(always)]
fn reduce<V: Lanes>(x: V) -> (V, V) {
    let shifted = x.fma(bits(LOG2_E), bits(ROUND));
    let n = shifted.sub(bits(ROUND));
    // The first step is exact: the cancelled difference has no bit below 2^-24.
    let r = n.fma(bits(NEG_LN2_HI), x);
    (shifted, n.fma(bits(NEG_LN2_LO), r))
}

#[inline(always)]
fn finish<V: Lanes>(x: V, shifted: V, r: V) -> V {
    let one = V::splat(1.0);
    let p = horner(r, EXP_POLY).fma(r, one).fma(r, one);
    let y = times_power_of_two(p, shifted);
    edges(x, y, bits(EXP_LEAST), bits(EXP_GREATEST))
}

/// 2^x; +0 below -126, infinite from 128.
#[inline(always)]
pub fn exp2<V: Lanes>(x: V) -> V {
    let shifted = x.add(bits(ROUND));
    let r = x.sub(shifted.sub(bits(ROUND)));
    let p = horner(r, EXP2_POLY).fma(r, V::splat(1.0));
    let y = times_power_of_two(p, shifted);
    // 0x42FFFFFF is the predecessor of 128.
    edges(x, y, V::splat(-126.0), bits(0x42FF_FFFF))
}

/// Adds n to the exponent of p. Between the edges the result is normal: at n = -126 p is at least 1, at n = 128 it
/// is less than 1.
#[inline(always)]
fn times_power_of_two<V: Lanes>(p: V, shifted: V) -> V {
    V::from_bits(V::int_add(p.to_bits(), V::int_shl::<23>(shifted.to_bits())))
}

#[inline(always)]
fn edges<V: Lanes>(x: V, y: V, least: V, greatest: V) -> V {
    let y = V::select(x.lt(least), V::splat(0.0), y);
    let y = V::select(greatest.lt(x), V::splat(f32::INFINITY), y);
    V::select(x.is_nan(), nan(), y)
}
