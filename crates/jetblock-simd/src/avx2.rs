//! Eight lanes with AVX2, FMA and F16C.

use std::arch::x86_64::*;

use jetblock_numerics::lanes::Lanes;

use crate::{Level, Simd};

/// 8 lanes.
#[derive(Clone, Copy)]
pub(crate) struct F32x8(__m256);

/// Calls intrinsics that need no more than AVX2, FMA and F16C.
///
/// A value of this module's types exists only under a token, and tokens are made only by `Level::run` after it has
/// checked the processor.
macro_rules! intrinsic {
    ($e:expr) => {
        // SAFETY: see the macro's note: the processor has the features this intrinsic needs.
        unsafe { $e }
    };
}

impl Lanes for F32x8 {
    type Int = __m256i;
    type Mask = __m256;

    #[inline(always)]
    fn splat(v: f32) -> Self {
        F32x8(intrinsic!(_mm256_set1_ps(v)))
    }
    #[inline(always)]
    fn splat_int(v: i32) -> Self::Int {
        intrinsic!(_mm256_set1_epi32(v))
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        F32x8(intrinsic!(_mm256_add_ps(self.0, b.0)))
    }
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        F32x8(intrinsic!(_mm256_sub_ps(self.0, b.0)))
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        F32x8(intrinsic!(_mm256_mul_ps(self.0, b.0)))
    }
    #[inline(always)]
    fn div(self, b: Self) -> Self {
        F32x8(intrinsic!(_mm256_div_ps(self.0, b.0)))
    }
    #[inline(always)]
    fn fma(self, b: Self, c: Self) -> Self {
        F32x8(intrinsic!(_mm256_fmadd_ps(self.0, b.0, c.0)))
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        F32x8(intrinsic!(_mm256_sqrt_ps(self.0)))
    }
    #[inline(always)]
    fn to_bits(self) -> Self::Int {
        intrinsic!(_mm256_castps_si256(self.0))
    }
    #[inline(always)]
    fn from_bits(bits: Self::Int) -> Self {
        F32x8(intrinsic!(_mm256_castsi256_ps(bits)))
    }
    #[inline(always)]
    fn int_add(a: Self::Int, b: Self::Int) -> Self::Int {
        intrinsic!(_mm256_add_epi32(a, b))
    }
    #[inline(always)]
    fn int_sub(a: Self::Int, b: Self::Int) -> Self::Int {
        intrinsic!(_mm256_sub_epi32(a, b))
    }
    #[inline(always)]
    fn int_and(a: Self::Int, b: Self::Int) -> Self::Int {
        intrinsic!(_mm256_and_si256(a, b))
    }
    #[inline(always)]
    fn int_or(a: Self::Int, b: Self::Int) -> Self::Int {
        intrinsic!(_mm256_or_si256(a, b))
    }
    #[inline(always)]
    fn int_xor(a: Self::Int, b: Self::Int) -> Self::Int {
        intrinsic!(_mm256_xor_si256(a, b))
    }
    #[inline(always)]
    fn int_shl<const N: u32>(a: Self::Int) -> Self::Int {
        intrinsic!(_mm256_sll_epi32(a, _mm_cvtsi32_si128(N.cast_signed())))
    }
    #[inline(always)]
    fn int_shr<const N: u32>(a: Self::Int) -> Self::Int {
        intrinsic!(_mm256_sra_epi32(a, _mm_cvtsi32_si128(N.cast_signed())))
    }
    #[inline(always)]
    fn int_ushr<const N: u32>(a: Self::Int) -> Self::Int {
        intrinsic!(_mm256_srl_epi32(a, _mm_cvtsi32_si128(N.cast_signed())))
    }
    #[inline(always)]
    fn int_gt(a: Self::Int, b: Self::Int) -> Self::Mask {
        intrinsic!(_mm256_castsi256_ps(_mm256_cmpgt_epi32(a, b)))
    }
    #[inline(always)]
    fn int_eq(a: Self::Int, b: Self::Int) -> Self::Mask {
        intrinsic!(_mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b)))
    }
    #[inline(always)]
    fn from_int(a: Self::Int) -> Self {
        F32x8(intrinsic!(_mm256_cvtepi32_ps(a)))
    }
    #[inline(always)]
    fn lt(self, b: Self) -> Self::Mask {
        intrinsic!(_mm256_cmp_ps::<_CMP_LT_OQ>(self.0, b.0))
    }
    #[inline(always)]
    fn le(self, b: Self) -> Self::Mask {
        intrinsic!(_mm256_cmp_ps::<_CMP_LE_OQ>(self.0, b.0))
    }
    #[inline(always)]
    fn eq(self, b: Self) -> Self::Mask {
        intrinsic!(_mm256_cmp_ps::<_CMP_EQ_OQ>(self.0, b.0))
    }
    #[inline(always)]
    fn is_nan(self) -> Self::Mask {
        intrinsic!(_mm256_cmp_ps::<_CMP_UNORD_Q>(self.0, self.0))
    }
    #[inline(always)]
    fn select(m: Self::Mask, a: Self, b: Self) -> Self {
        F32x8(intrinsic!(_mm256_blendv_ps(b.0, a.0, m)))
    }
    #[inline(always)]
    fn int_select(m: Self::Mask, a: Self::Int, b: Self::Int) -> Self::Int {
        intrinsic!(_mm256_castps_si256(_mm256_blendv_ps(
            _mm256_castsi256_ps(b),
            _mm256_castsi256_ps(a),
            m
        )))
    }
}

/// The AVX2 token (AVX2, FMA, F16C).
#[derive(Clone, Copy)]
pub(crate) struct Avx2(pub(crate) ());

impl Simd for Avx2 {
    type F = F32x8;
    type Pairs = __m256i;
    type Table = [__m256i; 2];
    const LANES: usize = 8;
    const LEVEL: Level = Level::Avx2;

    #[inline(always)]
    fn load(self, src: &[f32]) -> Self::F {
        assert!(src.len() >= Self::LANES);
        // SAFETY: the slice has LANES elements (asserted) and loads need no alignment; features as in `intrinsic!`.
        F32x8(unsafe { _mm256_loadu_ps(src.as_ptr()) })
    }
    #[inline(always)]
    fn store(self, v: Self::F, dst: &mut [f32]) {
        assert!(dst.len() >= Self::LANES);
        // SAFETY: the slice has LANES elements (asserted) and stores need no alignment; features as in `intrinsic!`.
        unsafe { _mm256_storeu_ps(dst.as_mut_ptr(), v.0) }
    }
    #[inline(always)]
    fn load_bf16(self, src: &[u16]) -> Self::F {
        assert!(src.len() >= Self::LANES);
        // SAFETY: the slice has LANES elements (asserted) and loads need no alignment; features as in `intrinsic!`.
        let half = unsafe { _mm_loadu_si128(src.as_ptr().cast()) };
        F32x8(intrinsic!(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(
            _mm256_cvtepu16_epi32(half)
        ))))
    }
    #[inline(always)]
    fn load_f16(self, src: &[u16]) -> Self::F {
        assert!(src.len() >= Self::LANES);
        // SAFETY: the slice has LANES elements (asserted) and loads need no alignment; features as in `intrinsic!`.
        let half = unsafe { _mm_loadu_si128(src.as_ptr().cast()) };
        F32x8(intrinsic!(_mm256_cvtph_ps(half)))
    }
    #[inline(always)]
    fn store_u16(self, v: __m256i, dst: &mut [u16]) {
        assert!(dst.len() >= Self::LANES);
        // Keep the low half of each lane, pack within 128-bit halves, then gather the two quarters in use.
        let packed = intrinsic!({
            let low = _mm256_and_si256(v, _mm256_set1_epi32(0xFFFF));
            let both = _mm256_packus_epi32(low, low);
            _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b00_00_10_00>(both))
        });
        // SAFETY: the slice has LANES elements (asserted) and stores need no alignment; features as in `intrinsic!`.
        unsafe { _mm_storeu_si128(dst.as_mut_ptr().cast(), packed) }
    }
    #[inline(always)]
    fn load_nibbles(self, src: &[u8], at: usize) -> __m256i {
        let bytes = src[at / 2..].first_chunk().expect("LANES / 2 bytes");
        intrinsic!({
            let bytes = _mm_cvtsi32_si128(i32::from_le_bytes(*bytes));
            let twice = _mm256_cvtepu8_epi32(_mm_unpacklo_epi8(bytes, bytes));
            _mm256_srlv_epi32(twice, _mm256_setr_epi32(0, 4, 0, 4, 0, 4, 0, 4))
        })
    }
    #[inline(always)]
    fn e2m1(self, codes: __m256i) -> Self::F {
        F32x8(intrinsic!({
            // The permutation reads the low three bits.
            let values = _mm256_setr_ps(0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0);
            let sign = _mm256_slli_epi32::<28>(_mm256_and_si256(codes, _mm256_set1_epi32(8)));
            let value = _mm256_permutevar8x32_ps(values, codes);
            _mm256_or_ps(value, _mm256_castsi256_ps(sign))
        }))
    }
    #[inline(always)]
    fn load_pairs(self, src: &[u32]) -> Self::Pairs {
        assert!(src.len() >= Self::LANES);
        // SAFETY: the slice has LANES elements (asserted) and loads need no alignment; features as in `intrinsic!`.
        unsafe { _mm256_loadu_si256(src.as_ptr().cast()) }
    }
    #[inline(always)]
    fn store_pairs(self, pairs: __m256i, dst: &mut [u32]) {
        assert!(dst.len() >= Self::LANES);
        // SAFETY: the slice has LANES elements (asserted) and stores need no alignment; features as in `intrinsic!`.
        unsafe { _mm256_storeu_si256(dst.as_mut_ptr().cast(), pairs) }
    }
    #[inline(always)]
    fn splat_pair(self, pair: u32) -> Self::Pairs {
        intrinsic!(_mm256_set1_epi32(pair.cast_signed()))
    }
    #[inline(always)]
    fn transpose(self, square: &mut [Self::F]) {
        let square: &mut [F32x8; 8] = square.try_into().expect("LANES vectors");
        let mut pairs = [square[0].0; 8];
        for i in 0..4 {
            let (a, b) = (square[2 * i].0, square[2 * i + 1].0);
            pairs[2 * i] = intrinsic!(_mm256_unpacklo_ps(a, b));
            pairs[2 * i + 1] = intrinsic!(_mm256_unpackhi_ps(a, b));
        }
        // Vector 4 g + c: in its half q, column 4 q + c of rows 4 g to 4 g + 3.
        let mut fours = [[square[0].0; 4]; 2];
        for g in 0..2 {
            for half in 0..2 {
                let a = intrinsic!(_mm256_castps_pd(pairs[4 * g + half]));
                let b = intrinsic!(_mm256_castps_pd(pairs[4 * g + half + 2]));
                fours[g][2 * half] = intrinsic!(_mm256_castpd_ps(_mm256_unpacklo_pd(a, b)));
                fours[g][2 * half + 1] = intrinsic!(_mm256_castpd_ps(_mm256_unpackhi_pd(a, b)));
            }
        }
        for c in 0..4 {
            let (a, b) = (fours[0][c], fours[1][c]);
            square[c].0 = intrinsic!(_mm256_permute2f128_ps::<0x20>(a, b));
            square[4 + c].0 = intrinsic!(_mm256_permute2f128_ps::<0x31>(a, b));
        }
    }
    #[inline(always)]
    fn prefetch<T>(self, at: &T) {
        // SAFETY: a prefetch of any address is harmless; features as in `intrinsic!`.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(at).cast()) }
    }
    #[inline(always)]
    fn dot_pairs(self, x: Self::Pairs, w: Self::Pairs, acc: Self::F) -> Self::F {
        F32x8(intrinsic!({
            let high = _mm256_set1_epi32(0xFFFF_0000_u32.cast_signed());
            let (xh, wh) = (_mm256_and_si256(x, high), _mm256_and_si256(w, high));
            let (xl, wl) = (_mm256_slli_epi32::<16>(x), _mm256_slli_epi32::<16>(w));
            let odd = _mm256_fmadd_ps(_mm256_castsi256_ps(xh), _mm256_castsi256_ps(wh), acc.0);
            _mm256_fmadd_ps(_mm256_castsi256_ps(xl), _mm256_castsi256_ps(wl), odd)
        }))
    }
    #[inline(always)]
    fn load_u8(self, src: &[u8]) -> __m256i {
        assert!(src.len() >= Self::LANES);
        // SAFETY: the slice has LANES elements (asserted) and loads need no alignment; features as in `intrinsic!`.
        let bytes = unsafe { _mm_loadl_epi64(src.as_ptr().cast()) };
        intrinsic!(_mm256_cvtepu8_epi32(bytes))
    }
    #[inline(always)]
    fn pairs_to_int(self, pairs: __m256i) -> __m256i {
        pairs
    }
    #[inline(always)]
    fn pairs_from_int(self, words: __m256i) -> __m256i {
        words
    }
    /// Low bytes, high bytes.
    #[inline(always)]
    fn table(self, values: &[u16; 16]) -> [__m256i; 2] {
        let mut bytes = [[0_u8; 16]; 2];
        for i in 0..16 {
            [bytes[0][i], bytes[1][i]] = values[i].to_le_bytes();
        }
        let mut table = [intrinsic!(_mm256_setzero_si256()); 2];
        for i in 0..2 {
            // SAFETY: an array of 16 bytes; loads need no alignment; features as in `intrinsic!`.
            let half = unsafe { _mm_loadu_si128(bytes[i].as_ptr().cast()) };
            table[i] = intrinsic!(_mm256_broadcastsi128_si256(half));
        }
        table
    }
    #[inline(always)]
    fn look_up(self, codes: __m256i, table: [__m256i; 2]) -> __m256i {
        intrinsic!({
            // A byte index with its top bit set reads zero, so each table fills its half of a value and leaves the other.
            let index = _mm256_and_si256(codes, _mm256_set1_epi16(0x000F));
            let for_low = _mm256_or_si256(index, _mm256_set1_epi16(0x8000_u16.cast_signed()));
            let for_high =
                _mm256_or_si256(_mm256_slli_epi16::<8>(index), _mm256_set1_epi16(0x0080));
            _mm256_or_si256(
                _mm256_shuffle_epi8(table[0], for_low),
                _mm256_shuffle_epi8(table[1], for_high),
            )
        })
    }
}
