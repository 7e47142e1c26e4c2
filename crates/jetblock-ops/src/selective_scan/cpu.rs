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

/// Tokens that pass over a block of the state together: enough that fetching the block costs little beside them.
const TOKENS: usize = 32;
/// Most heads a thread takes together. Their parts of a row of x lie side by side, and a group of them reads the same
/// b and c.
const HEADS: usize = 8;
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
        let shares = cpu.threads() * 4;
        let together = (heads * rows.len() / shares).clamp(1, HEADS);
        let shares = steps(heads, together);
        let mut out = tiles(
            out,
            heads * head_dim,
            &rows,
            &steps(heads * head_dim, together * head_dim),
        )
        .into_iter();
        let mut items = Vec::with_capacity(out.len());
        for (rows, state) in rows.iter().zip(states) {
            let states = state.chunks_mut(together * self.state_len() * head_dim);
            for (heads, state) in shares.iter().zip(states) {
                let out = out
                    .next()
                    .expect("there is a tile for each segment and share");
                let (rows, heads, time_steps) = (rows.clone(), heads.clone(), &time_steps[..]);
                items.push(Share {
                    op: self,
                    time_steps,
                    heads,
                    rows,
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

/// Some heads of one sequence.
struct Share<'a> {
    op: &'a SelectiveScan<'a>,
    time_steps: &'a [f32],
    heads: Range<usize>,
    rows: Range<usize>,
    /// `[heads, N, P]`.
    state: &'a mut [f32],
    out: TileMut<'a, f32>,
}

impl Kernel for Share<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        // Each of these is a division: not for the inner loops.
        let (heads, head_dim) = (self.op.heads(), self.op.head_dim());
        let size = self.op.state_len() * head_dim;
        let vectors = head_dim.div_ceil(S::LANES);
        let mut vy = Rows {
            vectors,
            v: vec![S::F::splat(0.0); TOKENS * vectors],
            y: vec![S::F::splat(0.0); TOKENS * vectors],
            padded: vec![0.0; STATE_BLOCK * S::LANES],
        };
        for start in self.rows.clone().step_by(TOKENS) {
            let rows = start..self.rows.end.min(start + TOKENS);
            for (i, state) in self.state.chunks_exact_mut(size).enumerate() {
                let mut tile = Tile {
                    op: self.op,
                    time_steps: self.time_steps,
                    heads,
                    head: self.heads.start + i,
                    head_dim,
                    group_start: self.op.group_columns(self.heads.start + i).start,
                    rows: rows.clone(),
                    is_last: rows.end == self.rows.end,
                    out: &mut self.out,
                    out_row: start - self.rows.start,
                    out_column: i * head_dim,
                };
                tile.scan_head(simd, state, &mut vy);
            }
        }
    }
}

/// One head over some rows of one sequence.
struct Tile<'a, 't> {
    op: &'a SelectiveScan<'a>,
    time_steps: &'a [f32],
    heads: usize,
    head: usize,
    head_dim: usize,
    /// First of the head's columns in `b` and `c`.
    group_start: usize,
    rows: Range<usize>,
    /// Whether the sequence has no rows after these.
    is_last: bool,
    out: &'t mut TileMut<'a, f32>,
    /// Where the tile's first row and the head's first column are in `out`.
    out_row: usize,
    out_column: usize,
}

/// What a tile's tokens write into the state, `dt * x`, and what they have read from it so far: `[TOKENS, vectors]`.
struct Rows<F> {
    /// Vectors to a head.
    vectors: usize,
    v: Vec<F>,
    y: Vec<F>,
    /// A block of the state with one full vector to a row.
    padded: Vec<f32>,
}

/// Some vectors of every row of a block of the state `[32, stride]`, from column `p`.
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

impl Tile<'_, '_> {
    /// All tokens over the head's state `[N, P]`.
    #[inline(always)]
    fn scan_head<S: Simd>(&mut self, simd: S, state: &mut [f32], vy: &mut Rows<S::F>) {
        for (t, r) in self.rows.clone().enumerate() {
            let dt = S::F::splat(self.time_steps[r * 2 * self.heads + self.head]);
            for j in 0..vy.vectors {
                vy.v[t * vy.vectors + j] = dt.mul(load_part(simd, self.x(r, j * S::LANES)));
                vy.y[t * vy.vectors + j] = S::F::splat(0.0);
            }
        }
        for (i, block) in state.chunks_mut(STATE_BLOCK * self.head_dim).enumerate() {
            self.scan_block(simd, i * STATE_BLOCK, block, vy);
        }
        self.finish(simd, vy);
    }

    /// All tokens over one block of the state, the rows from `n`.
    #[inline(always)]
    fn scan_block<S: Simd>(&self, simd: S, n: usize, block: &mut [f32], vy: &mut Rows<S::F>) {
        let stride = self.head_dim;
        let mut j = 0;
        while j < vy.vectors {
            let p = j * S::LANES;
            let left = stride - p;
            let strip = Strip {
                data: &mut *block,
                stride,
                p,
            };
            // As many vectors as leave registers for two tokens: there are 32 at sixteen lanes, 16 at eight. One token
            // leaves more, and waits for memory, which prefers long runs.
            if (S::LANES == 16 || self.rows.len() == 1) && left >= 4 * S::LANES {
                self.pass_tokens::<S, 4>(simd, n, strip, j, vy);
                j += 4;
            } else if left >= 2 * S::LANES {
                self.pass_tokens::<S, 2>(simd, n, strip, j, vy);
                j += 2;
            } else {
                self.pass_last_vector(simd, n, strip, j, vy);
                j += 1;
            }
        }
    }

    /// One vector of columns. It may be the last of a row and not full: then it goes through a copy with full rows.
    #[inline(always)]
    fn pass_last_vector<S: Simd>(
        &self,
        simd: S,
        n: usize,
        strip: Strip,
        j: usize,
        vy: &mut Rows<S::F>,
    ) {
        let Strip { data, stride, p } = strip;
        let width = S::LANES.min(stride - p);
        let mut padded = std::mem::take(&mut vy.padded);
        let len = data.len() / stride * S::LANES;
        for (row, padded) in data.chunks(stride).zip(padded.chunks_mut(S::LANES)) {
            padded[..width].copy_from_slice(&row[p..p + width]);
        }
        let strip = Strip {
            data: &mut padded[..len],
            stride: S::LANES,
            p: 0,
        };
        self.pass_tokens::<S, 1>(simd, n, strip, j, vy);
        for (row, padded) in data.chunks_mut(stride).zip(padded.chunks(S::LANES)) {
            row[p..p + width].copy_from_slice(&padded[..width]);
        }
        vy.padded = padded;
    }

    /// All tokens over `V` vectors of a block of the state, in which they are number `j` and following.
    #[inline(always)]
    fn pass_tokens<S: Simd, const V: usize>(
        &self,
        simd: S,
        n: usize,
        mut strip: Strip,
        j: usize,
        vy: &mut Rows<S::F>,
    ) {
        let n = n..n + strip.data.len() / strip.stride;
        let mut t = 0;
        while t < self.rows.len() {
            let first = t * vy.vectors + j;
            let second = first + vy.vectors;
            let is_last = |tokens: usize| self.is_last && t + tokens == self.rows.len();
            t += if t + 1 < self.rows.len() {
                let v = [&vy.v[first..first + V], &vy.v[second..second + V]];
                let tokens = self.tokens::<S, V, 2>(t, n.clone(), v);
                let part = if is_last(2) {
                    pass::<S, V, 2, true>(simd, &mut strip, tokens)
                } else {
                    pass::<S, V, 2, false>(simd, &mut strip, tokens)
                };
                add::<S, V>(&mut vy.y[first..first + V], part[0]);
                add::<S, V>(&mut vy.y[second..second + V], part[1]);
                2
            } else {
                let tokens = self.tokens::<S, V, 1>(t, n.clone(), [&vy.v[first..first + V]]);
                let part = if is_last(1) {
                    pass::<S, V, 1, true>(simd, &mut strip, tokens)
                } else {
                    pass::<S, V, 1, false>(simd, &mut strip, tokens)
                };
                add::<S, V>(&mut vy.y[first..first + V], part[0]);
                1
            };
        }
    }

    /// `T` tokens from the tile's token `t`.
    #[inline(always)]
    fn tokens<S: Simd, const V: usize, const T: usize>(
        &self,
        t: usize,
        n: Range<usize>,
        v: [&[S::F]; T],
    ) -> Tokens<'_, S::F, V, T> {
        let (op, r) = (self.op, self.rows.start + t);
        let n = self.group_start + n.start..self.group_start + n.end;
        // Loops, not `map` or `from_fn`: closures over vectors may stay calls, without the target features.
        let mut tokens = Tokens {
            decay: [S::F::splat(0.0); T],
            v: [[S::F::splat(0.0); V]; T],
            b: [&[]; T],
            c: [&[]; T],
        };
        for t in 0..T {
            let decay = self.time_steps[((r + t) * 2 + 1) * self.heads + self.head];
            tokens.decay[t] = S::F::splat(decay);
            for i in 0..V {
                tokens.v[t][i] = v[t][i];
            }
            tokens.b[t] = &op.b.row(r + t)[n.clone()];
            tokens.c[t] = &op.c.row(r + t)[n.clone()];
        }
        tokens
    }

    /// x of one token from column `p`: a vector, or what is left of the head.
    #[inline(always)]
    fn x(&self, r: usize, p: usize) -> &[f32] {
        &self.op.x.row(r)[self.head * self.head_dim..][p..self.head_dim]
    }

    /// Adds the skip connection and stores the outputs.
    #[inline(always)]
    fn finish<S: Simd>(&mut self, simd: S, vy: &Rows<S::F>) {
        let d = S::F::splat(self.op.d[self.head]);
        for (t, r) in self.rows.clone().enumerate() {
            let out = &mut self.out.row_mut(self.out_row + t)[self.out_column..];
            let out = out[..self.head_dim].chunks_mut(S::LANES);
            let x = self.op.x.row(r)[self.head * self.head_dim..].chunks(S::LANES);
            for ((out, x), y) in out.zip(x).zip(&vy.y[t * vy.vectors..]) {
                store_part(simd, canonical(d.fma(load_part(simd, x), *y)), out);
            }
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
        let mut b = [S::F::splat(0.0); T];
        let mut c = [S::F::splat(0.0); T];
        for t in 0..T {
            b[t] = S::F::splat(tokens.b[t][n]);
            c[t] = S::F::splat(tokens.c[t][n]);
        }
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
fn add<S: Simd, const V: usize>(total: &mut [S::F], part: [S::F; V]) {
    for i in 0..V {
        total[i] = total[i].add(part[i]);
    }
}
