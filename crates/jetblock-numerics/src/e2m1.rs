//! The 4-bit float E2M1: codes 0..=7 are 0, 0.5, 1, 1.5, 2, 3, 4, 6, and 8..=15 their negatives (NUMERICS.md section 2).

use crate::lanes::Lanes;

/// The largest value.
pub const MAX: f32 = 6.0;

/// In [2^22, 2^23) an f32 counts units of 0.5.
const COUNTER: f32 = 4_194_304.0;

/// f32 to a code in each lane: nearest, ties to the even code, beyond 6 (infinity too) the largest value.
///
/// The sign bit is that of `x < 0`, as in ModelOpt: -0 gives code 0, but a negative value that rounds to zero gives 8.
/// The format has no NaN: a NaN gives code 0 and must be kept elsewhere ([`crate::nvfp4`] keeps it in the block's
/// scale).
#[inline(always)]
pub fn round<V: Lanes>(x: V) -> V::Int {
    let int = |v: u32| V::splat_int(v.cast_signed());
    let a = x.abs();
    let a = V::select(V::splat(MAX).lt(a), V::splat(MAX), a);
    // The exponent is rebiased by 126 and 22 fraction bits are rounded off, as in `bf16_round`.
    let odd = V::int_and(V::int_ushr::<22>(a.to_bits()), int(1));
    let rebiased = V::int_sub(a.to_bits(), int((126 << 23) - 0x1F_FFFF));
    let normal = V::int_ushr::<22>(V::int_add(rebiased, odd));
    let counted = a.add(V::splat(COUNTER)).to_bits();
    let small = V::int_sub(counted, int(COUNTER.to_bits()));
    let code = V::int_select(a.lt(V::splat(1.0)), small, normal);
    let negative = V::int_or(code, int(8));
    let code = V::int_select(x.lt(V::splat(0.0)), negative, code);
    V::int_select(x.is_nan(), int(0), code)
}

/// The values of codes 0..=15 in each lane, exact.
#[inline(always)]
pub fn widen<V: Lanes>(code: V::Int) -> V {
    let int = |v: u32| V::splat_int(v.cast_signed());
    let a = V::int_and(code, int(7));
    let fields = V::int_shl::<22>(a);
    let normal = V::from_bits(V::int_add(fields, int(126 << 23)));
    // Codes 0 and 1: the fraction follows an implicit 1, which leaves exactly.
    let above = V::from_bits(V::int_add(fields, int(127 << 23)));
    let value = V::select(V::int_gt(int(2), a), above.sub(V::splat(1.0)), normal);
    let sign = V::int_shl::<28>(V::int_and(code, int(8)));
    V::from_bits(V::int_or(value.to_bits(), sign))
}

/// f32 to a code; see [`round`].
#[inline]
pub fn encode(x: f32) -> u8 {
    round::<f32>(x) as u8
}

/// The value of a code's low four bits, exact.
#[inline]
pub fn decode(code: u8) -> f32 {
    widen(i32::from(code & 15))
}
