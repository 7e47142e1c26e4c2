//! Attention in register tiles.
//!
//! A task is a run of tokens of one segment for one key/value head; its rows are (token, query head of the group),
//! tokens first. It walks the key blocks in order, and in each block brings a few rows at a time over the block:
//! scores with lanes over keys, weights, and the weighted values with lanes over the head dimension. So every head of
//! the group and every token of the run reads the block while it is in a near cache, and a decode step reads the
//! cache once.

use std::ops::Range;

use jetblock_simd::{Cpu, Level, TileMut, fp_env, steps, tiles};

use super::blocks::KEY_BLOCK;
use super::decode;
use super::kv_cache::{Keys, Values};
use super::panels::{Decoded, Panels, Stored};
use super::scores::{Bf16Keys, F32Keys, MAX_ROWS, PairKeys, QkKind, ScorePanel, Scores, Weigh};
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
        let (config, head) = (*self.cache.config(), self.head);
        let decoded = config.padded_head_dim();
        match (self.cache.keys(), self.cache.values(), config.kind) {
            (Keys::Pairs(keys), Values::Bf16(values), _) => {
                attend::<PairKeys>(
                    level,
                    Stored::new(keys, head),
                    Stored::new(values, head),
                    self,
                );
            }
            (Keys::Bf16(keys), Values::Bf16(values), _) => {
                attend::<Bf16Keys>(
                    level,
                    Stored::new(keys, head),
                    Stored::new(values, head),
                    self,
                );
            }
            (Keys::F32(keys), Values::F32(values), OperandKind::F32) => {
                attend::<F32Keys>(
                    level,
                    Stored::new(keys, head),
                    Stored::new(values, head),
                    self,
                );
            }
            (Keys::F32(keys), Values::F32(values), OperandKind::Bf16) => {
                let steps = config.head_dim.div_ceil(2);
                let decode = decode::f32_keys_to_pairs;
                let keys = Decoded::new(Stored::new(keys, head), steps, config, level, decode);
                attend::<PairKeys>(level, keys, Stored::new(values, head), self);
            }
            (Keys::Codes(keys), Values::Codes(values), kind) => {
                let (keys, values) = (Stored::new(keys, head), Stored::new(values, head));
                let values = Decoded::new(values, decoded, config, level, decode::values);
                if kind == OperandKind::Bf16 {
                    let (steps, decode) = (config.head_dim.div_ceil(2), decode::keys_to_pairs);
                    let keys = Decoded::new(keys, steps, config, level, decode);
                    attend::<PairKeys>(level, keys, values, self);
                } else {
                    let (steps, decode) = (config.head_dim, decode::keys_to_bf16);
                    let keys = Decoded::new(keys, steps, config, level, decode);
                    attend::<Bf16Keys>(level, keys, values, self);
                }
            }
            _ => unreachable!("a cache holds keys and values of one dtype"),
        }
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
struct Block {
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

fn attend<K: QkKind>(
    level: Level,
    mut keys: impl Panels<Code = K::Code>,
    mut values: impl Panels<Code: ValueCode>,
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
        start: 0,
        scores: [[0.0; MAX_SPLIT]; MAX_ROWS],
        o_b: vec![0.0; MAX_ROWS * row_len],
    };
    let end = task.position + tokens;
    for start in (0..end).step_by(task.split) {
        let last = end.min(start + task.split);
        block.start = start;
        let blocks = start / KEY_BLOCK..last.div_ceil(KEY_BLOCK);
        keys.enter(blocks.clone());
        values.enter(blocks);
        for_each_tile!(rows, row => tile::<K, _, _>(level, &task, (&keys, &values), &mut block, &mut state, row));
    }
    let scale = config.v_scale;
    for token in 0..tokens {
        let y = task.out.row_mut(token).chunks_exact_mut(head_dim);
        for (head, y) in y.enumerate() {
            let row = token * group + head;
            let (o, l) = (&state.o[row * row_len..], state.l[row]);
            level.run(Finish { o, l, scale, y });
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
fn tile<K: QkKind, P: Panels<Code = K::Code>, V: Panels<Code: ValueCode>, const ROWS: usize>(
    level: Level,
    task: &Task,
    (keys, values): (&P, &V),
    block: &mut Block,
    state: &mut State<K::Query>,
    row: usize,
) {
    let scale = Attention::scale(task.cache.config());
    let mut counts = [0; MAX_ROWS];
    for (r, count) in counts[..ROWS].iter_mut().enumerate() {
        let position = task.position + (row + r) / task.group;
        *count = task.split.min(position + 1 - block.start);
    }
    let (least, most) = (counts[0], counts[ROWS - 1]);
    let q = &state.queries[row * state.steps..][..ROWS * state.steps];
    // The first tile of a block waits for memory; the others find the block near.
    let fetch = row == 0;
    let first = block.start / KEY_BLOCK;
    for at in (0..most).step_by(KEY_BLOCK) {
        let panel = first + at / KEY_BLOCK;
        level.run(ScorePanel::<K, ROWS> {
            q: q.as_chunks().0,
            panel: keys.block(panel).as_chunks().0,
            next: if fetch {
                keys.fetch(panel + 1).as_chunks().0
            } else {
                &[]
            },
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
    let values = &HeadValues {
        panels: values,
        first,
        row_len: state.row_len,
    };
    level.run(WeightedValues {
        p,
        values,
        keys: 0..least,
        fetch,
        o_b: &mut block.o_b,
    });
    for r in 0..ROWS {
        // Later tokens of the tile admit a few keys more.
        if counts[r] > least {
            level.run(WeightedValues {
                p: std::array::from_ref(&p[r]),
                values,
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
