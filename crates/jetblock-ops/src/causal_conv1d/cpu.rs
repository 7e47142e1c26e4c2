//! The convolution with lanes over channels, threads over blocks of channels of one sequence.

use std::ops::Range;
use std::slice;

use jetblock_numerics::math::silu;
use jetblock_numerics::{Lanes, canonical};
use jetblock_simd::{Cpu, Kernel, Simd, TileMut, fp_env, steps, tiles};

use super::CausalConv1d;
use crate::OpError;
use crate::row::{load_part, store_part};

/// Outputs that are worth a thread's while.
const GRAIN: usize = 8 * 1024;
/// Fewest channels in a block: a row's part is then some cache lines long.
const CHANNELS: usize = 256;
/// Kernel positions taken in one pass over a row. Released models have K = 4: one pass.
const TAPS: usize = 4;

impl CausalConv1d<'_> {
    /// The same bits as [`CausalConv1d::reference`], faster.
    pub fn cpu(
        &self,
        states: &mut [&mut [f32]],
        out: &mut [f32],
        cpu: &Cpu,
    ) -> Result<(), OpError> {
        self.check_all(states, out)?;
        let _guard = fp_env::Guard::new();
        let channels = self.channels();
        let rows: Vec<_> = self
            .segments
            .iter()
            .map(|segment| segment.rows.clone())
            .collect();
        let longest = rows.iter().map(Range::len).max().unwrap_or(0).max(1);
        let columns = steps(channels, (GRAIN / longest).max(CHANNELS));

        let carried = 0..self.history();
        let mut out = tiles(out, channels, &rows, &columns).into_iter();
        let mut blocks = Vec::with_capacity(out.len());
        for (rows, state) in rows.iter().zip(states) {
            for (state, columns) in tiles(state, channels, slice::from_ref(&carried), &columns)
                .into_iter()
                .zip(&columns)
            {
                let out = out
                    .next()
                    .expect("there is a tile for each segment and block");
                blocks.push(Block {
                    op: self,
                    rows: rows.clone(),
                    columns: columns.clone(),
                    state,
                    out,
                });
            }
        }
        cpu.par_items(blocks, |block| cpu.run(block));
        Ok(())
    }
}

/// Some channels of one sequence.
struct Block<'a> {
    op: &'a CausalConv1d<'a>,
    rows: Range<usize>,
    columns: Range<usize>,
    state: TileMut<'a, f32>,
    out: TileMut<'a, f32>,
}

impl Kernel for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        // The carried rows are copied because they are overwritten at the end.
        let mut carried = Vec::with_capacity(self.op.history() * self.columns.len());
        for j in 0..self.op.history() {
            carried.extend_from_slice(self.state.row_mut(j));
        }
        let input = Input {
            op: self.op,
            first: self.rows.start,
            columns: self.columns,
            carried: &carried,
        };
        for t in 0..self.out.rows() {
            input.convolve(simd, t, self.out.row_mut(t));
        }
        for j in 0..self.op.history() {
            let (last, state) = (input.row(self.out.rows() + j), self.state.row_mut(j));
            for (x, state) in last.chunks(S::LANES).zip(state.chunks_mut(S::LANES)) {
                store_part(simd, canonical(load_part(simd, x)), state);
            }
        }
    }
}

/// A block's rows of x, preceded by the carried ones.
struct Input<'a> {
    op: &'a CausalConv1d<'a>,
    first: usize,
    columns: Range<usize>,
    carried: &'a [f32],
}

impl Input<'_> {
    /// Row `i`, where row K - 1 is the segment's first.
    #[inline(always)]
    fn row(&self, i: usize) -> &[f32] {
        let (history, width) = (self.op.history(), self.columns.len());
        if i < history {
            &self.carried[i * width..][..width]
        } else {
            &self.op.x.row(self.first + i - history)[self.columns.clone()]
        }
    }

    #[inline(always)]
    fn weight(&self, k: usize) -> &[f32] {
        &self.op.weight[k * self.op.channels()..][self.columns.clone()]
    }

    /// Output row `t` of the segment.
    #[inline(always)]
    fn convolve<S: Simd>(&self, simd: S, t: usize, y: &mut [f32]) {
        match self.op.bias {
            Some(bias) => y.copy_from_slice(&bias[self.columns.clone()]),
            None => y.fill(0.0),
        }
        let kernel = self.op.history() + 1;
        let mut k = 0;
        while k < kernel {
            // The row stays in the first-level cache between passes.
            k += match kernel - k {
                1 => self.accumulate::<S, 1>(simd, t, k, y),
                2 => self.accumulate::<S, 2>(simd, t, k, y),
                3 => self.accumulate::<S, 3>(simd, t, k, y),
                _ => self.accumulate::<S, TAPS>(simd, t, k, y),
            };
        }
        for y in y.chunks_mut(S::LANES) {
            store_part(simd, silu(load_part(simd, y)), y);
        }
    }

    /// Adds `N` kernel positions to the accumulators in `y`; returns `N`.
    #[inline(always)]
    fn accumulate<S: Simd, const N: usize>(
        &self,
        simd: S,
        t: usize,
        k: usize,
        y: &mut [f32],
    ) -> usize {
        let x: [&[f32]; N] = std::array::from_fn(|i| &self.row(t + k + i)[..y.len()]);
        let w: [&[f32]; N] = std::array::from_fn(|i| &self.weight(k + i)[..y.len()]);
        for start in (0..y.len()).step_by(S::LANES) {
            let end = y.len().min(start + S::LANES);
            let mut acc = load_part(simd, &y[start..end]);
            for i in 0..N {
                acc =
                    load_part(simd, &w[i][start..end]).fma(load_part(simd, &x[i][start..end]), acc);
            }
            store_part(simd, acc, &mut y[start..end]);
        }
        N
    }
}
