//! Attention as two products for each block of keys ([`crate::linear::gathered`]), with weights between them.
//!
//! A task has some queries of one key/value head and brings all of them over one block after another. It packs the block's
//! keys and values for itself: that costs a hundredth of what hundreds of queries do with them, and no packed copy of all keys
//! ever exists.

use std::ops::Range;

use jetblock_numerics::{canonical, reduce};
use jetblock_simd::{Cpu, Level, fp_env};

use super::weigh::{Admitted, Count, Fold, Weigh, advance};
use super::{Mask, SPLIT, Sdpa};
use crate::linear::gathered::PackedColumns;
use crate::linear::{OperandKind, PANEL, Prepared};
use crate::matmul::{Layout, Right};
use crate::{FloatsMut, OpError};

/// Queries of a task, at most: enough to make packing a block cheap.
const TASK_ROWS: usize = 512;
/// Queries whose weights for a block are kept at once: 128 KiB.
const STEP_ROWS: usize = 128;

impl Sdpa<'_> {
    /// The same bits as [`Sdpa::reference`], faster.
    pub fn cpu(&self, out: FloatsMut<'_>, cpu: &Cpu) -> Result<(), OpError> {
        self.check(out.len())?;
        if out.is_empty() || self.keys == 0 {
            out.fill(0.0);
            return Ok(());
        }
        let _guard = fp_env::Guard::new();
        // The query heads of a key/value head are neighbours.
        let rows = self.heads / self.kv_heads * self.queries;
        let units = self.batch * self.kv_heads;
        let shares = match cpu.threads() {
            1 => 1,
            threads => (threads * 4).div_ceil(units),
        };
        let per_task = rows.div_ceil(shares).next_multiple_of(STEP_ROWS);
        let per_task = per_task.min(TASK_ROWS);
        let mut tasks = Vec::new();
        for (unit, out) in out.chunks(rows * self.value_dim).into_iter().enumerate() {
            let (b, kv) = (unit / self.kv_heads, unit % self.kv_heads);
            for (run, out) in out
                .chunks(per_task * self.value_dim)
                .into_iter()
                .enumerate()
            {
                let first = run * per_task;
                let rows = first..rows.min(first + per_task);
                let op = self;
                tasks.push((Task { op, b, kv, rows }, out));
            }
        }
        let thread = cpu.one_thread();
        cpu.par_items(tasks, |(task, out)| task.run(&thread, out));
        Ok(())
    }

    /// A block of keys, as columns.
    fn right<'a>(
        &'a self,
        level: Level,
        [b, kv, start]: [usize; 3],
        keys: usize,
    ) -> [Right<'a>; 2] {
        let (k, v) = (&self.k, &self.v);
        let from = |heads: &super::Heads<'a>, width: usize| {
            let at = heads.at([b, kv, start]);
            let end = at + (keys - 1) * heads.strides[2] + width;
            heads.values.slice(at..end)
        };
        [
            Right {
                level,
                b: from(k, self.head_dim),
                layout: Layout::Turned,
                stride: k.strides[2],
                k: self.head_dim,
                n: keys,
            },
            Right {
                level,
                b: from(v, self.value_dim),
                layout: Layout::Plain,
                stride: v.strides[2],
                k: keys,
                n: self.value_dim,
            },
        ]
    }
}

/// Some queries of one key/value head: rows `[query heads of the head, T]`.
struct Task<'a> {
    op: &'a Sdpa<'a>,
    b: usize,
    kv: usize,
    rows: Range<usize>,
}

/// What a query has so far: `(m, l)`, or nothing before its first block.
type State = Option<(f32, f32)>;

impl Task<'_> {
    /// `out` is `[rows, V]`.
    fn run(&self, cpu: &Cpu, out: FloatsMut<'_>) {
        let level = cpu.level();
        match out {
            FloatsMut::F32(y) => self.attend(cpu, y),
            out => {
                let mut y = vec![0.0; out.len()];
                self.attend(cpu, &mut y);
                out.write(level, &y);
            }
        }
    }

    fn attend(&self, cpu: &Cpu, y: &mut [f32]) {
        let (op, level, width) = (self.op, cpu.level(), self.op.value_dim);
        let queries = self.queries(cpu);
        y.fill(0.0);
        let mut states: Vec<State> = vec![None; self.rows.len()];
        let step = STEP_ROWS.min(self.rows.len());
        let mut scratch = Scratch {
            scores: vec![[0.0; PANEL]; step * SPLIT.min(op.keys).div_ceil(PANEL)],
            p: vec![0.0; step * SPLIT],
            totals: vec![[0.0; PANEL]; step],
        };
        let mut block = Block {
            start: 0,
            len: 0,
            keys: PackedColumns::new(op.kind),
            values: PackedColumns::new(OperandKind::F32),
            is_finite: true,
        };
        for start in (0..op.keys).step_by(SPLIT) {
            (block.start, block.len) = (start, SPLIT.min(op.keys - start));
            let none = |r: usize| self.admitted(r, &block).count(block.len) == Count::None;
            if (0..self.rows.len()).all(none) {
                continue;
            }
            let [keys, values] = op.right(level, [self.b, self.kv, start], block.len);
            block.keys.pack(level, &keys, op.head_dim, block.len);
            block.values.pack(level, &values, block.len, width);
            block.is_finite = block.values.is_finite();
            let steps = states.chunks_mut(step).zip(y.chunks_mut(step * width));
            for (i, (states, y)) in steps.enumerate() {
                let rows = i * step..i * step + states.len();
                self.step(level, &block, (&queries, rows), states, y, &mut scratch);
            }
        }
        for (state, y) in states.iter().zip(y.chunks_mut(width)) {
            if let Some((_, l)) = state {
                y.iter_mut().for_each(|y| *y = canonical(*y / l));
            }
        }
    }

    /// The task's queries as operands.
    fn queries(&self, cpu: &Cpu) -> Prepared {
        let (op, width) = (self.op, self.op.head_dim);
        let mut values = vec![0.0; self.rows.len() * width];
        for (r, values) in values.chunks_mut(width).enumerate() {
            op.q.row(self.at(r), width).read(cpu.level(), values);
        }
        Prepared::prepare(cpu, op.kind, &values, width).expect("whole rows")
    }

    /// Batch, head and query of row `r` of the task.
    fn at(&self, r: usize) -> [usize; 3] {
        let (row, first) = (
            self.rows.start + r,
            self.kv * (self.op.heads / self.op.kv_heads),
        );
        [self.b, first + row / self.op.queries, row % self.op.queries]
    }

    /// Some rows over one block; `y` is `[rows, V]`.
    fn step(
        &self,
        level: Level,
        block: &Block,
        (queries, range): (&Prepared, Range<usize>),
        states: &mut [State],
        y: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let (op, width, rows) = (self.op, self.op.value_dim, range.len());
        let Scratch { scores, p, totals } = scratch;
        let totals = &mut totals[..rows];
        for panel in 0..block.len.div_ceil(PANEL) {
            let scores = &mut scores[panel * rows..][..rows];
            (block.keys).product(level, queries, range.clone(), panel, scores);
        }
        let mut folds = Vec::with_capacity(rows);
        for r in 0..rows {
            let admitted = self.admitted(range.start + r, block);
            let p = &mut p[r * SPLIT..][..block.len];
            let count = admitted.count(block.len);
            if count == Count::None {
                folds.push(None);
                continue;
            }
            let result = level.run(Weigh {
                scores: &scores[r..],
                stride: rows,
                scale: op.scale(),
                admitted,
                p,
            });
            let state = states[r].get_or_insert((f32::NEG_INFINITY, 0.0));
            folds.push(Some((count, advance(state, result))));
        }
        for panel in 0..width.div_ceil(PANEL) {
            let columns = panel * PANEL..width.min((panel + 1) * PANEL);
            (block.values).block_product(level, (p, SPLIT), panel, columns.len(), totals);
            for (r, fold) in folds.iter().enumerate() {
                let Some((count, (old, new))) = *fold else {
                    continue;
                };
                if count == Count::Some && !block.is_finite {
                    let p = &p[r * SPLIT..][..block.len];
                    let admitted = self.admitted(range.start + r, block);
                    block.without(admitted, p, columns.clone(), &mut totals[r]);
                }
                level.run(Fold {
                    o_b: &totals[r][..columns.len()],
                    o: &mut y[r * width..][columns.clone()],
                    old,
                    new,
                });
            }
        }
    }

    /// What row `r` of the task admits of a block.
    fn admitted(&self, r: usize, block: &Block) -> Admitted<'_> {
        let (at, keys) = (self.at(r), block.start..block.start + block.len);
        match &self.op.mask {
            Mask::None => Admitted::First(block.len),
            Mask::Causal => Admitted::First(block.len.min((at[2] + 1).saturating_sub(keys.start))),
            Mask::Admitted(mask) => Admitted::Some(&mask.row(at, self.op.keys)[keys]),
            Mask::Bias(bias) => Admitted::Bias(&bias.row(at, self.op.keys)[keys]),
        }
    }
}

/// What a task uses again for each block.
struct Scratch {
    /// Panel i of row r at `i * rows + r`.
    scores: Vec<[f32; PANEL]>,
    /// `[rows, SPLIT]`.
    p: Vec<f32>,
    totals: Vec<[f32; PANEL]>,
}

/// The keys `start..start + len`.
struct Block {
    start: usize,
    len: usize,
    keys: PackedColumns,
    values: PackedColumns,
    /// Whether all values are.
    is_finite: bool,
}

impl Block {
    /// The sums of one query over a block with values that are not finite: zero times such a value is NaN, so keys that are
    /// left out must really be.
    fn without(
        &self,
        admitted: Admitted<'_>,
        p: &[f32],
        columns: Range<usize>,
        totals: &mut [f32; PANEL],
    ) {
        let kept: Vec<usize> = (0..p.len()).filter(|&j| admitted.has(j)).collect();
        let weights: Vec<f32> = kept.iter().map(|&j| p[j]).collect();
        for d in columns.clone() {
            let values = kept.iter().map(|&j| self.values.value(j, d));
            totals[d - columns.start] = reduce::dot_f32(&weights, &values.collect::<Vec<_>>());
        }
    }
}
