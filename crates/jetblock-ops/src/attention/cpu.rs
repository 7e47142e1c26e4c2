//! Attention in register tiles.
//!
//! A task is a run of tokens of one segment for one key/value head; its rows are (token, query head of the group),
//! tokens first. It walks the key blocks in order, and in each block brings a few rows at a time over the block:
//! scores with lanes over keys, weights, and the weighted values with lanes over the head dimension. So every head of
//! the group and every token of the run reads the block while it is in a near cache, and a decode step reads the
//! cache once.

use std::ops::Range;

use jetblock_simd::{Cpu, Level, TileMut, fp_env, steps, tiles};

use super::kv_cache::{Blocks, KEY_BLOCK, Keys, Values};
use super::scores::{
    Bf16Keys, F32Keys, MAX_ROWS, PairKeys, QkKind, RoundKeys, ScorePanel, Scores, Weigh,
};
use super::values::{Finish, Fold, HeadValues, ValueCode, WeightedValues};
use super::{Attention, KvCache, MAX_SPLIT};
use crate::Columns;
use crate::linear::OperandKind;

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
    cpu.par_items(tasks, |task| task.run(cpu.level()));
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

impl Task<'_> {
    fn run(self, level: Level) {
        let head = self.head;
        let config = self.cache.config();
        match (self.cache.keys(), self.cache.values(), config.kind) {
            (Keys::Pairs(blocks), Values::Bf16(values), _) => {
                attend::<PairKeys, u16>(level, Stored { blocks, head }, values, self);
            }
            (Keys::Bf16(blocks), Values::Bf16(values), _) => {
                attend::<Bf16Keys, u16>(level, Stored { blocks, head }, values, self);
            }
            (Keys::F32(blocks), Values::F32(values), OperandKind::F32) => {
                attend::<F32Keys, f32>(level, Stored { blocks, head }, values, self);
            }
            (Keys::F32(blocks), Values::F32(values), OperandKind::Bf16) => {
                let rounded = Rounded {
                    blocks,
                    head,
                    level,
                    first: 0,
                    steps: config.head_dim.div_ceil(2),
                    pairs: Vec::new(),
                };
                attend::<PairKeys, f32>(level, rounded, values, self);
            }
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
    /// The same where the block lies in memory for reading soon; else nothing.
    fn fetch(&self, block: usize) -> &[[T; KEY_BLOCK]];
}

/// Panels as they lie in the cache.
struct Stored<'a, T> {
    blocks: &'a Blocks<T>,
    head: usize,
}

impl<T: Copy + Default> Panels<T> for Stored<'_, T> {
    fn enter(&mut self, _: Range<usize>) {}

    fn panel(&self, block: usize) -> &[[T; KEY_BLOCK]] {
        self.blocks.head(block, self.head).as_chunks().0
    }

    fn fetch(&self, block: usize) -> &[[T; KEY_BLOCK]] {
        self.blocks.head_or_empty(block, self.head).as_chunks().0
    }
}

/// f32 keys as operands of the bf16 kind, rounded once for all rows of the task.
struct Rounded<'a> {
    blocks: &'a Blocks<f32>,
    head: usize,
    level: Level,
    first: usize,
    steps: usize,
    pairs: Vec<[u32; KEY_BLOCK]>,
}

impl Panels<u32> for Rounded<'_> {
    fn enter(&mut self, blocks: Range<usize>) {
        self.first = blocks.start;
        self.pairs.clear();
        for block in blocks {
            let keys = self.blocks.head(block, self.head).as_chunks().0;
            let pairs = &mut self.pairs;
            self.level.run(RoundKeys { keys, pairs });
        }
    }

    fn panel(&self, block: usize) -> &[[u32; KEY_BLOCK]] {
        &self.pairs[(block - self.first) * self.steps..][..self.steps]
    }

    fn fetch(&self, _: usize) -> &[[u32; KEY_BLOCK]] {
        &[]
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

fn attend<K: QkKind, V: ValueCode>(
    level: Level,
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
    for_each_tile!(rows, row => pack_queries::<K>(&task, &mut state, row));
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
        for_each_tile!(rows, row => tile::<K, V>(level, &task, &panels, &mut block, &mut state, row));
    }
    for token in 0..tokens {
        let y = task.out.row_mut(token).chunks_exact_mut(head_dim);
        for (head, y) in y.enumerate() {
            let row = token * group + head;
            let (o, l) = (&state.o[row * row_len..], state.l[row]);
            level.run(Finish { o, l, y });
        }
    }
}

/// Brings the queries of rows `row..row + ROWS` into the order in which [`ScorePanel`] reads them.
fn pack_queries<K: QkKind, const ROWS: usize>(
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
fn tile<K: QkKind, V: ValueCode, const ROWS: usize>(
    level: Level,
    task: &Task,
    panels: &impl Panels<K::Code>,
    block: &mut Block<V>,
    state: &mut State<K::Query>,
    row: usize,
) {
    let scale = Attention::scale(task.cache.config().head_dim);
    let mut counts = [0; MAX_ROWS];
    for (r, count) in counts[..ROWS].iter_mut().enumerate() {
        let position = task.position + (row + r) / task.group;
        *count = task.split.min(position + 1 - block.start);
    }
    let (least, most) = (counts[0], counts[ROWS - 1]);
    let q = &state.queries[row * state.steps..][..ROWS * state.steps];
    // The first tile of a block waits for memory; the others find the block near.
    let fetch = row == 0;
    for at in (0..most).step_by(KEY_BLOCK) {
        let panel = block.values.first + at / KEY_BLOCK;
        level.run(ScorePanel::<K, ROWS> {
            q: q.as_chunks().0,
            panel: panels.panel(panel),
            next: if fetch { panels.fetch(panel + 1) } else { &[] },
            keys: KEY_BLOCK.min(most - at),
            scale,
            out: &mut block.scores,
            at,
        });
    }
    let scores = &mut block.scores[..ROWS];
    let results = level.run(Weigh { scores, counts });
    let p = block.scores.first_chunk::<ROWS>();
    let p = p.expect("a tile has at most MAX_ROWS rows");
    level.run(WeightedValues {
        p,
        values: block.values,
        keys: 0..least,
        fetch,
        o_b: &mut block.o_b,
    });
    for r in 0..ROWS {
        // Later tokens of the tile admit a few keys more.
        if counts[r] > least {
            level.run(WeightedValues {
                p: std::array::from_ref(&p[r]),
                values: block.values,
                keys: least..counts[r],
                fetch: false,
                o_b: &mut block.o_b[r * state.row_len..],
            });
        }
    }
    let (rows, elements) = (
        row..row + ROWS,
        row * state.row_len..(row + ROWS) * state.row_len,
    );
    level.run(Fold {
        block: results,
        o_b: &block.o_b,
        m: &mut state.m[rows.clone()],
        l: &mut state.l[rows],
        o: &mut state.o[elements],
        row_len: state.row_len,
    });
}
