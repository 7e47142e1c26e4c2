//! The convolution with lanes over channels, threads over blocks of channels of one sequence.

use std::ops::Range;

use jetblock_numerics::math::silu;
use jetblock_numerics::{Lanes, canonical};
use jetblock_simd::{Cpu, Kernel, Simd, TileMut, fp_env, steps, tiles};

use super::CausalConv1d;
use crate::row::{load_part, store_part};
use crate::{OpError, Segment};

/// Rows and columns of a thread's share: its part of the weights stays in the first-level cache, its part of a row is
/// long enough to be fetched ahead.
const ROWS: usize = 64;
const COLUMNS: usize = 2048;
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
        let columns = steps(self.channels(), COLUMNS);
        let (mut inputs, mut rows) = (Vec::new(), Vec::new());
        for (segment, carried) in self.segments.iter().zip(states.iter()) {
            for piece in steps(segment.len(), ROWS) {
                rows.push(segment.rows.start + piece.start..segment.rows.start + piece.end);
                for columns in columns.clone() {
                    let (first, t) = (segment.rows.start, piece.start);
                    inputs.push(Input {
                        op: self,
                        first,
                        t,
                        columns,
                        carried,
                    });
                }
            }
        }
        let out = tiles(out, self.channels(), &rows, &columns);
        let blocks = inputs
            .into_iter()
            .zip(out)
            .map(|(input, out)| Block { input, out });
        cpu.par_items(blocks.collect(), |block| cpu.run(block));

        let segments = self.segments.iter().zip(states);
        let carries = segments.map(|(segment, state)| Carry {
            op: self,
            segment,
            state,
        });
        cpu.par_items(carries.collect(), |carry| cpu.run(carry));
        Ok(())
    }
}

/// Some columns of some rows of one sequence.
struct Block<'a> {
    input: Input<'a>,
    out: TileMut<'a, f32>,
}

impl Kernel for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        for row in 0..self.out.rows() {
            self.input
                .convolve(simd, self.input.t + row, self.out.row_mut(row));
        }
    }
}

/// Brings a state forward past its segment.
struct Carry<'a, 's> {
    op: &'a CausalConv1d<'a>,
    segment: &'a Segment,
    state: &'a mut &'s mut [f32],
}

impl Kernel for Carry<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (channels, history) = (self.op.channels(), self.op.history());
        for j in 0..history {
            let (from, to) = (self.segment.len() + j, j * channels);
            if from < history {
                self.state
                    .copy_within(from * channels..(from + 1) * channels, to);
            } else {
                let row = self.op.x.row(self.segment.rows.start + from - history);
                self.state[to..to + channels].copy_from_slice(row);
            }
            for v in self.state[to..to + channels].chunks_mut(S::LANES) {
                store_part(simd, canonical(load_part(simd, v)), v);
            }
        }
    }
}

/// Some columns of a segment's rows of x, preceded by the carried ones.
struct Input<'a> {
    op: &'a CausalConv1d<'a>,
    /// First row of the segment.
    first: usize,
    /// First output row of the block, counted from there.
    t: usize,
    columns: Range<usize>,
    carried: &'a [f32],
}

impl Input<'_> {
    /// Row `i`, where row K - 1 is the segment's first.
    #[inline(always)]
    fn row(&self, i: usize) -> &[f32] {
        let history = self.op.history();
        let row = if i < history {
            &self.carried[i * self.op.channels()..]
        } else {
            self.op.x.row(self.first + i - history)
        };
        &row[self.columns.clone()]
    }

    #[inline(always)]
    fn weight(&self, t: usize, k: usize) -> &[f32] {
        &self.op.tap(self.first + t, k)[self.columns.clone()]
    }

    /// Output row `t` of the segment.
    #[inline(always)]
    fn convolve<S: Simd>(&self, simd: S, t: usize, y: &mut [f32]) {
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
    }

    /// Brings the accumulators in `y` over `N` kernel positions from `k`: from the bias at the first, into silu at the
    /// last. Returns `N`.
    #[inline(always)]
    fn accumulate<S: Simd, const N: usize>(
        &self,
        simd: S,
        t: usize,
        k: usize,
        y: &mut [f32],
    ) -> usize {
        let width = y.len();
        let mut x: [&[f32]; N] = [&[]; N];
        let mut w: [&[f32]; N] = [&[]; N];
        for i in 0..N {
            x[i] = &self.row(t + k + i)[..width];
            w[i] = &self.weight(t, k + i)[..width];
        }
        let bias = self
            .op
            .bias
            .map(|bias| &bias[self.columns.clone()][..width]);
        let is_last = k + N == self.op.history() + 1;
        let mut start = 0;
        while start < width {
            let end = width.min(start + S::LANES);
            let mut acc = match bias {
                _ if k > 0 => load_part(simd, &y[start..end]),
                Some(bias) => load_part(simd, &bias[start..end]),
                None => S::F::splat(0.0),
            };
            for i in 0..N {
                acc =
                    load_part(simd, &w[i][start..end]).fma(load_part(simd, &x[i][start..end]), acc);
            }
            if is_last {
                acc = silu(acc);
            }
            store_part(simd, acc, &mut y[start..end]);
            start = end;
        }
        N
    }
}
