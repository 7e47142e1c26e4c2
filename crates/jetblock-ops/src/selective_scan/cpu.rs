//! The scan with lanes over p, threads over heads of one sequence.
//!
//! A tile of tokens passes over 32 rows of the state (one block of the dot product along n) before the next 32: those
//! rows stay in the first-level cache, and with two tokens at a time each is loaded and stored once for both. Every
//! chain of operations keeps its order, so neither the tile nor the pairs can be seen in the result.

use std::ops::Range;

use jetblock_numerics::math::{exp, softplus};
use jetblock_numerics::reduce::STATE_BLOCK;
use jetblock_numerics::{Lanes, canonical, max, min};
use jetblock_simd::{Cpu, Kernel, Simd, TileMut, fp_env, steps, tiles};

use super::SelectiveScan;
use crate::OpError;
use crate::row::{load_part, store_part};

/// Tokens that pass over a block of the state together. Their inputs and outputs share the first-level cache with it.
const TOKENS: usize = 16;
/// Time steps that are worth a thread's while.
const GRAIN: usize = 4 * 1024;

impl SelectiveScan<'_> {
    /// The same bits as [`SelectiveScan::reference`], faster.
    pub fn cpu(
        &self,
        states: &mut [&mut [f32]],
        out: &mut [f32],
        cpu: &Cpu,
    ) -> Result<(), OpError> {
        self.check_all(states, out)?;
        let _guard = fp_env::Guard::new();
        let (heads, head_dim) = (self.heads(), self.head_dim());

        let mut time_steps = vec![0.0; self.rows() * 2 * heads];
        cpu.par_rows(
            &mut time_steps,
            2 * heads,
            GRAIN.div_ceil(heads),
            |first, out| {
                cpu.run(TimeSteps {
                    op: self,
                    first,
                    out,
                });
            },
        );

        let rows: Vec<_> = self
            .segments
            .iter()
            .map(|segment| segment.rows.clone())
            .collect();
        let mut out = tiles(
            out,
            heads * head_dim,
            &rows,
            &steps(heads * head_dim, head_dim),
        )
        .into_iter();
        let mut items = Vec::with_capacity(out.len());
        for (rows, state) in rows.iter().zip(states) {
            for (head, state) in state
                .chunks_exact_mut(self.state_len() * head_dim)
                .enumerate()
            {
                let out = out
                    .next()
                    .expect("there is a tile for each segment and head");
                items.push(Head {
                    op: self,
                    time_steps: &time_steps,
                    head,
                    rows: rows.clone(),
                    state,
                    out,
                });
            }
        }
        cpu.par_items(items, |item| cpu.run(item));
        Ok(())
    }
}

/// Rows of `[dt [H] | dA [H]]`.
struct TimeSteps<'a> {
    op: &'a SelectiveScan<'a>,
    first: usize,
    out: &'a mut [f32],
}

impl Kernel for TimeSteps<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let op = self.op;
        let heads = op.heads();
        let (lo, hi) = (S::F::splat(op.dt_limit.0), S::F::splat(op.dt_limit.1));
        for (i, out) in self.out.chunks_exact_mut(2 * heads).enumerate() {
            let raw = op.dt_raw.row(self.first + i);
            let (dts, decays) = out.split_at_mut(heads);
            for start in (0..heads).step_by(S::LANES) {
                let range = start..heads.min(start + S::LANES);
                let biased = load_part(simd, &raw[range.clone()])
                    .add(load_part(simd, &op.dt_bias[range.clone()]));
                let dt = min(max(softplus(biased), lo), hi);
                store_part(simd, dt, &mut dts[range.clone()]);
                store_part(
                    simd,
                    exp(dt.mul(load_part(simd, &op.a[range.clone()]))),
                    &mut decays[range],
                );
            }
        }
    }
}

/// One head of one sequence.
struct Head<'a> {
    op: &'a SelectiveScan<'a>,
    time_steps: &'a [f32],
    head: usize,
    rows: Range<usize>,
    /// `[N, P]`.
    state: &'a mut [f32],
    out: TileMut<'a, f32>,
}

impl Kernel for Head<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let head_dim = self.op.head_dim();
        let state = std::mem::take(&mut self.state);
        let mut p = 0;
        while p < head_dim {
            let left = head_dim - p;
            let strip = Strip {
                data: &mut *state,
                stride: head_dim,
                p,
            };
            // As many vectors as leave registers for two tokens: there are 32 at sixteen lanes, 16 at eight.
            p += if S::LANES == 16 && left >= 4 * S::LANES {
                self.scan::<S, 4>(simd, strip, p)
            } else if left >= 2 * S::LANES {
                self.scan::<S, 2>(simd, strip, p)
            } else if left >= S::LANES {
                self.scan::<S, 1>(simd, strip, p)
            } else {
                self.scan_part(simd, state, p)
            };
        }
    }
}

/// `V` vectors of every row of a state `[N, stride]`, from column `p`.
struct Strip<'a> {
    data: &'a mut [f32],
    stride: usize,
    p: usize,
}

/// What `T` tokens bring to one block of the state.
struct Tokens<'a, F, const V: usize, const T: usize> {
    decay: [F; T],
    v: [[F; V]; T],
    b: [&'a [f32]; T],
    c: [&'a [f32]; T],
}

impl Head<'_> {
    /// The last columns, fewer than a vector: through a copy with full rows.
    #[inline(always)]
    fn scan_part<S: Simd>(&mut self, simd: S, state: &mut [f32], p: usize) -> usize {
        let head_dim = self.op.head_dim();
        let mut padded = vec![0.0; self.op.state_len() * S::LANES];
        for (row, padded) in state.chunks(head_dim).zip(padded.chunks_mut(S::LANES)) {
            padded[..head_dim - p].copy_from_slice(&row[p..]);
        }
        self.scan::<S, 1>(
            simd,
            Strip {
                data: &mut padded,
                stride: S::LANES,
                p: 0,
            },
            p,
        );
        for (row, padded) in state.chunks_mut(head_dim).zip(padded.chunks(S::LANES)) {
            row[p..].copy_from_slice(&padded[..head_dim - p]);
        }
        head_dim - p
    }

    /// All tokens over `V` vectors of columns from `p`; returns the number of columns.
    #[inline(always)]
    fn scan<S: Simd, const V: usize>(&mut self, simd: S, strip: Strip, p: usize) -> usize {
        let rows = self.rows.clone();
        for start in rows.clone().step_by(TOKENS) {
            let tile = start..rows.end.min(start + TOKENS);
            let mut v = [[S::F::splat(0.0); V]; TOKENS];
            let mut y = [[S::F::splat(0.0); V]; TOKENS];
            for (v, r) in v.iter_mut().zip(tile.clone()) {
                let dt = S::F::splat(self.dt(r));
                for i in 0..V {
                    v[i] = dt.mul(load_part(simd, self.x(r, p + i * S::LANES)));
                }
            }
            for (i, block) in strip
                .data
                .chunks_mut(STATE_BLOCK * strip.stride)
                .enumerate()
            {
                let strip = Strip {
                    data: block,
                    ..strip
                };
                self.pass_tile(simd, tile.clone(), i * STATE_BLOCK, strip, &v, &mut y);
            }
            for (t, r) in tile.enumerate() {
                self.finish(simd, r, p, y[t]);
            }
        }
        V * S::LANES
    }

    /// A tile of tokens over one block of the state, the rows from `n`.
    #[inline(always)]
    fn pass_tile<S: Simd, const V: usize>(
        &self,
        simd: S,
        tile: Range<usize>,
        n: usize,
        mut strip: Strip,
        v: &[[S::F; V]; TOKENS],
        y: &mut [[S::F; V]; TOKENS],
    ) {
        let len = strip.data.len() / strip.stride;
        let mut t = 0;
        while t < tile.len() {
            let r = tile.start + t;
            let left = self.rows.end - r;
            t += if t + 1 < tile.len() {
                let tokens = self.tokens::<S, V, 2>(r, n..n + len, [v[t], v[t + 1]]);
                let part = if left == 2 {
                    pass::<S, V, 2, true>(simd, &mut strip, tokens)
                } else {
                    pass::<S, V, 2, false>(simd, &mut strip, tokens)
                };
                add::<S, V>(&mut y[t], part[0]);
                add::<S, V>(&mut y[t + 1], part[1]);
                2
            } else {
                let tokens = self.tokens::<S, V, 1>(r, n..n + len, [v[t]]);
                let part = if left == 1 {
                    pass::<S, V, 1, true>(simd, &mut strip, tokens)
                } else {
                    pass::<S, V, 1, false>(simd, &mut strip, tokens)
                };
                add::<S, V>(&mut y[t], part[0]);
                1
            };
        }
    }

    #[inline(always)]
    fn tokens<S: Simd, const V: usize, const T: usize>(
        &self,
        r: usize,
        n: Range<usize>,
        v: [[S::F; V]; T],
    ) -> Tokens<'_, S::F, V, T> {
        let first = self.op.group_columns(self.head).start;
        let n = first + n.start..first + n.end;
        Tokens {
            decay: std::array::from_fn(|t| S::F::splat(self.decay(r + t))),
            v,
            b: std::array::from_fn(|t| &self.op.b.row(r + t)[n.clone()]),
            c: std::array::from_fn(|t| &self.op.c.row(r + t)[n.clone()]),
        }
    }

    #[inline(always)]
    fn dt(&self, r: usize) -> f32 {
        self.time_steps[r * 2 * self.op.heads() + self.head]
    }

    #[inline(always)]
    fn decay(&self, r: usize) -> f32 {
        self.time_steps[(r * 2 + 1) * self.op.heads() + self.head]
    }

    /// x of one token from column `p`: a vector, or what is left of the head.
    #[inline(always)]
    fn x(&self, r: usize, p: usize) -> &[f32] {
        let head_dim = self.op.head_dim();
        &self.op.x.row(r)[self.head * head_dim..][p..head_dim]
    }

    /// Adds the skip connection and stores one token's outputs.
    #[inline(always)]
    fn finish<S: Simd, const V: usize>(&mut self, simd: S, r: usize, p: usize, y: [S::F; V]) {
        let d = S::F::splat(self.op.d[self.head]);
        for i in 0..V {
            let p = p + i * S::LANES;
            let skipped = canonical(d.fma(load_part(simd, self.x(r, p)), y[i]));
            let out = &mut self.out.row_mut(r - self.rows.start)[p..];
            let len = out.len().min(S::LANES);
            store_part(simd, skipped, &mut out[..len]);
        }
    }
}

/// `T` tokens in order over one block of the state; returns each token's dot product with the block. After the last
/// token of a call (`LAST`) the stored state must hold canonical NaN.
#[inline(always)]
fn pass<S: Simd, const V: usize, const T: usize, const LAST: bool>(
    simd: S,
    strip: &mut Strip,
    tokens: Tokens<S::F, V, T>,
) -> [[S::F; V]; T] {
    let mut y = [[S::F::splat(0.0); V]; T];
    for (n, row) in strip.data.chunks_exact_mut(strip.stride).enumerate() {
        let row = &mut row[strip.p..strip.p + V * S::LANES];
        let b = tokens.b.map(|b| S::F::splat(b[n]));
        let c = tokens.c.map(|c| S::F::splat(c[n]));
        for i in 0..V {
            let part = &mut row[i * S::LANES..];
            let mut s = simd.load(part);
            for t in 0..T {
                s = tokens.decay[t].fma(s, tokens.v[t][i].mul(b[t]));
                y[t][i] = s.fma(c[t], y[t][i]);
            }
            simd.store(if LAST { canonical(s) } else { s }, part);
        }
    }
    y
}

#[inline(always)]
fn add<S: Simd, const V: usize>(total: &mut [S::F; V], part: [S::F; V]) {
    for i in 0..V {
        total[i] = total[i].add(part[i]);
    }
}
