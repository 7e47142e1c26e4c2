//! Recurrences over a state `[K, V]` for each head whose columns do not meet, with lanes over columns.
//!
//! A task is a head of a sequence, or some of its columns where heads are fewer than threads. Its tokens go in pieces: q,
//! k and v are copied to where they lie side by side, since a head's parts of rows come from all over memory, and made
//! ready; then the piece passes over some columns of the state after others, copies too. So what a thread holds does not
//! grow with the sequence.

use std::ops::Range;

use jetblock_numerics::{Lanes, canonical};
use jetblock_simd::{Cpu, Kernel, Simd, TileMut, steps, tiles};

use crate::row::{load_part, store_part};
use crate::{Columns, Segment};

/// Tokens to a piece: enough that copying the state costs little beside them.
pub(crate) const TOKENS: usize = 64;
/// Most elements of q, k and v to a piece: 1 MiB.
const ELEMENTS: usize = 256 * 1024;
/// Columns of the state that a piece passes over: 128 of their rows fill half of a first-level cache.
const COLUMNS: usize = 32;
/// Vectors of columns that pass together: enough chains of fma to hide its latency.
pub(crate) const VECTORS: usize = 2;
/// Elements in a line of the cache.
const LINE: usize = 16;
/// Rows of the state in a block of the dot products.
pub(crate) const BLOCK: usize = 256;

/// What tokens do to the state of a head.
pub(crate) trait Recurrence: Sync {
    /// Makes a piece of tokens ready, and brings forward what stands beside the state: column V, where it has one.
    fn prepare<S: Simd>(&self, simd: S, piece: &mut Piece<'_>, beside: &mut [f32]);

    /// A piece of tokens over one group of columns; each token leaves its output where its v was.
    fn pass<S: Simd>(&self, simd: S, piece: &mut Piece<'_>, group: Group<'_>);
}

/// Tokens of one head.
pub(crate) struct Piece<'a> {
    pub(crate) head: usize,
    /// The batch's row of the first.
    pub(crate) first: usize,
    /// Numbers of each token that the recurrence gives a meaning.
    pub(crate) scalars: Vec<[f32; 2]>,
    /// `[tokens, K]`.
    k: &'a mut [f32],
    q: &'a mut [f32],
    keys: usize,
    /// `[tokens, whole groups of columns]`; what stands beside a task's columns is never used.
    v: &'a mut [f32],
    stride: usize,
}

/// What a token brings, but v.
#[derive(Clone, Copy)]
pub(crate) struct Token<'a> {
    pub(crate) k: &'a [f32],
    pub(crate) q: &'a [f32],
    pub(crate) scalars: [f32; 2],
}

impl Piece<'_> {
    /// Number of tokens.
    pub(crate) fn len(&self) -> usize {
        self.scalars.len()
    }

    #[inline(always)]
    pub(crate) fn token(&self, t: usize) -> Token<'_> {
        let keys = t * self.keys..(t + 1) * self.keys;
        Token {
            k: &self.k[keys.clone()],
            q: &self.q[keys],
            scalars: self.scalars[t],
        }
    }

    /// k and q of a token.
    #[inline(always)]
    pub(crate) fn keys_mut(&mut self, t: usize) -> [&mut [f32]; 2] {
        let keys = t * self.keys..(t + 1) * self.keys;
        [&mut self.k[keys.clone()], &mut self.q[keys]]
    }

    /// A group of columns of a token's v.
    #[inline(always)]
    pub(crate) fn load_v<S: Simd>(&self, simd: S, t: usize, column: usize) -> [S::F; VECTORS] {
        let row = &self.v[t * self.stride + column..];
        let mut v = [S::F::splat(0.0); VECTORS];
        for i in 0..VECTORS {
            v[i] = simd.load(&row[i * S::LANES..]);
        }
        v
    }

    /// The output takes its place.
    #[inline(always)]
    pub(crate) fn store_out<S: Simd>(
        &mut self,
        simd: S,
        t: usize,
        column: usize,
        out: [S::F; VECTORS],
    ) {
        let row = &mut self.v[t * self.stride + column..];
        for i in 0..VECTORS {
            simd.store(canonical(out[i]), &mut row[i * S::LANES..]);
        }
    }
}

/// A group of vectors of columns, in memory of its own.
pub(crate) struct Group<'a> {
    /// Rows of `stride`, of which the first `VECTORS` vectors are the group's.
    pub(crate) state: &'a mut [f32],
    pub(crate) stride: usize,
    /// Its first column in the piece.
    pub(crate) column: usize,
}

/// What all recurrences read, and their shapes.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    /// `[R, G, K]`.
    pub(crate) q: &'a Columns<'a>,
    pub(crate) k: &'a Columns<'a>,
    /// `[R, H, V]`.
    pub(crate) v: &'a Columns<'a>,
    pub(crate) groups: usize,
    pub(crate) heads: usize,
    /// Elements in a row of a state, V or V + 1.
    pub(crate) row_len: usize,
}

/// Brings states `[H, K, row_len]`, one for each segment, past its rows; the output is `[R, H * V]`.
pub(crate) fn pass_all<R: Recurrence>(
    recurrence: &R,
    inputs: Inputs<'_>,
    segments: &[Segment],
    states: &mut [&mut [f32]],
    out: &mut [f32],
    cpu: &Cpu,
) {
    let Inputs { heads, row_len, .. } = inputs;
    let (keys, values) = (inputs.q.width() / inputs.groups, inputs.v.width() / heads);
    let rows: Vec<_> = segments.iter().map(|s| s.rows.clone()).collect();
    let columns = steps(values, columns_of_task(values, heads * rows.len(), cpu));
    // The last task of a head stores what stands beside.
    let mut with_beside = columns.clone();
    with_beside.last_mut().expect("V is positive").end = row_len;
    let out_columns: Vec<_> = (0..heads)
        .flat_map(|h| columns.iter().map(move |c| (h, c)))
        .map(|(h, c)| h * values + c.start..h * values + c.end)
        .collect();
    let mut outs = tiles(out, heads * values, &rows, &out_columns).into_iter();
    let mut tasks = Vec::with_capacity(outs.len());
    for (rows, state) in rows.iter().zip(states) {
        let size = keys * row_len;
        let beside: Vec<_> = (0..heads * columns.len())
            .map(|i| &state[i / columns.len() * size..][..size])
            .map(|head| column_beside(head, row_len, values))
            .collect();
        let parts = tiles(state, row_len, &steps(heads * keys, keys), &with_beside);
        for (index, (state, beside)) in parts.into_iter().zip(beside).enumerate() {
            let head = index / columns.len();
            let group = head / (heads / inputs.groups);
            tasks.push(Task {
                recurrence,
                inputs,
                rows: rows.clone(),
                head,
                keys: group * keys..(group + 1) * keys,
                values: out_columns[index].clone(),
                beside,
                state,
                out: outs.next().expect("there is one for each state"),
            });
        }
    }
    cpu.par_items(tasks, |task| cpu.run(task));
}

/// As many as keep all threads busy, and no fewer: each task prepares its tokens for itself.
fn columns_of_task(values: usize, heads: usize, cpu: &Cpu) -> usize {
    let (threads, most) = (cpu.threads(), values.div_ceil(COLUMNS));
    let is_busy = |&n: &usize| (heads * n).is_multiple_of(threads) || heads * n >= 4 * threads;
    let tasks = (1..most).find(is_busy).unwrap_or(most);
    most.div_ceil(tasks) * COLUMNS
}

/// Column V of a head's state, where it has one.
fn column_beside(state: &[f32], row_len: usize, values: usize) -> Vec<f32> {
    let mut column = Vec::new();
    if row_len > values {
        column.extend(state[values..].iter().step_by(row_len));
    }
    column
}

/// Some columns of one head of one sequence.
struct Task<'a, R> {
    recurrence: &'a R,
    inputs: Inputs<'a>,
    rows: Range<usize>,
    head: usize,
    /// The head's columns in a row of q and k, and the task's in a row of v.
    keys: Range<usize>,
    values: Range<usize>,
    /// Column V of the head's state, where it has one; each task brings forward its own.
    beside: Vec<f32>,
    /// `[K, columns]`, in the head's last task with what stands beside.
    state: TileMut<'a, f32>,
    /// `[T, columns]`.
    out: TileMut<'a, f32>,
}

impl<R: Recurrence> Kernel for Task<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        const { assert!(COLUMNS.is_multiple_of(VECTORS * S::LANES)) };
        if self.rows.is_empty() {
            return;
        }
        let (keys, width) = (self.keys.len(), self.values.len());
        let group = VECTORS * S::LANES;
        let stride = width.next_multiple_of(group);
        let own_stride = width.min(COLUMNS).next_multiple_of(group);
        let together = ELEMENTS / (2 * keys + stride);
        let together = together.clamp(1, TOKENS).min(self.rows.len());

        let (own_len, v_len) = (keys * own_stride, together * stride);
        let mut scratch = vec![0.0; LINE + own_len + v_len + 2 * together * keys];
        // A vector that lies across two lines of the cache takes twice as long.
        let start = scratch.as_ptr().align_offset(LINE * size_of::<f32>());
        let (own, rest) = scratch[start.min(LINE)..].split_at_mut(own_len);
        let (v, rest) = rest.split_at_mut(v_len);
        let (k, rest) = rest.split_at_mut(together * keys);
        let mut piece = Piece {
            head: self.head,
            first: 0,
            scalars: vec![[0.0; 2]; together],
            k,
            q: &mut rest[..together * keys],
            keys,
            v,
            stride,
        };
        for start in (0..self.rows.len()).step_by(together) {
            let tokens = start..self.rows.len().min(start + together);
            self.fill(simd, &mut piece, &tokens);
            self.recurrence.prepare(simd, &mut piece, &mut self.beside);
            for start in (0..width).step_by(COLUMNS) {
                let columns = start..width.min(start + COLUMNS);
                self.pass(simd, &mut piece, columns, own, own_stride);
            }
            for (t, row) in tokens.zip(piece.v.chunks_exact(stride)) {
                copy(simd, &row[..width], self.out.row_mut(t));
            }
        }
        if self.state.cols() > width {
            for (i, &x) in self.beside.iter().enumerate() {
                self.state.row_mut(i)[width] = canonical(x);
            }
        }
    }
}

impl<R: Recurrence> Task<'_, R> {
    /// Makes a piece that of these of the sequence's tokens.
    #[inline(always)]
    fn fill<S: Simd>(&self, simd: S, piece: &mut Piece<'_>, tokens: &Range<usize>) {
        piece.first = self.rows.start + tokens.start;
        // Only the last one has fewer.
        piece.scalars.truncate(tokens.len());
        for t in 0..tokens.len() {
            let r = piece.first + t;
            let [k, q] = piece.keys_mut(t);
            copy(simd, &self.inputs.k.row(r)[self.keys.clone()], k);
            copy(simd, &self.inputs.q.row(r)[self.keys.clone()], q);
            let v = &mut piece.v[t * piece.stride..][..self.values.len()];
            copy(simd, &self.inputs.v.row(r)[self.values.clone()], v);
        }
    }

    /// A piece of tokens over some columns, on a copy of their state.
    #[inline(always)]
    fn pass<S: Simd>(
        &mut self,
        simd: S,
        piece: &mut Piece<'_>,
        columns: Range<usize>,
        own: &mut [f32],
        stride: usize,
    ) {
        for (i, row) in own.chunks_exact_mut(stride).enumerate() {
            copy(simd, &self.state.row_mut(i)[columns.clone()], row);
        }
        for column in columns.clone().step_by(VECTORS * S::LANES) {
            let group = Group {
                state: &mut own[column - columns.start..],
                stride,
                column,
            };
            self.recurrence.pass(simd, piece, group);
        }
        for (i, row) in own.chunks_exact(stride).enumerate() {
            let to = &mut self.state.row_mut(i)[columns.clone()];
            copy(simd, &row[..to.len()], to);
        }
    }
}

/// Copies a few vectors; any NaN becomes the canonical one.
#[inline(always)]
fn copy<S: Simd>(simd: S, from: &[f32], to: &mut [f32]) {
    let to = &mut to[..from.len()];
    let mut at = 0;
    while at + S::LANES <= from.len() {
        simd.store(canonical(simd.load(&from[at..])), &mut to[at..]);
        at += S::LANES;
    }
    if at < from.len() {
        store_part(simd, canonical(load_part(simd, &from[at..])), &mut to[at..]);
    }
}

/// `S = fma(k, u, S)`; returns `dot(q, S)`.
#[inline(always)]
pub(crate) fn write_and_read<S: Simd>(
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

/// Adds the chains of a block to the totals of a dot product.
#[inline(always)]
pub(crate) fn add<S: Simd>(total: &mut [S::F; VECTORS], chain: [S::F; VECTORS]) {
    for i in 0..VECTORS {
        total[i] = total[i].add(chain[i]);
    }
}
