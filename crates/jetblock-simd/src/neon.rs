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
    fn load_pairs(self, src: &[u32]) -> uint32x4_t {
        assert!(src.len() >= Self::LANES);
        // SAFETY: the slice has LANES elements (asserted).
        unsafe { vld1q_u32(src.as_ptr()) }
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
}
