//! The rule with lanes over the columns of the state, which do not meet, and threads over sequences, heads and columns.
//!
//! Some columns of a head's state are copied to memory of their own, where a row is a few whole vectors, and all tokens
//! pass over them. What a token writes and what the next one reads first are one pass: the state is loaded and stored
//! once for each token.

use jetblock_numerics::math::{exp, rsqrt};
use jetblock_numerics::{Lanes, canonical};
use jetblock_simd::{Cpu, Kernel, Simd, TileMut, fp_env, steps, tiles};

use super::{GatedDeltaRule, L2_EPS};
use crate::OpError;
use crate::row::{self, MAX_LANES, load_part, store_part};

/// Columns of the state to a task: 128 of their rows fill half of a first-level cache.
const COLUMNS: usize = 32;
/// Vectors of columns that pass together: enough chains of fma to hide its latency.
const VECTORS: usize = 2;
/// Rows of the state in a block of the dot products.
const BLOCK: usize = 256;
/// Elements of q and k that are worth a thread's while.
const GRAIN: usize = 16 * 1024;

impl GatedDeltaRule<'_> {
    /// The same bits as [`GatedDeltaRule::reference`], faster.
    pub fn cpu(
        &self,
        states: &mut [&mut [f32]],
        out: &mut [f32],
        cpu: &Cpu,
    ) -> Result<(), OpError> {
        self.check_all(states, out)?;
        let _guard = fp_env::Guard::new();
        let (heads, keys, values) = (self.heads(), self.key_dim(), self.value_dim());

        let width = 2 * self.q.width() + heads;
        let mut prepared = vec![0.0; self.rows() * width];
        cpu.par_rows(
            &mut prepared,
            width,
            GRAIN.div_ceil(width),
            |first, rows| {
                cpu.run(Prepare {
                    op: self,
                    first,
                    rows,
                });
            },
        );

        let rows: Vec<_> = self.segments.iter().map(|s| s.rows.clone()).collect();
        let within = steps(values, COLUMNS);
        let columns: Vec<_> = (0..heads)
            .flat_map(|h| within.iter().map(move |c| (h, c)))
            .map(|(h, c)| h * values + c.start..h * values + c.end)
            .collect();
        let mut outs = tiles(out, heads * values, &rows, &columns).into_iter();
        let mut strips = Vec::with_capacity(outs.len());
        for (segment, state) in self.segments.iter().zip(states) {
            let parts = tiles(state, values, &steps(heads * keys, keys), &within);
            for (index, state) in parts.into_iter().enumerate() {
                strips.push(Strip {
                    op: self,
                    prepared: &prepared,
                    first: segment.rows.start,
                    head: index / within.len(),
                    column: columns[index].start,
                    state,
                    out: outs.next().expect("there is one for each state"),
                });
            }
        }
        cpu.par_items(strips, |strip| cpu.run(strip));
        Ok(())
    }
}

/// Rows of `[k [G, K] | q [G, K] | exp(g) [H]]`, k and q as the recurrence takes them.
struct Prepare<'a> {
    op: &'a GatedDeltaRule<'a>,
    first: usize,
    rows: &'a mut [f32],
}

impl Kernel for Prepare<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let op = self.op;
        let (width, keys) = (op.q.width(), op.key_dim());
        for (i, row) in self
            .rows
            .chunks_exact_mut(2 * width + op.heads())
            .enumerate()
        {
            let r = self.first + i;
            let (unit_k, rest) = row.split_at_mut(width);
            let (unit_q, decays) = rest.split_at_mut(width);
            for start in (0..width).step_by(keys) {
                let head = start..start + keys;
                let (k, q) = (&op.k.row(r)[head.clone()], &op.q.row(r)[head.clone()]);
                op.scale_head(simd, k, None, &mut unit_k[head.clone()]);
                op.scale_head(simd, q, Some(op.scale), &mut unit_q[head]);
            }
            let decays = decays.chunks_mut(S::LANES);
            for (out, g) in decays.zip(op.g.row(r).chunks(S::LANES)) {
                store_part(simd, exp(load_part(simd, g)), out);
            }
        }
    }
}

impl GatedDeltaRule<'_> {
    /// One head of q or k: to length 1 where that is asked for, then times `scale`.
    #[inline(always)]
    fn scale_head<S: Simd>(&self, simd: S, x: &[f32], scale: Option<f32>, out: &mut [f32]) {
        let factor = match self.qk_l2norm {
            true => Some(rsqrt(row::sum_of_squares(simd, x) + L2_EPS)),
            false => None,
        };
        for (x, out) in x.chunks(S::LANES).zip(out.chunks_mut(S::LANES)) {
            let mut v = load_part(simd, x);
            if let Some(factor) = factor {
                v = v.mul(S::F::splat(factor));
            }
            if let Some(scale) = scale {
                v = v.mul(S::F::splat(scale));
            }
            store_part(simd, v, out);
        }
    }
}

/// Some columns of one head of one sequence.
struct Strip<'a> {
    op: &'a GatedDeltaRule<'a>,
    prepared: &'a [f32],
    /// The sequence's first row.
    first: usize,
    head: usize,
    /// The first of the columns in a row of v.
    column: usize,
    /// `[K, columns]`.
    state: TileMut<'a, f32>,
    /// `[T, columns]`.
    out: TileMut<'a, f32>,
}

/// What a token brings, but v.
#[derive(Clone, Copy)]
struct Token<'a> {
    k: &'a [f32],
    q: &'a [f32],
    decay: f32,
    beta: f32,
}

impl Kernel for Strip<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let (tokens, width) = (self.out.rows(), self.state.cols());
        if tokens == 0 {
            return;
        }
        // Whole groups of vectors; what stands beside the columns is never used.
        let stride = width.next_multiple_of(VECTORS * S::LANES);
        let mut own = vec![0.0; self.state.rows() * stride];
        for (i, row) in own.chunks_exact_mut(stride).enumerate() {
            row[..width].copy_from_slice(self.state.row_mut(i));
        }
        for start in (0..width).step_by(VECTORS * S::LANES) {
            self.pass_tokens(simd, &mut own, stride, start);
        }
        for (i, row) in own.chunks_exact(stride).enumerate() {
            let to = self.state.row_mut(i).chunks_mut(S::LANES);
            for (from, to) in row.chunks_exact(S::LANES).zip(to) {
                store_part(simd, canonical(simd.load(from)), to);
            }
        }
    }
}

impl Strip<'_> {
    #[inline(always)]
    fn token(&self, t: usize) -> Token<'_> {
        let (op, r) = (self.op, self.first + t);
        let width = op.q.width();
        let row = &self.prepared[r * (2 * width + op.heads())..];
        let head = op.key_columns(self.head);
        Token {
            k: &row[head.clone()],
            q: &row[width..][head],
            decay: row[2 * width + self.head],
            beta: op.beta.row(r)[self.head],
        }
    }

    /// All tokens over the group of vectors from column `start`.
    #[inline(always)]
    fn pass_tokens<S: Simd>(&mut self, simd: S, state: &mut [f32], stride: usize, start: usize) {
        let tokens = self.out.rows();
        let end = self.state.cols().min(start + VECTORS * S::LANES);
        let mut read = decay_and_read(simd, &mut state[start..], stride, self.token(0));
        for t in 0..tokens {
            let token = self.token(t);
            let mut u = [S::F::splat(0.0); VECTORS];
            let mut v = [0.0; VECTORS * MAX_LANES];
            let row = self.op.v.row(self.first + t);
            v[..end - start].copy_from_slice(&row[self.column + start..self.column + end]);
            for i in 0..VECTORS {
                let wanted = simd.load(&v[i * S::LANES..]);
                u[i] = S::F::splat(token.beta).mul(wanted.sub(read[i]));
            }
            let o;
            if t + 1 < tokens {
                let next = self.token(t + 1);
                (o, read) = write_and_decay(simd, &mut state[start..], stride, token, u, next);
            } else {
                o = write(simd, &mut state[start..], stride, token, u);
            }
            let out = self.out.row_mut(t)[start..end].chunks_mut(S::LANES);
            for (o, out) in o.iter().zip(out) {
                store_part(simd, canonical(*o), out);
            }
        }
    }
}

/// `S = decay * S`; returns `dot(k, S)`.
#[inline(always)]
fn decay_and_read<S: Simd>(
    simd: S,
    state: &mut [f32],
    stride: usize,
    token: Token<'_>,
) -> [S::F; VECTORS] {
    let decay = S::F::splat(token.decay);
    let mut total = [S::F::splat(0.0); VECTORS];
    for (rows, k) in state.chunks_mut(BLOCK * stride).zip(token.k.chunks(BLOCK)) {
        let mut chain = [S::F::splat(0.0); VECTORS];
        for (row, &k) in rows.chunks_mut(stride).zip(k) {
            let k = S::F::splat(k);
            for i in 0..VECTORS {
                let part = &mut row[i * S::LANES..(i + 1) * S::LANES];
                let s = decay.mul(simd.load(part));
                chain[i] = k.fma(s, chain[i]);
                simd.store(s, part);
            }
        }
        add::<S>(&mut total, chain);
    }
    total
}

/// `S = fma(k, u, S)`; returns `dot(q, S)`.
#[inline(always)]
fn write<S: Simd>(
    simd: S,
    state: &mut [f32],
    stride: usize,
    token: Token<'_>,
    u: [S::F; VECTORS],
) -> [S::F; VECTORS] {
    let mut total = [S::F::splat(0.0); VECTORS];
    let blocks = token.k.chunks(BLOCK).zip(token.q.chunks(BLOCK));
    for (rows, (k, q)) in state.chunks_mut(BLOCK * stride).zip(blocks) {
        let mut chain = [S::F::splat(0.0); VECTORS];
        for (row, (&k, &q)) in rows.chunks_mut(stride).zip(k.iter().zip(q)) {
            let (k, q) = (S::F::splat(k), S::F::splat(q));
            for i in 0..VECTORS {
                let part = &mut row[i * S::LANES..(i + 1) * S::LANES];
                let s = k.fma(u[i], simd.load(part));
                chain[i] = q.fma(s, chain[i]);
                simd.store(s, part);
            }
        }
        add::<S>(&mut total, chain);
    }
    total
}

/// [`write`] of a token, then [`decay_and_read`] of the next.
#[inline(always)]
fn write_and_decay<S: Simd>(
    simd: S,
    state: &mut [f32],
    stride: usize,
    token: Token<'_>,
    u: [S::F; VECTORS],
    next: Token<'_>,
) -> ([S::F; VECTORS], [S::F; VECTORS]) {
    let decay = S::F::splat(next.decay);
    let (mut out, mut read) = ([S::F::splat(0.0); VECTORS], [S::F::splat(0.0); VECTORS]);
    let keys = token.k.chunks(BLOCK).zip(token.q.chunks(BLOCK));
    let blocks = keys.zip(next.k.chunks(BLOCK));
    for (rows, ((k, q), next_k)) in state.chunks_mut(BLOCK * stride).zip(blocks) {
        let mut out_chain = [S::F::splat(0.0); VECTORS];
        let mut read_chain = [S::F::splat(0.0); VECTORS];
        for (row, ((&k, &q), &next_k)) in rows.chunks_mut(stride).zip(k.iter().zip(q).zip(next_k)) {
            let (k, q, next_k) = (S::F::splat(k), S::F::splat(q), S::F::splat(next_k));
            for i in 0..VECTORS {
                let part = &mut row[i * S::LANES..(i + 1) * S::LANES];
                let s = k.fma(u[i], simd.load(part));
                out_chain[i] = q.fma(s, out_chain[i]);
                let s = decay.mul(s);
                read_chain[i] = next_k.fma(s, read_chain[i]);
                simd.store(s, part);
            }
        }
        add::<S>(&mut out, out_chain);
        add::<S>(&mut read, read_chain);
    }
    (out, read)
}

#[inline(always)]
fn add<S: Simd>(total: &mut [S::F; VECTORS], chain: [S::F; VECTORS]) {
    for i in 0..VECTORS {
        total[i] = total[i].add(chain[i]);
    }
}
