//! Attention as two products for each block of keys ([`crate::linear::gathered`]), with weights between them.
//!
//! Keys and values are packed once for each key/value head. A task is a run of queries of one head: it brings all of them
//! over one block after another, so that a block is read while it is near.

use jetblock_numerics::{canonical, reduce};
use jetblock_simd::{Cpu, Level, fp_env};

use super::weigh::{Admitted, Count, Fold, Weigh, advance};
use super::{Mask, SPLIT, Sdpa};
use crate::OpError;
use crate::linear::gathered::PackedColumns;
use crate::linear::{OperandKind, PANEL, Prepared};
use crate::matmul::{Layout, Right};

/// Queries of a task: enough to read a block often; their weights take 128 KiB.
const TASK_ROWS: usize = 128;

impl Sdpa<'_> {
    /// The same bits as [`Sdpa::reference`], faster.
    pub fn cpu(&self, out: &mut [f32], cpu: &Cpu) -> Result<(), OpError> {
        self.check(out)?;
        if out.is_empty() || self.keys == 0 {
            out.fill(0.0);
            return Ok(());
        }
        let _guard = fp_env::Guard::new();
        let queries = Prepared::prepare(cpu, self.kind, self.q, self.head_dim)?;
        let mut sources: Vec<Option<Source>> = Vec::new();
        sources.resize_with(self.batch * self.kv_heads, || None);
        cpu.par_rows(&mut sources, 1, 1, |first, sources| {
            for (i, source) in sources.iter_mut().enumerate() {
                *source = Some(Source::new(self, cpu.level(), first + i));
            }
        });
        let mut tasks = Vec::new();
        let head_len = self.queries * self.value_dim;
        for (head, out) in out.chunks_mut(head_len).enumerate() {
            let (b, h) = (head / self.heads, head % self.heads);
            let kv = b * self.kv_heads + h / (self.heads / self.kv_heads);
            let source = sources[kv].as_ref().expect("every head was packed");
            for (run, out) in out.chunks_mut(TASK_ROWS * self.value_dim).enumerate() {
                let task = Task {
                    op: self,
                    queries: &queries,
                    source,
                    at: [b, h, run * TASK_ROWS],
                };
                tasks.push((task, out));
            }
        }
        cpu.par_items(tasks, |(task, out)| task.run(cpu.level(), out));
        Ok(())
    }
}

/// A key/value head.
struct Source<'a> {
    /// `[S, V]`.
    v: &'a [f32],
    keys: PackedColumns,
    values: PackedColumns,
    /// Of each block, whether all its values are finite.
    finite: Vec<bool>,
}

impl<'a> Source<'a> {
    fn new(op: &Sdpa<'a>, level: Level, head: usize) -> Source<'a> {
        let slab = |all: &'a [f32], width: usize| &all[head * op.keys * width..][..op.keys * width];
        let (k, v) = (slab(op.k, op.head_dim), slab(op.v, op.value_dim));
        let keys = Right {
            b: k,
            layout: Layout::Turned,
            k: op.head_dim,
            n: op.keys,
        };
        let values = Right {
            b: v,
            layout: Layout::Plain,
            k: op.keys,
            n: op.value_dim,
        };
        let blocks = v.chunks(SPLIT * op.value_dim);
        Source {
            v,
            keys: PackedColumns::pack(level, op.kind, &keys, op.head_dim, op.keys),
            values: PackedColumns::pack(level, OperandKind::F32, &values, op.keys, op.value_dim),
            finite: blocks
                .map(|block| block.iter().all(|v| v.is_finite()))
                .collect(),
        }
    }
}

/// Some queries of one head.
struct Task<'a> {
    op: &'a Sdpa<'a>,
    queries: &'a Prepared,
    source: &'a Source<'a>,
    /// Batch, head, first query.
    at: [usize; 3],
}

/// What a query has so far: `(m, l)`, or nothing before its first block.
type State = Option<(f32, f32)>;

/// What a block does to a query: how many keys it admits, and the factors of the fold.
struct Step {
    count: Count,
    factors: (f32, f32),
}

impl Task<'_> {
    /// `out` is `[rows, V]`.
    fn run(&self, level: Level, out: &mut [f32]) {
        let (op, width) = (self.op, self.op.value_dim);
        let rows = out.len() / width;
        out.fill(0.0);
        let mut states: Vec<State> = vec![None; rows];
        let mut scores = vec![[0.0; PANEL]; rows * SPLIT / PANEL];
        let mut p = vec![0.0; rows * SPLIT];
        let mut totals = vec![[0.0; PANEL]; rows];
        let first = (self.at[0] * op.heads + self.at[1]) * op.queries + self.at[2];
        for (block, start) in (0..op.keys).step_by(SPLIT).enumerate() {
            let keys = SPLIT.min(op.keys - start);
            let admitted = |r: usize| self.admitted(r, start, keys);
            if (0..rows).all(|r| admitted(r).count(keys) == Count::None) {
                continue;
            }
            for panel in 0..keys.div_ceil(PANEL) {
                let (range, totals) = (first..first + rows, &mut scores[panel * rows..][..rows]);
                let keys = &self.source.keys;
                keys.product(level, self.queries, range, start / PANEL + panel, totals);
            }
            let mut steps = Vec::with_capacity(rows);
            for r in 0..rows {
                let p = &mut p[r * SPLIT..][..keys];
                let count = admitted(r).count(keys);
                if count == Count::None {
                    steps.push(None);
                    continue;
                }
                let result = level.run(Weigh {
                    scores: &scores[r..],
                    stride: rows,
                    scale: op.scale(),
                    admitted: admitted(r),
                    p,
                });
                let state = states[r].get_or_insert((f32::NEG_INFINITY, 0.0));
                let factors = advance(state, result);
                steps.push(Some(Step { count, factors }));
            }
            for panel in 0..width.div_ceil(PANEL) {
                let range = start..start + keys;
                let values = &self.source.values;
                let columns = panel * PANEL..width.min((panel + 1) * PANEL);
                values.part_product(level, (&p, SPLIT), range, panel, columns.len(), &mut totals);
                for (r, step) in steps.iter().enumerate() {
                    let Some(step) = step else {
                        continue;
                    };
                    if step.count == Count::Some && !self.source.finite[block] {
                        let p = &p[r * SPLIT..][..keys];
                        self.without(admitted(r), start, p, columns.start, &mut totals[r]);
                    }
                    let o = &mut out[r * width..][columns.clone()];
                    level.run(Fold {
                        o_b: &totals[r][..columns.len()],
                        o,
                        old: step.factors.0,
                        new: step.factors.1,
                    });
                }
            }
        }
        for (state, y) in states.iter().zip(out.chunks_mut(width)) {
            if let Some((_, l)) = state {
                y.iter_mut().for_each(|y| *y = canonical(*y / l));
            }
        }
    }

    /// What query `r` of the task admits of the keys `start..start + keys`.
    fn admitted(&self, r: usize, start: usize, keys: usize) -> Admitted<'_> {
        let at = [self.at[0], self.at[1], self.at[2] + r];
        match &self.op.mask {
            Mask::None => Admitted::First(keys),
            Mask::Causal => Admitted::First(keys.min((at[2] + 1).saturating_sub(start))),
            Mask::Admitted(mask) => {
                Admitted::Some(&mask.row(at, self.op.keys)[start..start + keys])
            }
            Mask::Bias(bias) => Admitted::Bias(&bias.row(at, self.op.keys)[start..start + keys]),
        }
    }

    /// The sums of one query over a block with values that are not finite: zero times such a value is NaN, so keys that are
    /// left out must really be.
    fn without(
        &self,
        admitted: Admitted<'_>,
        start: usize,
        p: &[f32],
        column: usize,
        totals: &mut [f32; PANEL],
    ) {
        let width = self.op.value_dim;
        let kept: Vec<usize> = (0..p.len()).filter(|&j| admitted.has(j)).collect();
        let weights: Vec<f32> = kept.iter().map(|&j| p[j]).collect();
        for d in column..width.min(column + PANEL) {
            let values = kept.iter().map(|j| self.source.v[(start + j) * width + d]);
            totals[d - column] = reduce::dot_f32(&weights, &values.collect::<Vec<_>>());
        }
    }
}
