//! Recurrences over a state `[K, V]` for each head whose columns do not meet, with lanes over columns.
//!
//! Some columns of a head's state are copied to memory of their own, where a row is a few whole vectors, and all tokens
//! of the sequence pass over them.

use std::ops::Range;

use jetblock_numerics::{Lanes, canonical};
use jetblock_simd::{Kernel, Simd, TileMut, steps, tiles};

use crate::row::{MAX_LANES, store_part};

/// Columns of the state to a task: 128 of their rows fill half of a first-level cache.
const COLUMNS: usize = 32;
/// Vectors of columns that pass together: enough chains of fma to hide its latency.
pub(crate) const VECTORS: usize = 2;
/// Rows of the state in a block of the dot products.
pub(crate) const BLOCK: usize = 256;

/// What the tokens of a sequence do to some columns of a head's state.
pub(crate) trait Recurrence: Sync {
    /// All tokens over one group of vectors.
    fn pass_tokens<S: Simd>(&self, simd: S, group: Group<'_>, out: &mut TileMut<'_, f32>);
}

/// A group of vectors of columns, in memory of its own.
pub(crate) struct Group<'a> {
    /// Rows of `stride`, of which the first `VECTORS` vectors are the group's.
    pub(crate) state: &'a mut [f32],
    pub(crate) stride: usize,
    /// The sequence's first row.
    pub(crate) first: usize,
    pub(crate) head: usize,
    /// Its columns in a row of v, and in a row of the output's tile.
    pub(crate) values: Range<usize>,
    pub(crate) outputs: Range<usize>,
}

/// Some columns of one head of one sequence: a task.
pub(crate) struct Strip<'a, R> {
    recurrence: &'a R,
    first: usize,
    head: usize,
    /// The first of the columns in a row of v.
    column: usize,
    /// `[K, columns]`.
    state: TileMut<'a, f32>,
    /// `[T, columns]`.
    out: TileMut<'a, f32>,
}

/// Sizes of the states.
#[derive(Clone, Copy)]
pub(crate) struct StateShape {
    pub(crate) heads: usize,
    /// K.
    pub(crate) keys: usize,
    /// V.
    pub(crate) values: usize,
    /// Elements in a row of a state, at least V.
    pub(crate) row_len: usize,
}

/// The tasks of sequences with these rows: states `[H, K, row_len]`, one for each, and the output `[R, H * V]`.
pub(crate) fn strips<'a, R: Recurrence>(
    recurrence: &'a R,
    shape: StateShape,
    rows: &[Range<usize>],
    states: &'a mut [&mut [f32]],
    out: &'a mut [f32],
) -> Vec<Strip<'a, R>> {
    let StateShape {
        heads,
        keys,
        values,
        row_len,
    } = shape;
    let within = steps(values, COLUMNS);
    let columns: Vec<_> = (0..heads)
        .flat_map(|h| within.iter().map(move |c| (h, c)))
        .map(|(h, c)| h * values + c.start..h * values + c.end)
        .collect();
    let mut outs = tiles(out, heads * values, rows, &columns).into_iter();
    let mut strips = Vec::with_capacity(outs.len());
    for (rows, state) in rows.iter().zip(states) {
        let parts = tiles(state, row_len, &steps(heads * keys, keys), &within);
        for (index, state) in parts.into_iter().enumerate() {
            strips.push(Strip {
                recurrence,
                first: rows.start,
                head: index / within.len(),
                column: columns[index].start,
                state,
                out: outs.next().expect("there is one for each state"),
            });
        }
    }
    strips
}

impl<R: Recurrence> Kernel for Strip<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let width = self.state.cols();
        if self.out.rows() == 0 {
            return;
        }
        // Whole groups of vectors; what stands beside the columns is never used.
        let stride = width.next_multiple_of(VECTORS * S::LANES);
        let mut own = vec![0.0; self.state.rows() * stride];
        for (i, row) in own.chunks_exact_mut(stride).enumerate() {
            row[..width].copy_from_slice(self.state.row_mut(i));
        }
        for start in (0..width).step_by(VECTORS * S::LANES) {
            let end = width.min(start + VECTORS * S::LANES);
            let group = Group {
                state: &mut own[start..],
                stride,
                first: self.first,
                head: self.head,
                values: self.column + start..self.column + end,
                outputs: start..end,
            };
            self.recurrence.pass_tokens(simd, group, &mut self.out);
        }
        for (i, row) in own.chunks_exact(stride).enumerate() {
            let to = self.state.row_mut(i).chunks_mut(S::LANES);
            for (from, to) in row.chunks_exact(S::LANES).zip(to) {
                store_part(simd, canonical(simd.load(from)), to);
            }
        }
    }
}

/// The vectors of a group from a slice that may be shorter; absent ones are `+0`.
#[inline(always)]
pub(crate) fn load_group<S: Simd>(simd: S, src: &[f32]) -> [S::F; VECTORS] {
    let mut padded = [0.0; VECTORS * MAX_LANES];
    padded[..src.len()].copy_from_slice(src);
    let mut vectors = [S::F::splat(0.0); VECTORS];
    for i in 0..VECTORS {
        vectors[i] = simd.load(&padded[i * S::LANES..]);
    }
    vectors
}

/// `S = fma(k, u, S)`; returns `dot(q, S)`.
#[inline(always)]
pub(crate) fn write_and_read<S: Simd>(
    simd: S,
    state: &mut [f32],
    stride: usize,
    k: &[f32],
    q: &[f32],
    u: [S::F; VECTORS],
) -> [S::F; VECTORS] {
    let mut total = [S::F::splat(0.0); VECTORS];
    let blocks = k.chunks(BLOCK).zip(q.chunks(BLOCK));
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

/// Adds the chains of a block to the totals of a dot product.
#[inline(always)]
pub(crate) fn add<S: Simd>(total: &mut [S::F; VECTORS], chain: [S::F; VECTORS]) {
    for i in 0..VECTORS {
        total[i] = total[i].add(chain[i]);
    }
}
