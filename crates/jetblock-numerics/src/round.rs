//! Conversions between dtypes, the canonical NaN, and maximum and minimum.
//!
//! Every conversion rounds to nearest even once and keeps subnormals. A NaN becomes the dtype's canonical NaN,
//! because payloads and signs of NaN differ between instruction sets.

use crate::lanes::Lanes;

/// The NaN that operators store in f32.
pub const NAN_F32: u32 = 0x7FC0_0000;
/// The NaN that operators store in bf16.
pub const NAN_BF16: u16 = 0x7FC0;
/// The NaN that operators store in f16.
pub const NAN_F16: u16 = 0x7E00;

/// Bits of 2^-50: bf16 operands of smaller magnitude are replaced by +0 ([`bf16_operand`]).
pub const OPERAND_MIN: u32 = 0x2680_0000;

/// Any NaN becomes [`NAN_F32`]; everything else is unchanged.
#[inline(always)]
pub fn canonical<V: Lanes>(x: V) -> V {
    V::select(x.is_nan(), nan(), x)
}

/// [`NAN_F32`] in every lane.
#[inline(always)]
pub(crate) fn nan<V: Lanes>() -> V {
    V::from_bits(V::splat_int(NAN_F32.cast_signed()))
}

/// The larger value; NaN if either is NaN; +0 is larger than -0.
#[inline(always)]
pub fn max<V: Lanes>(a: V, b: V) -> V {
    // Where the operands compare equal they differ at most in the sign of zero: `and` prefers +0.
    let equal = V::from_bits(V::int_and(a.to_bits(), b.to_bits()));
    let larger = V::select(a.lt(b), b, a);
    let ordered = V::select(a.eq(b), equal, larger);
    V::select(a.is_nan(), nan(), V::select(b.is_nan(), nan(), ordered))
}

/// The smaller value; NaN if either is NaN; -0 is smaller than +0.
#[inline(always)]
pub fn min<V: Lanes>(a: V, b: V) -> V {
    let equal = V::from_bits(V::int_or(a.to_bits(), b.to_bits()));
    let smaller = V::select(b.lt(a), b, a);
    let ordered = V::select(a.eq(b), equal, smaller);
    V::select(a.is_nan(), nan(), V::select(b.is_nan(), nan(), ordered))
}

/// f32 to bf16, in the upper half of each lane; the lower half is zero.
///
/// Reading the result as f32 is the widened bf16.
#[inline(always)]
pub fn bf16_round<V: Lanes>(x: V) -> V {
    let bits = x.to_bits();
    // Half a unit minus one, plus one if the kept part is odd: ties go to even, and overflow carries into infinity.
    let odd = V::int_and(V::int_ushr::<16>(bits), V::splat_int(1));
    let sum = V::int_add(bits, V::int_add(odd, V::splat_int(0x7FFF)));
    let rounded = V::from_bits(V::int_and(sum, V::splat_int(0xFFFF_0000_u32.cast_signed())));
    V::select(x.is_nan(), nan(), rounded)
}

/// [`bf16_round`], then +0 in place of magnitudes below 2^-50: how a value enters a dot product of the bf16 kind.
#[inline(always)]
pub fn bf16_operand_round<V: Lanes>(x: V) -> V {
    let y = bf16_round(x);
    V::select(
        y.abs().lt(V::splat(f32::from_bits(OPERAND_MIN))),
        V::splat(0.0),
        y,
    )
}

/// f32 to bf16.
#[inline]
pub fn f32_to_bf16(x: f32) -> u16 {
    (f32::to_bits(bf16_round(x)) >> 16) as u16
}

/// bf16 to f32, exact; NaN becomes canonical.
#[inline]
pub fn bf16_to_f32(x: u16) -> f32 {
    canonical(bf16_widen(x))
}

/// bf16 to f32 as a bit copy, which leaves a NaN as it is. For operands inside a chain, where no NaN is stored.
#[inline(always)]
pub fn bf16_widen(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

/// f32 to a bf16 operand: rounded to bf16, then magnitudes below 2^-50 become +0.
#[inline]
pub fn bf16_operand(x: f32) -> u16 {
    (f32::to_bits(bf16_operand_round(x)) >> 16) as u16
}

/// f32 to f16.
#[inline]
pub fn f32_to_f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    let magnitude = bits & 0x7FFF_FFFF;
    if magnitude > 0x7F80_0000 {
        return NAN_F16;
    }
    // 65520 is the tie between the largest f16 and 2^16: it and everything above is infinite.
    if magnitude >= 0x477F_F000 {
        return sign | 0x7C00;
    }
    // From 2^-14 on, the exponent is rebiased by 112 and 13 bits are rounded off, as in `bf16_round`.
    if magnitude >= 0x3880_0000 {
        let odd = magnitude >> 13 & 1;
        return sign | ((magnitude - (112 << 23) + 0xFFF + odd) >> 13) as u16;
    }
    // Below, the result counts units of 2^-24. Adding 0.5 puts exactly that unit at the end of an f32.
    let units = f32::from_bits(magnitude) + 0.5;
    sign | (units.to_bits() - 0.5_f32.to_bits()) as u16
}

/// f16 to f32, exact; NaN becomes canonical.
#[inline]
pub fn f16_to_f32(x: u16) -> f32 {
    let sign = u32::from(x & 0x8000) << 16;
    let magnitude = u32::from(x & 0x7FFF);
    if magnitude > 0x7C00 {
        return f32::from_bits(NAN_F32);
    }
    if magnitude == 0x7C00 {
        return f32::from_bits(sign | 0x7F80_0000);
    }
    if magnitude >= 0x0400 {
        return f32::from_bits(sign | ((magnitude << 13) + (112 << 23)));
    }
    // A subnormal f16 is a count of 2^-24.
    f32::from_bits(sign | (magnitude as f32 * f32::from_bits(0x3380_0000)).to_bits())
}
