//! Four lanes with aarch64 Advanced SIMD.

use std::arch::aarch64::*;

use jetblock_numerics::lanes::Lanes;
use jetblock_numerics::round;

use crate::{Level, Simd};

/// 4 lanes.
#[derive(Clone, Copy)]
pub(crate) struct F32x4(float32x4_t);

/// Calls intrinsics that need no more than Advanced SIMD.
///
/// A value of this module's types exists only under the token, which `Level::run` makes after checking the processor.
macro_rules! intrinsic {
    ($e:expr) => {{
        // SAFETY: see the macro's note: the processor has the features this intrinsic needs.
        #[allow(
            unused_unsafe,
            reason = "newer toolchains call these safely where the feature is always on"
        )]
        unsafe {
            $e
        }
    }};
}

impl Lanes for F32x4 {
    type Int = int32x4_t;
    type Mask = uint32x4_t;

    #[inline(always)]
    fn splat(v: f32) -> Self {
        F32x4(intrinsic!(vdupq_n_f32(v)))
    }
    #[inline(always)]
    fn splat_int(v: i32) -> int32x4_t {
        intrinsic!(vdupq_n_s32(v))
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        F32x4(intrinsic!(vaddq_f32(self.0, b.0)))
    }
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        F32x4(intrinsic!(vsubq_f32(self.0, b.0)))
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        F32x4(intrinsic!(vmulq_f32(self.0, b.0)))
    }
    #[inline(always)]
    fn div(self, b: Self) -> Self {
        F32x4(intrinsic!(vdivq_f32(self.0, b.0)))
    }
    #[inline(always)]
    fn fma(self, b: Self, c: Self) -> Self {
        F32x4(intrinsic!(vfmaq_f32(c.0, self.0, b.0)))
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        F32x4(intrinsic!(vsqrtq_f32(self.0)))
    }
    #[inline(always)]
    fn to_bits(self) -> int32x4_t {
        intrinsic!(vreinterpretq_s32_f32(self.0))
    }
    #[inline(always)]
    fn from_bits(bits: int32x4_t) -> Self {
        F32x4(intrinsic!(vreinterpretq_f32_s32(bits)))
    }
    #[inline(always)]
    fn int_add(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        intrinsic!(vaddq_s32(a, b))
    }
    #[inline(always)]
    fn int_sub(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        intrinsic!(vsubq_s32(a, b))
    }
    #[inline(always)]
    fn int_and(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        intrinsic!(vandq_s32(a, b))
    }
    #[inline(always)]
    fn int_or(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        intrinsic!(vorrq_s32(a, b))
    }
    #[inline(always)]
    fn int_xor(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        intrinsic!(veorq_s32(a, b))
    }
    #[inline(always)]
    fn int_shl<const N: u32>(a: int32x4_t) -> int32x4_t {
        intrinsic!(vshlq_s32(a, vdupq_n_s32(N as i32)))
    }
    #[inline(always)]
    fn int_shr<const N: u32>(a: int32x4_t) -> int32x4_t {
        intrinsic!(vshlq_s32(a, vdupq_n_s32(-(N as i32))))
    }
    #[inline(always)]
    fn int_ushr<const N: u32>(a: int32x4_t) -> int32x4_t {
        intrinsic!(vreinterpretq_s32_u32(vshlq_u32(
            vreinterpretq_u32_s32(a),
            vdupq_n_s32(-(N as i32))
        )))
    }
    #[inline(always)]
    fn int_gt(a: int32x4_t, b: int32x4_t) -> uint32x4_t {
        intrinsic!(vcgtq_s32(a, b))
    }
    #[inline(always)]
    fn int_eq(a: int32x4_t, b: int32x4_t) -> uint32x4_t {
        intrinsic!(vceqq_s32(a, b))
    }
    #[inline(always)]
    fn from_int(a: int32x4_t) -> Self {
        F32x4(intrinsic!(vcvtq_f32_s32(a)))
    }
    #[inline(always)]
    fn lt(self, b: Self) -> uint32x4_t {
        intrinsic!(vcltq_f32(self.0, b.0))
    }
    #[inline(always)]
    fn le(self, b: Self) -> uint32x4_t {
        intrinsic!(vcleq_f32(self.0, b.0))
    }
    #[inline(always)]
    fn eq(self, b: Self) -> uint32x4_t {
        intrinsic!(vceqq_f32(self.0, b.0))
    }
    #[inline(always)]
    fn is_nan(self) -> uint32x4_t {
        intrinsic!(vmvnq_u32(vceqq_f32(self.0, self.0)))
    }
    #[inline(always)]
    fn select(m: uint32x4_t, a: Self, b: Self) -> Self {
        F32x4(intrinsic!(vbslq_f32(m, a.0, b.0)))
    }
    #[inline(always)]
    fn int_select(m: uint32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        intrinsic!(vbslq_s32(m, a, b))
    }
}

/// The NEON token.
#[derive(Clone, Copy)]
pub(crate) struct Neon(pub(crate) ());

impl Simd for Neon {
    type F = F32x4;
    type Pairs = uint32x4_t;
    type Table = [uint8x16_t; 2];
    const LANES: usize = 4;
    const LEVEL: Level = Level::Neon;

    #[inline(always)]
    fn load(self, src: &[f32]) -> F32x4 {
        assert!(src.len() >= Self::LANES);
        // SAFETY: the slice has LANES elements (asserted).
        F32x4(unsafe { vld1q_f32(src.as_ptr()) })
    }
    #[inline(always)]
    fn store(self, v: F32x4, dst: &mut [f32]) {
        assert!(dst.len() >= Self::LANES);
        // SAFETY: the slice has LANES elements (asserted).
        unsafe { vst1q_f32(dst.as_mut_ptr(), v.0) }
    }
    #[inline(always)]
    fn load_bf16(self, src: &[u16]) -> F32x4 {
        assert!(src.len() >= Self::LANES);
        // SAFETY: the slice has LANES elements (asserted).
        let half = unsafe { vld1_u16(src.as_ptr()) };
        F32x4(intrinsic!(vreinterpretq_f32_u32(vshll_n_u16::<16>(half))))
    }
    #[inline(always)]
    fn load_f16(self, src: &[u16]) -> F32x4 {
        // The f16 conversion intrinsics are not stable everywhere; the scalar conversion is exact.
        let wide = [src[0], src[1], src[2], src[3]].map(round::f16_to_f32);
        self.load(&wide)
    }
    #[inline(always)]
    fn store_u16(self, v: int32x4_t, dst: &mut [u16]) {
        assert!(dst.len() >= Self::LANES);
        let low = intrinsic!(vmovn_u32(vreinterpretq_u32_s32(v)));
        // SAFETY: the slice has LANES elements (asserted).
        unsafe { vst1_u16(dst.as_mut_ptr(), low) }
    }
    #[inline(always)]
    fn load_nibbles(self, src: &[u8], at: usize) -> int32x4_t {
        let [a, b] = [src[at / 2], src[at / 2 + 1]];
        self.load_u8(&[a, a >> 4, b, b >> 4])
    }
    #[inline(always)]
    fn load_pairs(self, src: &[u32]) -> uint32x4_t {
        assert!(src.len() >= Self::LANES);
        // SAFETY: the slice has LANES elements (asserted).
        unsafe { vld1q_u32(src.as_ptr()) }
    }
    #[inline(always)]
    fn store_pairs(self, pairs: uint32x4_t, dst: &mut [u32]) {
        assert!(dst.len() >= Self::LANES);
        // SAFETY: the slice has LANES elements (asserted).
        unsafe { vst1q_u32(dst.as_mut_ptr(), pairs) }
    }
    #[inline(always)]
    fn splat_pair(self, pair: u32) -> uint32x4_t {
        intrinsic!(vdupq_n_u32(pair))
    }
    #[inline(always)]
    fn dot_pairs(self, x: uint32x4_t, w: uint32x4_t, acc: F32x4) -> F32x4 {
        F32x4(intrinsic!({
            let high = vdupq_n_u32(0xFFFF_0000);
            let (xh, wh) = (
                vreinterpretq_f32_u32(vandq_u32(x, high)),
                vreinterpretq_f32_u32(vandq_u32(w, high)),
            );
            let (xl, wl) = (
                vreinterpretq_f32_u32(vshlq_n_u32::<16>(x)),
                vreinterpretq_f32_u32(vshlq_n_u32::<16>(w)),
            );
            vfmaq_f32(vfmaq_f32(acc.0, xh, wh), xl, wl)
        }))
    }
    #[inline(always)]
    fn load_u8(self, src: &[u8]) -> int32x4_t {
        let wide = [src[0], src[1], src[2], src[3]].map(i32::from);
        // SAFETY: an array of LANES elements.
        unsafe { vld1q_s32(wide.as_ptr()) }
    }
    #[inline(always)]
    fn pairs_to_int(self, pairs: uint32x4_t) -> int32x4_t {
        intrinsic!(vreinterpretq_s32_u32(pairs))
    }
    #[inline(always)]
    fn pairs_from_int(self, words: int32x4_t) -> uint32x4_t {
        intrinsic!(vreinterpretq_u32_s32(words))
    }
    /// Low bytes, high bytes.
    #[inline(always)]
    fn table(self, values: &[u16; 16]) -> [uint8x16_t; 2] {
        let mut bytes = [[0_u8; 16]; 2];
        for i in 0..16 {
            [bytes[0][i], bytes[1][i]] = values[i].to_le_bytes();
        }
        // SAFETY: arrays of 16 bytes.
        unsafe { [vld1q_u8(bytes[0].as_ptr()), vld1q_u8(bytes[1].as_ptr())] }
    }
    #[inline(always)]
    fn look_up(self, codes: uint32x4_t, table: [uint8x16_t; 2]) -> uint32x4_t {
        intrinsic!({
            // An index beyond the table reads zero, so each table fills its half of a value and leaves the other.
            let index = vandq_u16(vreinterpretq_u16_u32(codes), vdupq_n_u16(0x000F));
            let for_low = vorrq_u16(index, vdupq_n_u16(0x8000));
            let for_high = vorrq_u16(vshlq_n_u16::<8>(index), vdupq_n_u16(0x0080));
            let low = vqtbl1q_u8(table[0], vreinterpretq_u8_u16(for_low));
            let high = vqtbl1q_u8(table[1], vreinterpretq_u8_u16(for_high));
            vreinterpretq_u32_u8(vorrq_u8(low, high))
        })
    }
}
