//! Rows that lie side by side: lanes run over rows, and each of a row's 32 accumulators is a vector in memory.

use jetblock_numerics::reduce::{ROW_BLOCK, ROW_LANES};
use jetblock_numerics::{Lanes, canonical, max, min};
use jetblock_simd::{Kernel, Simd};

use super::Reduction;
use crate::row::load_part;

/// Rows that are reduced together: their accumulators take 8 KiB.
pub(super) const TILE: usize = 64;

/// Up to [`TILE`] neighbouring rows.
pub(super) struct Tile<'a> {
    pub(super) reduction: Reduction,
    /// From the first element of the first row on.
    pub(super) x: &'a [f32],
    /// Elements of a row.
    pub(super) len: usize,
    /// Distance between neighbours of a row.
    pub(super) stride: usize,
    /// One for each row.
    pub(super) out: &'a mut [f32],
}

impl Kernel for Tile<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (width, len) = (self.out.len(), self.len);
        let rows = Rows {
            x: self.x,
            len,
            stride: self.stride,
            width,
        };
        let zero = [0.0; TILE];
        let reduced = match self.reduction {
            Reduction::Sum | Reduction::Mean => rows.sum::<S, false>(simd, &zero),
            Reduction::SumOfSquares => rows.sum::<S, true>(simd, &zero),
            Reduction::Var { .. } => {
                let mut mean = rows.sum::<S, false>(simd, &zero);
                for mean in &mut mean {
                    *mean /= len as f32;
                }
                rows.sum::<S, true>(simd, &mean)
            }
            Reduction::Amax => rows.extreme::<S, true>(simd),
            Reduction::Amin => rows.extreme::<S, false>(simd),
        };
        for j in 0..width {
            self.out[j] = canonical(self.reduction.divide(reduced[j], len));
        }
    }
}

struct Rows<'a> {
    x: &'a [f32],
    len: usize,
    stride: usize,
    width: usize,
}

impl Rows<'_> {
    /// The sum of `x`, or of `(x - mean)` squared, in the order of a row reduction.
    #[inline(always)]
    fn sum<S: Simd, const SQUARES: bool>(&self, simd: S, mean: &[f32; TILE]) -> [f32; TILE] {
        let blocks = self.len.div_ceil(ROW_BLOCK);
        if blocks <= 1 {
            return self.block::<S, SQUARES>(simd, mean, 0, self.len);
        }
        let mut results = Vec::with_capacity(blocks * TILE);
        for b in 0..blocks {
            let end = self.len.min((b + 1) * ROW_BLOCK);
            let result = self.block::<S, SQUARES>(simd, mean, b * ROW_BLOCK, end);
            results.extend_from_slice(&result);
        }
        self.sum_of_results(simd, results)
    }

    /// Results of blocks are summed by the same rule until one is left.
    #[inline(always)]
    fn sum_of_results<S: Simd>(&self, simd: S, mut results: Vec<f32>) -> [f32; TILE] {
        loop {
            let len = results.len() / TILE;
            let rows = Rows {
                x: &results,
                len,
                stride: TILE,
                width: self.width,
            };
            let mut next = Vec::new();
            let mut start = 0;
            while start < len {
                let end = len.min(start + ROW_BLOCK);
                let result = rows.block::<S, false>(simd, &[0.0; TILE], start, end);
                if len <= ROW_BLOCK {
                    return result;
                }
                next.extend_from_slice(&result);
                start = end;
            }
            results = next;
        }
    }

    /// One block, elements `start..end`.
    #[inline(always)]
    fn block<S: Simd, const SQUARES: bool>(
        &self,
        simd: S,
        mean: &[f32; TILE],
        start: usize,
        end: usize,
    ) -> [f32; TILE] {
        let mut lanes = [[0.0_f32; TILE]; ROW_LANES];
        for e in start..end {
            let x = &self.x[e * self.stride..][..self.width];
            let lane = &mut lanes[(e - start) % ROW_LANES];
            let mut at = 0;
            while at < self.width {
                let x = load_part(simd, &x[at..]);
                let acc = simd.load(&lane[at..]);
                let next = if SQUARES {
                    let d = x.sub(simd.load(&mean[at..]));
                    d.fma(d, acc)
                } else {
                    acc.add(x)
                };
                simd.store(next, &mut lane[at..]);
                at += S::LANES;
            }
        }
        let mut half = ROW_LANES / 2;
        while half > 0 {
            for i in 0..half {
                for j in 0..TILE {
                    lanes[i][j] += lanes[i + half][j];
                }
            }
            half /= 2;
        }
        lanes[0]
    }

    #[inline(always)]
    fn extreme<S: Simd, const LARGEST: bool>(&self, simd: S) -> [f32; TILE] {
        let start = if LARGEST {
            f32::NEG_INFINITY
        } else {
            f32::INFINITY
        };
        let mut acc = [start; TILE];
        for e in 0..self.len {
            let x = &self.x[e * self.stride..][..self.width];
            let mut at = 0;
            while at < self.width {
                let (x, before) = (load_part(simd, &x[at..]), simd.load(&acc[at..]));
                let next = if LARGEST {
                    max(before, x)
                } else {
                    min(before, x)
                };
                simd.store(next, &mut acc[at..]);
                at += S::LANES;
            }
        }
        acc
    }
}
