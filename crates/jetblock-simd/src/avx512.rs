//! Sixteen lanes with AVX-512, with or without its bf16 dot product.

use std::arch::x86_64::*;
use std::mem::transmute;

use jetblock_numerics::lanes::Lanes;

use crate::{Level, Simd};

/// 16 lanes.
#[derive(Clone, Copy)]
pub(crate) struct F32x16(__m512);

/// Calls intrinsics that need no more than AVX-512 (F, BW, DQ, VL), FMA and F16C.
///
/// A value of this module's types exists only under a token, and tokens are made only by `Level::run` after it has
/// checked the processor.
macro_rules! intrinsic {
    ($e:expr) => {
        // SAFETY: see the macro's note: the processor has the features this intrinsic needs.
        unsafe { $e }
    };
}

impl Lanes for F32x16 {
    type Int = __m512i;
    type Mask = __mmask16;

    #[inline(always)]
    fn splat(v: f32) -> Self {
        F32x16(intrinsic!(_mm512_set1_ps(v)))
    }
    #[inline(always)]
    fn splat_int(v: i32) -> Self::Int {
        intrinsic!(_mm512_set1_epi32(v))
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        F32x16(intrinsic!(_mm512_add_ps(self.0, b.0)))
    }
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        F32x16(intrinsic!(_mm512_sub_ps(self.0, b.0)))
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        F32x16(intrinsic!(_mm512_mul_ps(self.0, b.0)))
    }
    #[inline(always)]
    fn div(self, b: Self) -> Self {
        F32x16(intrinsic!(_mm512_div_ps(self.0, b.0)))
    }
    #[inline(always)]
    fn fma(self, b: Self, c: Self) -> Self {
        F32x16(intrinsic!(_mm512_fmadd_ps(self.0, b.0, c.0)))
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        F32x16(intrinsic!(_mm512_sqrt_ps(self.0)))
    }
    #[inline(always)]
    fn to_bits(self) -> Self::Int {
        intrinsic!(_mm512_castps_si512(self.0))
    }
    #[inline(always)]
    fn from_bits(bits: Self::Int) -> Self {
        F32x16(intrinsic!(_mm512_castsi512_ps(bits)))
    }
    #[inline(always)]
    fn int_add(a: Self::Int, b: Self::Int) -> Self::Int {
        intrinsic!(_mm512_add_epi32(a, b))
    }
    #[inline(always)]
    fn int_sub(a: Self::Int, b: Self::Int) -> Self::Int {
        intrinsic!(_mm512_sub_epi32(a, b))
    }
    #[inline(always)]
    fn int_and(a: Self::Int, b: Self::Int) -> Self::Int {
        intrinsic!(_mm512_and_si512(a, b))
    }
    #[inline(always)]
    fn int_or(a: Self::Int, b: Self::Int) -> Self::Int {
        intrinsic!(_mm512_or_si512(a, b))
    }
    #[inline(always)]
    fn int_xor(a: Self::Int, b: Self::Int) -> Self::Int {
        intrinsic!(_mm512_xor_si512(a, b))
    }
    #[inline(always)]
    fn int_shl<const N: u32>(a: Self::Int) -> Self::Int {
        intrinsic!(_mm512_sll_epi32(a, _mm_cvtsi32_si128(N.cast_signed())))
    }
    #[inline(always)]
    fn int_shr<const N: u32>(a: Self::Int) -> Self::Int {
        intrinsic!(_mm512_sra_epi32(a, _mm_cvtsi32_si128(N.cast_signed())))
    }
    #[inline(always)]
    fn int_ushr<const N: u32>(a: Self::Int) -> Self::Int {
        intrinsic!(_mm512_srl_epi32(a, _mm_cvtsi32_si128(N.cast_signed())))
    }
    #[inline(always)]
    fn int_gt(a: Self::Int, b: Self::Int) -> Self::Mask {
        intrinsic!(_mm512_cmpgt_epi32_mask(a, b))
    }
    #[inline(always)]
    fn int_eq(a: Self::Int, b: Self::Int) -> Self::Mask {
        intrinsic!(_mm512_cmpeq_epi32_mask(a, b))
    }
    #[inline(always)]
    fn from_int(a: Self::Int) -> Self {
        F32x16(intrinsic!(_mm512_cvtepi32_ps(a)))
    }
    #[inline(always)]
    fn lt(self, b: Self) -> Self::Mask {
        intrinsic!(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, b.0))
    }
    #[inline(always)]
    fn le(self, b: Self) -> Self::Mask {
        intrinsic!(_mm512_cmp_ps_mask::<_CMP_LE_OQ>(self.0, b.0))
    }
    #[inline(always)]
    fn eq(self, b: Self) -> Self::Mask {
        intrinsic!(_mm512_cmp_ps_mask::<_CMP_EQ_OQ>(self.0, b.0))
    }
    #[inline(always)]
    fn is_nan(self) -> Self::Mask {
        intrinsic!(_mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0))
    }
    #[inline(always)]
    fn select(m: Self::Mask, a: Self, b: Self) -> Self {
        F32x16(intrinsic!(_mm512_mask_blend_ps(m, b.0, a.0)))
    }
    #[inline(always)]
    fn int_select(m: Self::Mask, a: Self::Int, b: Self::Int) -> Self::Int {
        intrinsic!(_mm512_mask_blend_epi32(m, b, a))
    }
}

/// The AVX-512 token (F, BW, DQ, VL).
#[derive(Clone, Copy)]
pub(crate) struct Avx512(pub(crate) ());

impl Simd for Avx512 {
    type F = F32x16;
    type Pairs = __m512i;
    type Table = __m512i;
    const LANES: usize = 16;
    const LEVEL: Level = Level::Avx512;

    #[inline(always)]
    fn load(self, src: &[f32]) -> Self::F {
        assert!(src.len() >= Self::LANES);
        // SAFETY: the slice has LANES elements (asserted) and loads need no alignment; features as in `intrinsic!`.
        F32x16(unsafe { _mm512_loadu_ps(src.as_ptr()) })
    }
    #[inline(always)]
    fn store(self, v: Self::F, dst: &mut [f32]) {
        assert!(dst.len() >= Self::LANES);
        // SAFETY: the slice has LANES elements (asserted) and stores need no alignment; features as in `intrinsic!`.
        unsafe { _mm512_storeu_ps(dst.as_mut_ptr(), v.0) }
    }
    #[inline(always)]
    fn load_bf16(self, src: &[u16]) -> Self::F {
        assert!(src.len() >= Self::LANES);
        // SAFETY: the slice has LANES elements (asserted) and loads need no alignment; features as in `intrinsic!`.
        let half = unsafe { _mm256_loadu_si256(src.as_ptr().cast()) };
        F32x16(intrinsic!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(
            _mm512_cvtepu16_epi32(half)
        ))))
    }
    #[inline(always)]
    fn load_f16(self, src: &[u16]) -> Self::F {
        assert!(src.len() >= Self::LANES);
        // SAFETY: the slice has LANES elements (asserted) and loads need no alignment; features as in `intrinsic!`.
        let half = unsafe { _mm256_loadu_si256(src.as_ptr().cast()) };
        F32x16(intrinsic!(_mm512_cvtph_ps(half)))
    }
    #[inline(always)]
    fn store_u16(self, v: __m512i, dst: &mut [u16]) {
        assert!(dst.len() >= Self::LANES);
        // SAFETY: the slice has LANES elements (asserted) and stores need no alignment; features as in `intrinsic!`.
        unsafe { _mm256_storeu_si256(dst.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(v)) }
    }
    #[inline(always)]
    fn load_nibbles(self, src: &[u8], at: usize) -> __m512i {
        let bytes = src[at / 2..].first_chunk().expect("LANES / 2 bytes");
        intrinsic!({
            let bytes = _mm_cvtsi64_si128(i64::from_le_bytes(*bytes));
            let twice = _mm512_cvtepu8_epi32(_mm_unpacklo_epi8(bytes, bytes));
            let halves = _mm512_setr_epi32(0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4);
            _mm512_srlv_epi32(twice, halves)
        })
    }
    #[inline(always)]
    fn e2m1(self, codes: __m512i) -> Self::F {
        F32x16(intrinsic!({
            // The permutation reads the low four bits.
            let values = _mm512_setr_ps(
                0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0,
                -6.0,
            );
            _mm512_permutexvar_ps(codes, values)
        }))
    }
    #[inline(always)]
    fn load_pairs(self, src: &[u32]) -> Self::Pairs {
        assert!(src.len() >= Self::LANES);
        // SAFETY: the slice has LANES elements (asserted) and loads need no alignment; features as in `intrinsic!`.
        unsafe { _mm512_loadu_si512(src.as_ptr().cast()) }
    }
    #[inline(always)]
    fn store_pairs(self, pairs: __m512i, dst: &mut [u32]) {
        assert!(dst.len() >= Self::LANES);
        // SAFETY: the slice has LANES elements (asserted) and stores need no alignment; features as in `intrinsic!`.
        unsafe { _mm512_storeu_si512(dst.as_mut_ptr().cast(), pairs) }
    }
    #[inline(always)]
    fn splat_pair(self, pair: u32) -> Self::Pairs {
        intrinsic!(_mm512_set1_epi32(pair.cast_signed()))
    }
    #[inline(always)]
    fn transpose(self, square: &mut [Self::F]) {
        let square: &mut [F32x16; 16] = square.try_into().expect("LANES vectors");
        let mut pairs = [square[0].0; 16];
        for i in 0..8 {
            let (a, b) = (square[2 * i].0, square[2 * i + 1].0);
            pairs[2 * i] = intrinsic!(_mm512_unpacklo_ps(a, b));
            pairs[2 * i + 1] = intrinsic!(_mm512_unpackhi_ps(a, b));
        }
        // Vector 4 g + c: in its quarter q, column 4 q + c of rows 4 g to 4 g + 3.
        let mut fours = [[square[0].0; 4]; 4];
        for g in 0..4 {
            for half in 0..2 {
                let a = intrinsic!(_mm512_castps_pd(pairs[4 * g + half]));
                let b = intrinsic!(_mm512_castps_pd(pairs[4 * g + half + 2]));
                fours[g][2 * half] = intrinsic!(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)));
                fours[g][2 * half + 1] = intrinsic!(_mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
            }
        }
        for c in 0..4 {
            let [a, b, d, e] = [fours[0][c], fours[1][c], fours[2][c], fours[3][c]];
            let even = intrinsic!(_mm512_shuffle_f32x4::<0x88>(a, b));
            let odd = intrinsic!(_mm512_shuffle_f32x4::<0xDD>(a, b));
            let next_even = intrinsic!(_mm512_shuffle_f32x4::<0x88>(d, e));
            let next_odd = intrinsic!(_mm512_shuffle_f32x4::<0xDD>(d, e));
            square[c].0 = intrinsic!(_mm512_shuffle_f32x4::<0x88>(even, next_even));
            square[4 + c].0 = intrinsic!(_mm512_shuffle_f32x4::<0x88>(odd, next_odd));
            square[8 + c].0 = intrinsic!(_mm512_shuffle_f32x4::<0xDD>(even, next_even));
            square[12 + c].0 = intrinsic!(_mm512_shuffle_f32x4::<0xDD>(odd, next_odd));
        }
    }
    #[inline(always)]
    fn prefetch<T>(self, at: &T) {
        // SAFETY: a prefetch of any address is harmless; features as in `intrinsic!`.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(at).cast()) }
    }
    #[inline(always)]
    fn dot_pairs(self, x: Self::Pairs, w: Self::Pairs, acc: Self::F) -> Self::F {
        F32x16(intrinsic!({
            let high = _mm512_set1_epi32(0xFFFF_0000_u32.cast_signed());
            let (xh, wh) = (_mm512_and_si512(x, high), _mm512_and_si512(w, high));
            let (xl, wl) = (_mm512_slli_epi32::<16>(x), _mm512_slli_epi32::<16>(w));
            let odd = _mm512_fmadd_ps(_mm512_castsi512_ps(xh), _mm512_castsi512_ps(wh), acc.0);
            _mm512_fmadd_ps(_mm512_castsi512_ps(xl), _mm512_castsi512_ps(wl), odd)
        }))
    }
    #[inline(always)]
    fn load_u8(self, src: &[u8]) -> __m512i {
        assert!(src.len() >= Self::LANES);
        // SAFETY: the slice has LANES elements (asserted) and loads need no alignment; features as in `intrinsic!`.
        let bytes = unsafe { _mm_loadu_si128(src.as_ptr().cast()) };
        intrinsic!(_mm512_cvtepu8_epi32(bytes))
    }
    #[inline(always)]
    fn pairs_to_int(self, pairs: __m512i) -> __m512i {
        pairs
    }
    #[inline(always)]
    fn pairs_from_int(self, words: __m512i) -> __m512i {
        words
    }
    /// The 16 values twice: the permutation reads five bits of an index, of which the fifth must not matter.
    #[inline(always)]
    fn table(self, values: &[u16; 16]) -> __m512i {
        // SAFETY: an array of 16 values of two bytes; loads need no alignment; features as in `intrinsic!`.
        let half = unsafe { _mm256_loadu_si256(values.as_ptr().cast()) };
        intrinsic!(_mm512_broadcast_i64x4(half))
    }
    #[inline(always)]
    fn look_up(self, codes: __m512i, table: __m512i) -> __m512i {
        intrinsic!(_mm512_permutexvar_epi16(codes, table))
    }
    #[inline(always)]
    fn e4m3_to_pairs(self, codes: __m512i) -> __m512i {
        intrinsic!({
            // Sign, exponent and fraction to their places, the exponent rebiased by 120; subnormals from a table.
            let wide = _mm512_srai_epi16::<4>(_mm512_slli_epi16::<8>(codes));
            let sign = _mm512_and_si512(wide, _mm512_set1_epi16(0x8000_u16.cast_signed()));
            let magnitude = _mm512_add_epi16(
                _mm512_and_si512(wide, _mm512_set1_epi16(0x07F0)),
                _mm512_set1_epi16(120 << 7),
            );
            let subnormal = _mm512_testn_epi16_mask(codes, _mm512_set1_epi16(0x78));
            let magnitude = _mm512_mask_permutexvar_epi16(
                magnitude,
                subnormal,
                codes,
                _mm512_broadcast_i32x4(_mm_setr_epi16(
                    0, 0x3B00, 0x3B80, 0x3BC0, 0x3C00, 0x3C20, 0x3C40, 0x3C60,
                )),
            );
            _mm512_or_si512(magnitude, sign)
        })
    }
    #[inline(always)]
    fn i8_to_pairs(self, codes: __m512i) -> [__m512i; 2] {
        // With its sign bit flipped a code is 128 + v. As the lowest byte of 2^23 it makes the f32 2^23 + 128 + v, as the
        // second byte of 2^15 it makes 2^15 + 128 + v: a subtraction leaves v.
        let high = intrinsic!(_mm512_srli_epi32::<16>(codes));
        let (low_even, low_odd) = (
            byte_less::<0xFF>(codes, 8_388_736.0),
            byte_less::<0xFF>(high, 8_388_736.0),
        );
        let (even, odd) = (
            byte_less::<0xFF00>(codes, 32_896.0),
            byte_less::<0xFF00>(high, 32_896.0),
        );
        [
            self.pairs_from_exact(low_even, low_odd),
            self.pairs_from_exact(even, odd),
        ]
    }
    #[inline(always)]
    fn pairs_from_exact(self, even: F32x16, odd: F32x16) -> __m512i {
        intrinsic!({
            let (even, odd) = (_mm512_castps_si512(even.0), _mm512_castps_si512(odd.0));
            let down = _mm512_broadcast_i32x4(_mm_setr_epi32(0x0302, 0x0706, 0x0B0A, 0x0F0E));
            _mm512_mask_shuffle_epi8(odd, 0x3333_3333_3333_3333, even, down)
        })
    }
}

/// The bits of `base` with those under `MASK` turned over where `codes` has them, as f32, less `base`.
#[inline(always)]
fn byte_less<const MASK: i32>(codes: __m512i, base: f32) -> F32x16 {
    /// `(a & b) ^ c` in ternary logic.
    const AND_XOR: i32 = 0x6A;
    intrinsic!({
        let (mask, base) = (_mm512_set1_epi32(MASK), _mm512_set1_ps(base));
        let sum = _mm512_ternarylogic_epi32::<AND_XOR>(codes, mask, _mm512_castps_si512(base));
        F32x16(_mm512_sub_ps(_mm512_castsi512_ps(sum), base))
    })
}

/// The AVX-512 token with VDPBF16PS.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Bf16(pub(crate) ());

impl Simd for Avx512Bf16 {
    type F = F32x16;
    type Pairs = __m512i;
    type Table = __m512i;
    const LANES: usize = 16;
    const LEVEL: Level = Level::Avx512Bf16;

    // Everything but the dot product is AVX-512's.
    #[inline(always)]
    fn load(self, src: &[f32]) -> Self::F {
        Avx512(()).load(src)
    }
    #[inline(always)]
    fn store(self, v: Self::F, dst: &mut [f32]) {
        Avx512(()).store(v, dst);
    }
    #[inline(always)]
    fn load_bf16(self, src: &[u16]) -> Self::F {
        Avx512(()).load_bf16(src)
    }
    #[inline(always)]
    fn load_f16(self, src: &[u16]) -> Self::F {
        Avx512(()).load_f16(src)
    }
    #[inline(always)]
    fn store_u16(self, v: __m512i, dst: &mut [u16]) {
        Avx512(()).store_u16(v, dst);
    }
    #[inline(always)]
    fn load_nibbles(self, src: &[u8], at: usize) -> __m512i {
        Avx512(()).load_nibbles(src, at)
    }
    #[inline(always)]
    fn e2m1(self, codes: __m512i) -> Self::F {
        Avx512(()).e2m1(codes)
    }
    #[inline(always)]
    fn load_pairs(self, src: &[u32]) -> Self::Pairs {
        Avx512(()).load_pairs(src)
    }
    #[inline(always)]
    fn store_pairs(self, pairs: __m512i, dst: &mut [u32]) {
        Avx512(()).store_pairs(pairs, dst);
    }
    #[inline(always)]
    fn splat_pair(self, pair: u32) -> Self::Pairs {
        Avx512(()).splat_pair(pair)
    }
    #[inline(always)]
    fn transpose(self, square: &mut [Self::F]) {
        Avx512(()).transpose(square);
    }
    #[inline(always)]
    fn prefetch<T>(self, at: &T) {
        Avx512(()).prefetch(at);
    }
    #[inline(always)]
    fn dot_pairs(self, x: Self::Pairs, w: Self::Pairs, acc: Self::F) -> Self::F {
        // SAFETY: __m512i and __m512bh have the same size and every bit pattern is valid in both.
        let (x, w) = unsafe {
            (
                transmute::<__m512i, __m512bh>(x),
                transmute::<__m512i, __m512bh>(w),
            )
        };
        // SAFETY: this token is made only on a processor with AVX512_BF16 that passed the known-answer test.
        F32x16(unsafe { _mm512_dpbf16_ps(acc.0, x, w) })
    }
    #[inline(always)]
    fn load_u8(self, src: &[u8]) -> __m512i {
        Avx512(()).load_u8(src)
    }
    #[inline(always)]
    fn pairs_to_int(self, pairs: __m512i) -> __m512i {
        pairs
    }
    #[inline(always)]
    fn pairs_from_int(self, words: __m512i) -> __m512i {
        words
    }
    #[inline(always)]
    fn table(self, values: &[u16; 16]) -> __m512i {
        Avx512(()).table(values)
    }
    #[inline(always)]
    fn look_up(self, codes: __m512i, table: __m512i) -> __m512i {
        Avx512(()).look_up(codes, table)
    }
    #[inline(always)]
    fn e4m3_to_pairs(self, codes: __m512i) -> __m512i {
        Avx512(()).e4m3_to_pairs(codes)
    }
    #[inline(always)]
    fn i8_to_pairs(self, codes: __m512i) -> [__m512i; 2] {
        Avx512(()).i8_to_pairs(codes)
    }
    #[inline(always)]
    fn pairs_from_exact(self, even: F32x16, odd: F32x16) -> __m512i {
        Avx512(()).pairs_from_exact(even, odd)
    }
}
