//! Blocks of a cache in the form that the kernels read: bf16 keys with lanes over keys, bf16 values in rows.
//!
//! Every code is exact in bf16, an fp8 element as well as the product of an nvfp4 element and its block's scale, so
//! decoding rounds nothing. None is below 2^-50 but zero: a decoded key is an operand as it is, up to the sign of zero,
//! which no dot product shows.

use std::sync::LazyLock;

use jetblock_numerics::e4m3;
use jetblock_numerics::lanes::Lanes;
use jetblock_numerics::nvfp4::BLOCK;
use jetblock_simd::{Kernel, Level, Simd};

use super::KvDtype;
use super::blocks::KEY_BLOCK;
use super::kv_cache::KvCacheConfig;
use super::scores::pair;
use crate::row::MAX_LANES;

/// f32 keys `[head_dim][64]` as pairs of operands.
pub(super) fn f32_keys_to_pairs(_: &KvCacheConfig, level: Level, keys: &[f32], out: &mut [u32]) {
    let (keys, out) = (keys.as_chunks().0, out.as_chunks_mut().0);
    level.run(RoundKeys { keys, out });
}

/// Rows of codes `[row bytes][64]` as pairs of operands.
pub(super) fn keys_to_pairs(config: &KvCacheConfig, level: Level, keys: &[u8], out: &mut [u32]) {
    let (codes, out) = (keys.as_chunks().0, out.as_chunks_mut().0);
    match config.dtype {
        KvDtype::Nvfp4 => level.run(Nvfp4Keys { codes, out }),
        _ => level.run(Fp8Keys { codes, out }),
    }
}

/// Rows of codes `[row bytes][64]` as bf16, element by element.
pub(super) fn keys_to_bf16(config: &KvCacheConfig, level: Level, keys: &[u8], out: &mut [u16]) {
    let (codes, out) = (keys.as_chunks().0, out.as_chunks_mut().0);
    match config.dtype {
        KvDtype::Nvfp4 => level.run(Nvfp4Keys { codes, out }),
        _ => level.run(Fp8Keys { codes, out }),
    }
}

/// Rows of codes `[64][row bytes]` as rows of bf16; their padding is left alone.
pub(super) fn values(config: &KvCacheConfig, level: Level, codes: &[u8], out: &mut [u16]) {
    let (head_dim, padded) = (config.head_dim, config.padded_head_dim());
    let rows = Rows {
        codes,
        out,
        head_dim,
        padded,
    };
    match config.dtype {
        KvDtype::Nvfp4 => level.run(Nvfp4Values(rows)),
        _ => level.run(Fp8Values(rows)),
    }
}

/// An element of decoded keys.
trait KeyForm: Sized {
    /// Stores elements 2i and 2i + 1 of `LANES` keys from `key` on; there is no odd one at the end of an odd head.
    fn put<S: Simd>(
        simd: S,
        even: S::F,
        odd: S::F,
        i: usize,
        key: usize,
        out: &mut [[Self; KEY_BLOCK]],
    );
}

impl KeyForm for u32 {
    #[inline(always)]
    fn put<S: Simd>(
        simd: S,
        even: S::F,
        odd: S::F,
        i: usize,
        key: usize,
        out: &mut [[u32; KEY_BLOCK]],
    ) {
        simd.store_pairs(simd.pairs_from_exact(even, odd), &mut out[i][key..]);
    }
}

impl KeyForm for u16 {
    #[inline(always)]
    fn put<S: Simd>(
        simd: S,
        even: S::F,
        odd: S::F,
        i: usize,
        key: usize,
        out: &mut [[u16; KEY_BLOCK]],
    ) {
        store_bf16(simd, even, &mut out[2 * i][key..]);
        if 2 * i + 1 < out.len() {
            store_bf16(simd, odd, &mut out[2 * i + 1][key..]);
        }
    }
}

/// Stores values that are exact in bf16.
#[inline(always)]
fn store_bf16<S: Simd>(simd: S, x: S::F, out: &mut [u16]) {
    simd.store_u16(S::F::int_ushr::<16>(x.to_bits()), out);
}

struct Fp8Keys<'a, T> {
    codes: &'a [[u8; KEY_BLOCK]],
    out: &'a mut [[T; KEY_BLOCK]],
}

impl<T: KeyForm> Kernel for Fp8Keys<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for i in 0..self.codes.len().div_ceil(2) {
            let even = &self.codes[2 * i];
            let odd = self.codes.get(2 * i + 1).unwrap_or(&[0; KEY_BLOCK]);
            let mut key = 0;
            while key < KEY_BLOCK {
                let even = e4m3::widen(simd.load_u8(&even[key..]));
                let odd = e4m3::widen(simd.load_u8(&odd[key..]));
                T::put(simd, even, odd, i, key, self.out);
                key += S::LANES;
            }
        }
    }
}

struct Nvfp4Keys<'a, T> {
    codes: &'a [[u8; KEY_BLOCK]],
    out: &'a mut [[T; KEY_BLOCK]],
}

impl<T: KeyForm> Kernel for Nvfp4Keys<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        // Eight bytes of codes and one of scale in each block of 16 elements.
        let blocks = self.codes.len() / 9;
        let (codes, scales) = self.codes.split_at(8 * blocks);
        for block in 0..blocks {
            let mut key = 0;
            while key < KEY_BLOCK {
                let scale: S::F = e4m3::widen(simd.load_u8(&scales[block][key..]));
                for i in 8 * block..8 * block + 8 {
                    let pair = simd.load_u8(&codes[i][key..]);
                    let even = simd.e2m1(pair).mul(scale);
                    let odd = simd.e2m1(S::F::int_ushr::<4>(pair)).mul(scale);
                    T::put(simd, even, odd, i, key, self.out);
                }
                key += S::LANES;
            }
        }
    }
}

/// Rows of values of a block.
struct Rows<'a> {
    codes: &'a [u8],
    out: &'a mut [u16],
    head_dim: usize,
    /// Elements from row to row of `out`.
    padded: usize,
}

struct Fp8Values<'a>(Rows<'a>);

impl Kernel for Fp8Values<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Rows {
            codes,
            out,
            head_dim,
            padded,
        } = self.0;
        for key in 0..KEY_BLOCK {
            let codes = &codes[key * head_dim..][..head_dim];
            let out = &mut out[key * padded..][..padded];
            let mut d = 0;
            while d + S::LANES <= head_dim {
                store_bf16(simd, e4m3::widen(simd.load_u8(&codes[d..])), &mut out[d..]);
                d += S::LANES;
            }
            if d < head_dim {
                // Code 0 in the padding is the zero that belongs there.
                let mut rest = [0; MAX_LANES];
                rest[..head_dim - d].copy_from_slice(&codes[d..]);
                store_bf16(simd, e4m3::widen(simd.load_u8(&rest)), &mut out[d..]);
            }
        }
    }
}

struct Nvfp4Values<'a>(Rows<'a>);

/// The values of all E4M3 codes: a scale is read for 16 elements, too few to decode scales in lanes.
static SCALES: LazyLock<[f32; 256]> =
    LazyLock::new(|| std::array::from_fn(|i| e4m3::decode(i as u8)));

impl Kernel for Nvfp4Values<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Rows {
            codes,
            out,
            head_dim,
            padded,
        } = self.0;
        let table = &*SCALES;
        let (half, blocks) = (head_dim / 2, head_dim / BLOCK);
        for key in 0..KEY_BLOCK {
            let row = &codes[key * (half + blocks)..][..half + blocks];
            let (codes, scales) = row.split_at(half);
            let out = &mut out[key * padded..][..padded];
            for block in 0..blocks {
                let scale = S::F::splat(table[usize::from(scales[block])]);
                let mut d = BLOCK * block;
                while d < BLOCK * (block + 1) {
                    let value = simd.e2m1(simd.load_nibbles(codes, d)).mul(scale);
                    store_bf16(simd, value, &mut out[d..]);
                    d += S::LANES;
                }
            }
        }
    }
}

/// f32 keys as pairs of operands.
struct RoundKeys<'a> {
    keys: &'a [[f32; KEY_BLOCK]],
    out: &'a mut [[u32; KEY_BLOCK]],
}

impl Kernel for RoundKeys<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (elements, pairs) in self.keys.chunks(2).zip(self.out) {
            let odd = elements.get(1).unwrap_or(&[0.0; KEY_BLOCK]);
            for j in 0..KEY_BLOCK {
                pairs[j] = pair(elements[0][j], odd[j]);
            }
        }
    }
}
