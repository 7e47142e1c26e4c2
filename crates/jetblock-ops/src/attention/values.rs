//! Weighted values and the fold of blocks: lanes over the head dimension.

use std::ops::Range;

use jetblock_numerics::lanes::Lanes;
use jetblock_numerics::{canonical, math, max};
use jetblock_simd::{Kernel, Simd};

use super::MAX_SPLIT;
use super::blocks::KEY_BLOCK;
use super::panels::Panels;
use super::scores::LINE_BYTES;
use super::unrolled::unrolled;
use crate::row::{MAX_LANES, store_part};

/// A stored element of a value.
pub(super) trait ValueCode: Copy + Default {
    fn load<S: Simd>(simd: S, values: &[Self]) -> S::F;
}

impl ValueCode for f32 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, values: &[f32]) -> S::F {
        simd.load(values)
    }
}

impl ValueCode for u16 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, values: &[u16]) -> S::F {
        simd.load_bf16(values)
    }
}

/// The values of one head.
pub(super) struct HeadValues<'a, P> {
    pub panels: &'a P,
    /// First cache block of the key block.
    pub first: usize,
    /// Elements of a stored row.
    pub row_len: usize,
}

/// Chains the weighted values of `keys` (slots of the key block) onto `o_b [ROWS, row_len]`, which counts as +0 where
/// `keys` starts at slot 0.
pub(super) struct WeightedValues<'a, P, const ROWS: usize> {
    pub p: &'a [[f32; MAX_SPLIT]; ROWS],
    pub values: &'a HeadValues<'a, P>,
    pub keys: Range<usize>,
    /// Whether to fetch the next block meanwhile.
    pub fetch: bool,
    pub o_b: &'a mut [f32],
}

impl<P: Panels<Code: ValueCode>, const ROWS: usize> Kernel for WeightedValues<'_, P, ROWS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let row_len = self.values.row_len;
        let mut d = 0;
        // Few rows leave registers for longer runs of a stored row.
        if const { ROWS <= 2 && S::LANES != 8 || ROWS == 1 } {
            while d + 8 * S::LANES <= row_len {
                self.tile::<S, 8>(simd, d);
                d += 8 * S::LANES;
            }
        }
        if const { S::LANES != 8 } {
            while d + 4 * S::LANES <= row_len {
                self.tile::<S, 4>(simd, d);
                d += 4 * S::LANES;
            }
        }
        while d + 2 * S::LANES <= row_len {
            self.tile::<S, 2>(simd, d);
            d += 2 * S::LANES;
        }
        while d < row_len {
            self.tile::<S, 1>(simd, d);
            d += S::LANES;
        }
    }
}

impl<P: Panels<Code: ValueCode>, const ROWS: usize> WeightedValues<'_, P, ROWS> {
    /// Elements `d..d + VECTORS * LANES`.
    #[inline(always)]
    fn tile<S: Simd, const VECTORS: usize>(&mut self, simd: S, d: usize) {
        let HeadValues {
            panels,
            first,
            row_len,
        } = *self.values;
        let mut acc = [[S::F::splat(0.0); VECTORS]; ROWS];
        if self.keys.start > 0 {
            unrolled!(r < ROWS => {
                let o_b = &self.o_b[r * row_len + d..][..VECTORS * S::LANES];
                unrolled!(v < VECTORS => { acc[r][v] = simd.load(&o_b[v * S::LANES..]); });
            });
        }
        let mut block = self.keys.start / KEY_BLOCK;
        while block * KEY_BLOCK < self.keys.end {
            let at = block * KEY_BLOCK;
            let mut key = self.keys.start.max(at) - at;
            let end = (self.keys.end - at).min(KEY_BLOCK);
            let stored = panels.block(first + block);
            let next = if self.fetch {
                panels.fetch(first + block + 1)
            } else {
                &[]
            };
            let mut p = [&self.p[0].as_chunks::<KEY_BLOCK>().0[block]; ROWS];
            unrolled!(r < ROWS => { p[r] = &self.p[r].as_chunks().0[block]; });
            while key < end {
                let from = key * row_len + d;
                if from + VECTORS * S::LANES <= next.len() {
                    let mut element = 0;
                    while element < VECTORS * S::LANES {
                        simd.prefetch(&next[from + element]);
                        element += LINE_BYTES / size_of::<P::Code>();
                    }
                }
                let stored = &stored[from..][..VECTORS * S::LANES];
                let mut x = [P::Code::load(simd, stored); VECTORS];
                unrolled!(v < VECTORS => { x[v] = P::Code::load(simd, &stored[v * S::LANES..]); });
                unrolled!(r < ROWS => {
                    let p = S::F::splat(p[r][key]);
                    unrolled!(v < VECTORS => { acc[r][v] = p.fma(x[v], acc[r][v]); });
                });
                key += 1;
            }
            block += 1;
        }
        unrolled!(r < ROWS => {
            let o_b = &mut self.o_b[r * row_len + d..][..VECTORS * S::LANES];
            unrolled!(v < VECTORS => { simd.store(acc[r][v], &mut o_b[v * S::LANES..]); });
        });
    }
}

/// Joins a tile's partial results of a block to those of the blocks before.
pub(super) struct Fold<'a> {
    /// `[m_b, l_b]` of each row; what stands beyond the rows is computed and dropped.
    pub block: [[f32; MAX_LANES]; 2],
    /// `[rows, row_len]`.
    pub o_b: &'a [f32],
    pub m: &'a mut [f32],
    pub l: &'a mut [f32],
    /// `[rows, row_len]`.
    pub o: &'a mut [f32],
    pub row_len: usize,
}

impl Kernel for Fold<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let rows = self.m.len();
        let [m_b, l_b] = self.block;
        let (mut m, mut l) = ([0.0_f32; MAX_LANES], [0.0_f32; MAX_LANES]);
        m[..rows].copy_from_slice(self.m);
        l[..rows].copy_from_slice(self.l);
        let (mut a, mut b) = ([0.0_f32; MAX_LANES], [0.0_f32; MAX_LANES]);
        for r in (0..rows).step_by(S::LANES) {
            let (old, new) = (simd.load(&m[r..]), simd.load(&m_b[r..]));
            let largest = max(old, new);
            let scale_old = math::exp(old.sub(largest));
            let scale_new = math::exp(new.sub(largest));
            let sum = simd
                .load(&l[r..])
                .fma(scale_old, simd.load(&l_b[r..]).mul(scale_new));
            simd.store(largest, &mut m[r..]);
            simd.store(sum, &mut l[r..]);
            simd.store(scale_old, &mut a[r..]);
            simd.store(scale_new, &mut b[r..]);
        }
        self.m.copy_from_slice(&m[..rows]);
        self.l.copy_from_slice(&l[..rows]);
        let o = self.o.chunks_exact_mut(self.row_len);
        for (r, (o, o_b)) in o.zip(self.o_b.chunks_exact(self.row_len)).enumerate() {
            let (a, b) = (S::F::splat(a[r]), S::F::splat(b[r]));
            for (o, o_b) in o.chunks_exact_mut(S::LANES).zip(o_b.chunks_exact(S::LANES)) {
                simd.store(simd.load(o).fma(a, simd.load(o_b).mul(b)), o);
            }
        }
    }
}

/// `y = (o / l) * scale` of one row; `o` is padded.
pub(super) struct Finish<'a> {
    pub o: &'a [f32],
    pub l: f32,
    pub scale: f32,
    pub y: &'a mut [f32],
}

impl Kernel for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (l, scale) = (S::F::splat(self.l), S::F::splat(self.scale));
        for (y, o) in self
            .y
            .chunks_mut(S::LANES)
            .zip(self.o.chunks_exact(S::LANES))
        {
            store_part(simd, canonical(simd.load(o).div(l).mul(scale)), y);
        }
    }
}
