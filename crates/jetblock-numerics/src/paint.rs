//! Test inputs given by a formula, so that any language can make them and golden files need no data.
//!
//! Integers and exact scalings only: no rounding happens.

/// A hash of (seed, index) with well mixed bits: `lowbias32(lowbias32(seed) + index)`, wrapping.
#[inline]
pub fn hash(seed: u32, index: u32) -> u32 {
    lowbias32(lowbias32(seed).wrapping_add(index))
}

/// Chris Wellons' two-multiplication integer hash.
#[inline]
pub fn lowbias32(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x7FEB_352D);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846C_A68B);
    x ^ x >> 16
}

/// A value in (-2, 2), close to uniform: exponent 0 for half of the indices, -1 for a quarter, down to -8.
///
/// Bit 31 of the hash is the sign, bits 0 to 22 are the fraction, and the exponent is minus the number of trailing
/// zeros of bits 23 to 30 (8 if all are zero).
#[inline]
pub fn uniform(seed: u32, index: u32) -> f32 {
    let h = hash(seed, index);
    let zeros = (h >> 23 & 0xFF | 0x100).trailing_zeros();
    f32::from_bits(h & 0x807F_FFFF | (127 - zeros) << 23)
}

/// A value with magnitude between 2^-20 and 2^20, exponents equally likely.
///
/// Sign and fraction as in [`uniform`]; the exponent is `floor(40 * e / 256) - 20` for e = bits 23 to 30.
#[inline]
pub fn wide(seed: u32, index: u32) -> f32 {
    let h = hash(seed, index);
    let step = ((h >> 23 & 0xFF) * 40) >> 8;
    f32::from_bits(h & 0x807F_FFFF | (127 - 20 + step) << 23)
}

/// Any f32 at all, NaN and infinities included: the hash read as bits.
#[inline]
pub fn raw(seed: u32, index: u32) -> f32 {
    f32::from_bits(hash(seed, index))
}

/// `count` values of [`uniform`], indices 0, 1, ...
pub fn uniform_vec(seed: u32, count: usize) -> Vec<f32> {
    (0..count).map(|i| uniform(seed, i as u32)).collect()
}
