//! One lane of plain Rust: the level every target has.

use jetblock_numerics::{fma, round};

use crate::{Level, Simd};

/// The scalar token.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

impl Simd for Scalar {
    type F = f32;
    type Pairs = u32;
    type Table = [u16; 16];
    const LANES: usize = 1;
    const LEVEL: Level = Level::Scalar;

    #[inline(always)]
    fn load(self, src: &[f32]) -> f32 {
        src[0]
    }
    #[inline(always)]
    fn store(self, v: f32, dst: &mut [f32]) {
        dst[0] = v;
    }
    #[inline(always)]
    fn load_bf16(self, src: &[u16]) -> f32 {
        round::bf16_to_f32(src[0])
    }
    #[inline(always)]
    fn load_f16(self, src: &[u16]) -> f32 {
        round::f16_to_f32(src[0])
    }
    #[inline(always)]
    fn store_u16(self, v: i32, dst: &mut [u16]) {
        dst[0] = v.cast_unsigned() as u16;
    }
    #[inline(always)]
    fn load_nibbles(self, src: &[u8], at: usize) -> i32 {
        i32::from(src[at / 2] >> (4 * (at % 2)))
    }
    #[inline(always)]
    fn load_pairs(self, src: &[u32]) -> u32 {
        src[0]
    }
    #[inline(always)]
    fn store_pairs(self, pairs: u32, dst: &mut [u32]) {
        dst[0] = pairs;
    }
    #[inline(always)]
    fn splat_pair(self, pair: u32) -> u32 {
        pair
    }
    #[inline(always)]
    fn dot_pairs(self, x: u32, w: u32, acc: f32) -> f32 {
        let high = |p: u32| f32::from_bits(p & 0xFFFF_0000);
        let low = |p: u32| f32::from_bits(p << 16);
        fma(low(x), low(w), fma(high(x), high(w), acc))
    }
    #[inline(always)]
    fn load_u8(self, src: &[u8]) -> i32 {
        i32::from(src[0])
    }
    #[inline(always)]
    fn pairs_to_int(self, pairs: u32) -> i32 {
        pairs.cast_signed()
    }
    #[inline(always)]
    fn pairs_from_int(self, words: i32) -> u32 {
        words.cast_unsigned()
    }
    #[inline(always)]
    fn table(self, values: &[u16; 16]) -> [u16; 16] {
        *values
    }
    #[inline(always)]
    fn look_up(self, codes: u32, table: [u16; 16]) -> u32 {
        let value = |code: u32| u32::from(table[(code & 15) as usize]);
        value(codes) | value(codes >> 16) << 16
    }
}
