//! The vocabulary in which the contract's functions are written.
//!
//! [`Lanes`] is a group of `f32` values, each computed alone: no operation mixes lanes. `f32` itself is the
//! one-lane case. Because a function such as [`crate::math::exp`] is written once over this trait, its scalar,
//! AVX2, AVX-512 and NEON executions have the same bits by construction.

use crate::fma::fma;

/// A group of `f32` lanes with IEEE binary32 operations: round to nearest even, subnormals kept, no contraction.
pub trait Lanes: Copy {
    /// As many `i32` lanes.
    type Int: Copy;
    /// As many truth values.
    type Mask: Copy;

    /// The same value in every lane.
    fn splat(v: f32) -> Self;
    /// The same integer in every lane.
    fn splat_int(v: i32) -> Self::Int;

    /// `self + b`, rounded once.
    fn add(self, b: Self) -> Self;
    /// `self - b`, rounded once.
    fn sub(self, b: Self) -> Self;
    /// `self * b`, rounded once.
    fn mul(self, b: Self) -> Self;
    /// `self / b`, rounded once.
    fn div(self, b: Self) -> Self;
    /// `self * b + c`, rounded once.
    fn fma(self, b: Self, c: Self) -> Self;
    /// Square root, rounded once.
    fn sqrt(self) -> Self;

    /// The bit patterns.
    fn to_bits(self) -> Self::Int;
    /// The floats with these bit patterns.
    fn from_bits(bits: Self::Int) -> Self;
    /// Wrapping integer sum.
    fn int_add(a: Self::Int, b: Self::Int) -> Self::Int;
    /// Wrapping integer difference.
    fn int_sub(a: Self::Int, b: Self::Int) -> Self::Int;
    /// Bitwise and.
    fn int_and(a: Self::Int, b: Self::Int) -> Self::Int;
    /// Bitwise or.
    fn int_or(a: Self::Int, b: Self::Int) -> Self::Int;
    /// Bitwise exclusive or.
    fn int_xor(a: Self::Int, b: Self::Int) -> Self::Int;
    /// Shift left by a constant.
    fn int_shl<const N: u32>(a: Self::Int) -> Self::Int;
    /// Arithmetic shift right by a constant.
    fn int_shr<const N: u32>(a: Self::Int) -> Self::Int;
    /// Logical shift right by a constant.
    fn int_ushr<const N: u32>(a: Self::Int) -> Self::Int;
    /// Signed `a > b`.
    fn int_gt(a: Self::Int, b: Self::Int) -> Self::Mask;
    /// `a == b`.
    fn int_eq(a: Self::Int, b: Self::Int) -> Self::Mask;
    /// Exact for |a| < 2^24, else rounded to nearest even.
    fn from_int(a: Self::Int) -> Self;

    /// Ordered `self < b`: false where either is NaN.
    fn lt(self, b: Self) -> Self::Mask;
    /// Ordered `self <= b`: false where either is NaN.
    fn le(self, b: Self) -> Self::Mask;
    /// Ordered `self == b`: false where either is NaN.
    fn eq(self, b: Self) -> Self::Mask;
    /// True where the lane is NaN.
    fn is_nan(self) -> Self::Mask;
    /// Lane-wise `m ? a : b`.
    fn select(m: Self::Mask, a: Self, b: Self) -> Self;
    /// Lane-wise `m ? a : b` on integers.
    fn int_select(m: Self::Mask, a: Self::Int, b: Self::Int) -> Self::Int;

    /// `-self`, by the sign bit (also of NaN).
    #[inline(always)]
    fn neg(self) -> Self {
        Self::from_bits(Self::int_xor(self.to_bits(), Self::splat_int(i32::MIN)))
    }
    /// `|self|`, by the sign bit (also of NaN).
    #[inline(always)]
    fn abs(self) -> Self {
        Self::from_bits(Self::int_and(self.to_bits(), Self::splat_int(i32::MAX)))
    }
}

impl Lanes for f32 {
    type Int = i32;
    type Mask = bool;

    #[inline(always)]
    fn splat(v: f32) -> f32 {
        v
    }
    #[inline(always)]
    fn splat_int(v: i32) -> i32 {
        v
    }
    #[inline(always)]
    fn add(self, b: f32) -> f32 {
        self + b
    }
    #[inline(always)]
    fn sub(self, b: f32) -> f32 {
        self - b
    }
    #[inline(always)]
    fn mul(self, b: f32) -> f32 {
        self * b
    }
    #[inline(always)]
    fn div(self, b: f32) -> f32 {
        self / b
    }
    #[inline(always)]
    fn fma(self, b: f32, c: f32) -> f32 {
        fma(self, b, c)
    }
    #[inline(always)]
    fn sqrt(self) -> f32 {
        f32::sqrt(self)
    }
    #[inline(always)]
    fn to_bits(self) -> i32 {
        f32::to_bits(self).cast_signed()
    }
    #[inline(always)]
    fn from_bits(bits: i32) -> f32 {
        f32::from_bits(bits.cast_unsigned())
    }
    #[inline(always)]
    fn int_add(a: i32, b: i32) -> i32 {
        a.wrapping_add(b)
    }
    #[inline(always)]
    fn int_sub(a: i32, b: i32) -> i32 {
        a.wrapping_sub(b)
    }
    #[inline(always)]
    fn int_and(a: i32, b: i32) -> i32 {
        a & b
    }
    #[inline(always)]
    fn int_or(a: i32, b: i32) -> i32 {
        a | b
    }
    #[inline(always)]
    fn int_xor(a: i32, b: i32) -> i32 {
        a ^ b
    }
    #[inline(always)]
    fn int_shl<const N: u32>(a: i32) -> i32 {
        a << N
    }
    #[inline(always)]
    fn int_shr<const N: u32>(a: i32) -> i32 {
        a >> N
    }
    #[inline(always)]
    fn int_ushr<const N: u32>(a: i32) -> i32 {
        (a.cast_unsigned() >> N).cast_signed()
    }
    #[inline(always)]
    fn int_gt(a: i32, b: i32) -> bool {
        a > b
    }
    #[inline(always)]
    fn int_eq(a: i32, b: i32) -> bool {
        a == b
    }
    #[inline(always)]
    fn from_int(a: i32) -> f32 {
        a as f32
    }
    #[inline(always)]
    fn lt(self, b: f32) -> bool {
        self < b
    }
    #[inline(always)]
    fn le(self, b: f32) -> bool {
        self <= b
    }
    #[inline(always)]
    fn eq(self, b: f32) -> bool {
        self == b
    }
    #[inline(always)]
    fn is_nan(self) -> bool {
        f32::is_nan(self)
    }
    #[inline(always)]
    fn select(m: bool, a: f32, b: f32) -> f32 {
        if m { a } else { b }
    }
    #[inline(always)]
    fn int_select(m: bool, a: i32, b: i32) -> i32 {
        if m { a } else { b }
    }
}
