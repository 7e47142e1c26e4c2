//! Attention in register tiles.
//!
//! A task is a run of tokens of one segment for one key/value head; its rows are (token, query head of the group),
//! tokens first. It walks the key blocks in order, and in each block brings a few rows at a time over the block:
//! scores with lanes over keys, weights, and the weighted values with lanes over the head dimension. So every head of
//! the group and every token of the run reads the block while it is in a near cache, and a decode step reads the
//! cache once.

use std::ops::Range;

use jetblock_numerics::lanes::Lanes;
use jetblock_numerics::{canonical, math, max};
use jetblock_simd::{Cpu, Kernel, Simd, TileMut, fp_env, steps, tiles};

use super::kernels::{
    Bf16Keys, F32Keys, HeadValues, MAX_ROWS, PairKeys, QkKind, Scores, ValueCode, pair, scores,
    weighted_values, weights,
};
use super::kv_cache::{Blocks, KEY_BLOCK, Keys, Values};
use super::{Attention, KvCache, MAX_SPLIT};
use crate::Columns;
use crate::linear::OperandKind;
use crate::row::{MAX_LANES, store_part};

/// Rows of a task, if its tokens have that many: enough to read a block often, few enough to share among threads.
const TASK_ROWS: usize = 192;

pub(super) fn attention(op: &Attention, out: &mut [f32], cpu: &Cpu) {
    let _guard = fp_env::Guard::new();
    let Some(first) = op.caches.first() else {
        return;
    };
    let config = first.config();
    let group = op.num_attention_heads / config.num_key_value_heads;
    let (mut rows, mut places) = (Vec::new(), Vec::new());
    for (segment, cache) in op.segments.iter().zip(op.caches) {
        for run in token_runs(segment.start, segment.len(), group) {
            let row = segment.rows.start + run.start - segment.start;
            rows.push(row..row + run.len());
            places.push((*cache, run.start));
        }
    }
    let heads = steps(op.q.width(), group * config.head_dim);
    let mut tasks = Vec::with_capacity(rows.len() * heads.len());
    let outs = tiles(out, op.q.width(), &rows, &heads);
    for (i, out) in outs.into_iter().enumerate() {
        let (run, head) = (i / heads.len(), i % heads.len());
        let (cache, position) = places[run];
        tasks.push(Task {
            q: op.q.clone(),
            row: rows[run].start,
            cache,
            head,
            group,
            position,
            split: op.split,
            out,
        });
    }
    cpu.par_items(tasks, |task| cpu.run(task));
}

/// Cuts positions `start..start + len` at multiples of a power of two that divides every block of keys, so that all
/// tokens of a run admit a key of the same blocks.
fn token_runs(start: usize, len: usize, group: usize) -> Vec<Range<usize>> {
    let step = (TASK_ROWS / group)
        .max(1)
        .next_power_of_two()
        .clamp(1, KEY_BLOCK);
    let (first, last) = (start / step, (start + len).div_ceil(step));
    let run = |i: usize| start.max(i * step)..(start + len).min((i + 1) * step);
    (first..last)
        .map(run)
        .filter(|run| !run.is_empty())
        .collect()
}

struct Task<'a> {
    q: Columns<'a>,
    /// First row in `q`.
    row: usize,
    cache: &'a KvCache,
    /// Key/value head.
    head: usize,
    /// Query heads of a key/value head.
    group: usize,
    /// Of the first token.
    position: usize,
    split: usize,
    /// The task's tokens and the columns of its query heads.
    out: TileMut<'a, f32>,
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let head = self.head;
        match (self.cache.keys(), self.cache.values()) {
            (Keys::Pairs(keys), Values::Bf16(values)) => {
                attend::<S, PairKeys, u16>(simd, Stored { blocks: keys, head }, values, self);
            }
            (Keys::Bf16(keys), Values::Bf16(values)) => {
                attend::<S, Bf16Keys, u16>(simd, Stored { blocks: keys, head }, values, self);
            }
            (Keys::F32(keys), Values::F32(values)) => match self.cache.config().kind {
                OperandKind::F32 => {
                    attend::<S, F32Keys, f32>(simd, Stored { blocks: keys, head }, values, self);
                }
                OperandKind::Bf16 => {
                    let rounded = Rounded {
                        blocks: keys,
                        head,
                        first: 0,
                        steps: self.cache.config().head_dim.div_ceil(2),
                        pairs: Vec::new(),
                    };
                    attend::<S, PairKeys, f32>(simd, rounded, values, self);
                }
            },
            _ => unreachable!("a cache holds keys and values of one dtype"),
        }
    }
}

/// Where a task's panels of keys come from.
trait Panels<T> {
    /// The cache blocks read until the next call.
    fn enter(&mut self, blocks: Range<usize>);
    /// One block: 64 keys for each step of the chain.
    fn panel(&self, block: usize) -> &[[T; KEY_BLOCK]];
}

/// Panels as they lie in the cache.
struct Stored<'a, T> {
    blocks: &'a Blocks<T>,
    head: usize,
}

impl<T: Copy + Default> Panels<T> for Stored<'_, T> {
    #[inline(always)]
    fn enter(&mut self, _: Range<usize>) {}

    #[inline(always)]
    fn panel(&self, block: usize) -> &[[T; KEY_BLOCK]] {
        self.blocks.head(block, self.head).as_chunks().0
    }
}

/// f32 keys as operands of the bf16 kind, rounded once for all rows of the task.
struct Rounded<'a> {
    blocks: &'a Blocks<f32>,
    head: usize,
    first: usize,
    steps: usize,
    pairs: Vec<[u32; KEY_BLOCK]>,
}

impl Panels<u32> for Rounded<'_> {
    #[inline(always)]
    fn enter(&mut self, blocks: Range<usize>) {
        self.first = blocks.start;
        self.pairs.clear();
        for block in blocks {
            let keys = self
                .blocks
                .head(block, self.head)
                .as_chunks::<KEY_BLOCK>()
                .0;
            for elements in keys.chunks(2) {
                let mut pairs = [0; KEY_BLOCK];
                let odd = elements.get(1).unwrap_or(&[0.0; KEY_BLOCK]);
                for j in 0..KEY_BLOCK {
                    pairs[j] = pair(elements[0][j], odd[j]);
                }
                self.pairs.push(pairs);
            }
        }
    }

    #[inline(always)]
    fn panel(&self, block: usize) -> &[[u32; KEY_BLOCK]] {
        &self.pairs[(block - self.first) * self.steps..][..self.steps]
    }
}

/// What a task keeps between blocks: `(m, l, o)` of each row, and its queries.
struct State<Q> {
    m: Vec<f32>,
    l: Vec<f32>,
    /// `[rows, row_len]`.
    o: Vec<f32>,
    row_len: usize,
    /// Tile by tile, `[steps][rows of the tile]`.
    queries: Vec<Q>,
    steps: usize,
}

/// One block of keys.
struct Block<'a, V> {
    values: HeadValues<'a, V>,
    /// Position of the first key.
    start: usize,
    scores: Scores,
    /// Partial results of a tile, `[ROWS, row_len]`.
    o_b: Vec<f32>,
}

/// Calls `$tile::<ROWS>($args, row)` for tiles that cover `$rows` rows.
macro_rules! for_each_tile {
    ($rows:expr, $row:ident => $tile:ident::<$($t:ty),*>($($args:expr),*)) => {
        let mut $row = 0;
        while $row < $rows {
            match $rows - $row {
                0..2 => { $tile::<$($t,)* 1>($($args),*); $row += 1; }
                2..4 => { $tile::<$($t,)* 2>($($args),*); $row += 2; }
                4..6 => { $tile::<$($t,)* 4>($($args),*); $row += 4; }
                _ => { $tile::<$($t,)* MAX_ROWS>($($args),*); $row += MAX_ROWS; }
            }
        }
    };
}

#[inline(always)]
fn attend<S: Simd, K: QkKind<S>, V: ValueCode<S>>(
    simd: S,
    mut panels: impl Panels<K::Code>,
    values: &Blocks<V>,
    mut task: Task,
) {
    let config = task.cache.config();
    let (head_dim, row_len) = (config.head_dim, config.padded_head_dim());
    let (tokens, group) = (task.out.rows(), task.group);
    let rows = tokens * group;
    let steps = head_dim.div_ceil(K::WIDTH);
    let mut state = State {
        m: vec![f32::NEG_INFINITY; rows],
        l: vec![0.0; rows],
        o: vec![0.0; rows * row_len],
        row_len,
        queries: vec![K::Query::default(); rows * steps],
        steps,
    };
    for_each_tile!(rows, row => pack_queries::<S, K>(&task, &mut state, row));
    let mut block = Block {
        values: HeadValues {
            blocks: values,
            head: task.head,
            first: 0,
            row_len,
        },
        start: 0,
        scores: [[0.0; MAX_SPLIT]; MAX_ROWS],
        o_b: vec![0.0; MAX_ROWS * row_len],
    };
    let end = task.position + tokens;
    for start in (0..end).step_by(task.split) {
        let last = end.min(start + task.split);
        block.start = start;
        block.values.first = start / KEY_BLOCK;
        panels.enter(block.values.first..last.div_ceil(KEY_BLOCK));
        for_each_tile!(rows, row => tile::<S, K, V>(simd, &task, &panels, &mut block, &mut state, row));
    }
    for token in 0..tokens {
        let y = task.out.row_mut(token).chunks_exact_mut(head_dim);
        for (head, y) in y.enumerate() {
            let row = token * group + head;
            let l = S::F::splat(state.l[row]);
            let o = state.o[row * row_len..].chunks_exact(S::LANES);
            for (y, o) in y.chunks_mut(S::LANES).zip(o) {
                store_part(simd, canonical(simd.load(o).div(l)), y);
            }
        }
    }
}

/// Brings the queries of rows `row..row + ROWS` into the order in which [`tile`] reads them.
#[inline(always)]
fn pack_queries<S: Simd, K: QkKind<S>, const ROWS: usize>(
    task: &Task,
    state: &mut State<K::Query>,
    row: usize,
) {
    let head_dim = task.cache.config().head_dim;
    let packed = &mut state.queries[row * state.steps..][..ROWS * state.steps];
    for r in 0..ROWS {
        let (token, head) = ((row + r) / task.group, (row + r) % task.group);
        let first = (task.head * task.group + head) * head_dim;
        let q = &task.q.row(task.row + token)[first..][..head_dim];
        let packed = packed.as_chunks_mut::<ROWS>().0;
        for (packed, q) in packed.iter_mut().zip(q.chunks(K::WIDTH)) {
            packed[r] = K::query(q);
        }
    }
}

/// Brings rows `row..row + ROWS` over one block of keys.
#[inline(always)]
fn tile<S: Simd, K: QkKind<S>, V: ValueCode<S>, const ROWS: usize>(
    simd: S,
    task: &Task,
    panels: &impl Panels<K::Code>,
    block: &mut Block<V>,
    state: &mut State<K::Query>,
    row: usize,
) {
    let scale = Attention::scale(task.cache.config().head_dim);
    let admitted = |r: usize| {
        let position = task.position + (row + r) / task.group;
        task.split.min(position + 1 - block.start)
    };
    let (least, most) = (admitted(0), admitted(ROWS - 1));
    let q = &state.queries[row * state.steps..][..ROWS * state.steps];
    for at in (0..most).step_by(KEY_BLOCK) {
        let panel = panels.panel(block.values.first + at / KEY_BLOCK);
        let keys = KEY_BLOCK.min(most - at);
        let q = q.as_chunks::<ROWS>().0;
        scores::<S, K, ROWS>(simd, q, panel, keys, scale, &mut block.scores, at);
    }
    // +0 in lanes of no row: they are computed and dropped.
    let (mut m_b, mut l_b) = ([0.0_f32; MAX_LANES], [0.0_f32; MAX_LANES]);
    for r in 0..ROWS {
        (m_b[r], l_b[r]) = weights(simd, &mut block.scores[r], admitted(r));
    }
    let p = block.scores.first_chunk::<ROWS>();
    let p = p.expect("a tile has at most MAX_ROWS rows");
    weighted_values(simd, p, block.values, 0..least, &mut block.o_b);
    for r in 0..ROWS {
        // Later tokens of the tile admit a few keys more.
        let keys = least..admitted(r);
        let o_b = &mut block.o_b[r * state.row_len..];
        weighted_values(simd, std::array::from_ref(&p[r]), block.values, keys, o_b);
    }
    fold::<S, K::Query, ROWS>(simd, &m_b, &l_b, &block.o_b, state, row);
}

/// Joins the partial results of a block to those of the blocks before.
#[inline(always)]
fn fold<S: Simd, Q, const ROWS: usize>(
    simd: S,
    m_b: &[f32; MAX_LANES],
    l_b: &[f32; MAX_LANES],
    o_b: &[f32],
    state: &mut State<Q>,
    row: usize,
) {
    let (mut m, mut l) = ([0.0_f32; MAX_LANES], [0.0_f32; MAX_LANES]);
    m[..ROWS].copy_from_slice(&state.m[row..row + ROWS]);
    l[..ROWS].copy_from_slice(&state.l[row..row + ROWS]);
    let (mut a, mut b) = ([0.0_f32; MAX_LANES], [0.0_f32; MAX_LANES]);
    for r in (0..ROWS).step_by(S::LANES) {
        let (old, new) = (simd.load(&m[r..]), simd.load(&m_b[r..]));
        let largest = max(old, new);
        let (scale_old, scale_new) = (math::exp(old.sub(largest)), math::exp(new.sub(largest)));
        let sum = simd
            .load(&l[r..])
            .fma(scale_old, simd.load(&l_b[r..]).mul(scale_new));
        simd.store(largest, &mut m[r..]);
        simd.store(sum, &mut l[r..]);
        simd.store(scale_old, &mut a[r..]);
        simd.store(scale_new, &mut b[r..]);
    }
    state.m[row..row + ROWS].copy_from_slice(&m[..ROWS]);
    state.l[row..row + ROWS].copy_from_slice(&l[..ROWS]);
    let o = state.o[row * state.row_len..].chunks_exact_mut(state.row_len);
    for (r, (o, o_b)) in o
        .zip(o_b.chunks_exact(state.row_len))
        .take(ROWS)
        .enumerate()
    {
        let (a, b) = (S::F::splat(a[r]), S::F::splat(b[r]));
        for (o, o_b) in o.chunks_exact_mut(S::LANES).zip(o_b.chunks_exact(S::LANES)) {
            let joined = simd.load(o).fma(a, simd.load(o_b).mul(b));
            simd.store(joined, o);
        }
    }
}
