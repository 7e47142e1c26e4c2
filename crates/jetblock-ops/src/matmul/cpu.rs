//! matmul as rows of the left operand times gathered columns of the right one ([`crate::linear::gathered`]).

use std::ops::Range;

use jetblock_simd::{Cpu, Level, TileMut, fp_env, tiles};

use super::{Layout, Matmul};
use crate::OpError;
use crate::linear::gathered::{Columns, Finish, Scratch, product};
use crate::linear::{PANEL, PanelRow, Prepared};

/// Rows whose totals a task keeps at once: 192 KiB.
const MAX_ROWS: usize = 768;
/// Multiply-adds worth a task of their own; about 20 microseconds.
const MIN_TASK: usize = 1 << 20;
/// Rows of a turned operand that are read together.
const TURN: usize = 16;

impl Matmul<'_> {
    /// The same bits as [`Matmul::reference`], faster.
    pub fn cpu(&self, out: &mut [f32], cpu: &Cpu) -> Result<(), OpError> {
        self.check(out)?;
        let Self { batch, m, k, n, .. } = *self;
        if out.is_empty() || k == 0 {
            out.fill(0.0);
            return Ok(());
        }
        let _guard = fp_env::Guard::new();
        let rows = Prepared::prepare(cpu, self.kind, self.a, k)?;
        let shared = self.a.len() == m * k;
        let work = out.len().saturating_mul(k);
        let wanted = match cpu.threads() {
            1 => 1,
            threads => (work / MIN_TASK).clamp(1, threads * 4),
        };
        let pieces = m.div_ceil(MAX_ROWS);
        let panels = n.div_ceil(PANEL);
        let slabs = wanted.div_ceil(batch * pieces).clamp(1, panels);
        let mut ranges = Vec::new();
        for b in 0..batch {
            let at = |piece: usize| b * m + m * piece / pieces;
            ranges.extend((0..pieces).map(|piece| at(piece)..at(piece + 1)));
        }
        let at = |slab: usize| n.min(panels * slab / slabs * PANEL);
        let columns: Vec<_> = (0..slabs).map(|slab| at(slab)..at(slab + 1)).collect();
        let outs = tiles(out, n, &ranges, &columns).into_iter().enumerate();
        let tasks: Vec<_> = outs
            .map(|(i, out)| {
                let range = &ranges[i / slabs];
                let b = range.start / m;
                let first = if shared { b * m } else { 0 };
                Task {
                    rows: &rows,
                    range: range.start - first..range.end - first,
                    right: Right {
                        b: self.operands(b).1,
                        layout: self.layout,
                        k,
                        n,
                    },
                    columns: columns[i % slabs].clone(),
                    out,
                }
            })
            .collect();
        cpu.par_items(tasks, |task| task.run(cpu.level()));
        Ok(())
    }
}

struct Task<'a> {
    rows: &'a Prepared,
    range: Range<usize>,
    right: Right<'a>,
    columns: Range<usize>,
    out: TileMut<'a, f32>,
}

impl Task<'_> {
    fn run(mut self, level: Level) {
        let mut scratch = Scratch::new(self.rows.kind(), self.range.len(), self.rows.k());
        for first in self.columns.clone().step_by(PANEL) {
            let range = self.range.clone();
            let totals = product(level, self.rows, range, &self.right, first, &mut scratch);
            let bias = None;
            level.run(Finish { totals, bias });
            let end = self.columns.end.min(first + PANEL);
            let part = first - self.columns.start..end - self.columns.start;
            for (row, totals) in totals.iter().enumerate() {
                self.out.row_mut(row)[part.clone()].copy_from_slice(&totals[..end - first]);
            }
        }
    }
}

/// One right operand.
pub(crate) struct Right<'a> {
    pub(crate) b: &'a [f32],
    pub(crate) layout: Layout,
    pub(crate) k: usize,
    pub(crate) n: usize,
}

impl Columns for Right<'_> {
    fn gather(&self, first: usize, k: usize, rows: &mut [PanelRow<f32>]) {
        let count = PANEL.min(self.n - first);
        match self.layout {
            Layout::Plain => {
                for (i, row) in rows.iter_mut().enumerate() {
                    let from = &self.b[(k + i) * self.n + first..][..count];
                    let row = row.values_mut();
                    row[..count].copy_from_slice(from);
                    row[count..].fill(0.0);
                }
            }
            Layout::Turned => {
                for rows in rows.iter_mut() {
                    rows.values_mut()[count..].fill(0.0);
                }
                // A line of each column at a time, into lines of the panel that stay near.
                for (i, rows) in rows.chunks_mut(TURN).enumerate() {
                    for j in 0..count {
                        let from = &self.b[(first + j) * self.k + k + i * TURN..];
                        for (row, &x) in rows.iter_mut().zip(from) {
                            row.values_mut()[j] = x;
                        }
                    }
                }
            }
        }
    }
}
