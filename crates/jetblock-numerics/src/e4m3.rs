//! The 8-bit float E4M3FN: a sign, four exponent bits of bias 7, three fraction bits, no infinity (NUMERICS.md section 2).
//!
//! Codes 00..7E are 0, 2^-9 (subnormals step by it) up to 448; 7F and FF are NaN.

use crate::lanes::Lanes;
use crate::round;

/// The NaN that operators store.
pub const NAN: u8 = 0x7F;
/// The largest value.
pub const MAX: f32 = 448.0;

/// Least normal value, 2^-6.
const LEAST_NORMAL: f32 = 0.015625;
/// In [2^14, 2^15) an f32 counts units of 2^-9.
const COUNTER: f32 = 16384.0;

/// f32 to a code in each lane: nearest even, beyond 448 (infinity too) the largest value, NaN [`NAN`].
#[inline(always)]
pub fn round<V: Lanes>(x: V) -> V::Int {
    let int = |v: u32| V::splat_int(v.cast_signed());
    let sign = V::int_and(V::int_ushr::<24>(x.to_bits()), int(0x80));
    let a = x.abs();
    let a = V::select(V::splat(MAX).lt(a), V::splat(MAX), a);
    // The exponent is rebiased by 120 and 20 fraction bits are rounded off, as in `bf16_round`.
    let odd = V::int_and(V::int_ushr::<20>(a.to_bits()), int(1));
    let rebiased = V::int_sub(a.to_bits(), int((120 << 23) - 0x7_FFFF));
    let normal = V::int_ushr::<20>(V::int_add(rebiased, odd));
    let counted = a.add(V::splat(COUNTER)).to_bits();
    let small = V::int_sub(counted, int(COUNTER.to_bits()));
    let code = V::int_select(a.lt(V::splat(LEAST_NORMAL)), small, normal);
    let code = V::int_or(code, sign);
    V::int_select(x.is_nan(), int(u32::from(NAN)), code)
}

/// The values of codes 0..=255 in each lane, exact; NaN is canonical.
#[inline(always)]
pub fn widen<V: Lanes>(code: V::Int) -> V {
    let int = |v: u32| V::splat_int(v.cast_signed());
    let a = V::int_and(code, int(0x7F));
    let fields = V::int_shl::<20>(a);
    let normal = V::from_bits(V::int_add(fields, int(120 << 23)));
    // With one exponent more, a subnormal's fraction follows an implicit 2^-6, which leaves exactly.
    let above = V::from_bits(V::int_add(fields, int(121 << 23)));
    let small = above.sub(V::splat(LEAST_NORMAL));
    let value = V::select(V::int_gt(int(8), a), small, normal);
    let sign = V::int_shl::<24>(V::int_and(code, int(0x80)));
    let value = V::from_bits(V::int_or(value.to_bits(), sign));
    V::select(V::int_eq(a, int(0x7F)), round::nan(), value)
}

/// f32 to a code: nearest even, beyond 448 (infinity too) the largest value, NaN [`NAN`].
#[inline]
pub fn encode(x: f32) -> u8 {
    round::<f32>(x) as u8
}

/// The value of a code, exact; NaN is canonical.
#[inline]
pub fn decode(code: u8) -> f32 {
    widen(i32::from(code))
}
