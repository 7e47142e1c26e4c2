//! matmul as rows of the left operand times gathered columns of the right one ([`crate::linear::gathered`]).

use std::ops::Range;

use jetblock_numerics::Lanes;
use jetblock_simd::{Cpu, Kernel, Level, Simd, fp_env};

use super::{Layout, Matmul};
use crate::OpError;
use crate::floats::{Floats, FloatsMut, FloatsTile};
use crate::linear::gathered::{Columns, Finish, Scratch, product};
use crate::linear::{OperandKind, PANEL, PanelRow, Prepared};
use crate::row::MAX_LANES;

/// Rows whose totals a task keeps at once: 192 KiB.
const MAX_ROWS: usize = 768;
/// Left operands that a task keeps at once: 2 MiB. Rows worth bringing the same right operands together again for.
const MAX_LEFT: usize = 1 << 19;
const MIN_ROWS: usize = 64;
/// Multiply-adds worth a task of their own; about 20 microseconds.
const MIN_TASK: usize = 1 << 20;

impl Matmul<'_> {
    /// The same bits as [`Matmul::reference`], faster.
    pub fn cpu(&self, out: FloatsMut<'_>, cpu: &Cpu) -> Result<(), OpError> {
        self.check(out.len())?;
        let Self { batch, m, k, n, .. } = *self;
        if out.is_empty() || k == 0 {
            out.fill(0.0);
            return Ok(());
        }
        let _guard = fp_env::Guard::new();
        let work = out.len().saturating_mul(k);
        let wanted = match cpu.threads() {
            1 => 1,
            threads => (work / MIN_TASK).clamp(1, threads * 4),
        };
        let pieces = m.div_ceil(MAX_ROWS.min(MIN_ROWS.max(MAX_LEFT / k)));
        let panels = n.div_ceil(PANEL);
        let slabs = wanted.div_ceil(batch * pieces).clamp(1, panels);
        let mut ranges = Vec::new();
        for b in 0..batch {
            let at = |piece: usize| b * m + m * piece / pieces;
            ranges.extend((0..pieces).map(|piece| at(piece)..at(piece + 1)));
        }
        let at = |slab: usize| n.min(panels * slab / slabs * PANEL);
        let columns: Vec<_> = (0..slabs).map(|slab| at(slab)..at(slab + 1)).collect();
        let outs = FloatsTile::cut(out, n, &ranges, &columns);
        let tasks: Vec<_> = outs
            .into_iter()
            .enumerate()
            .map(|(i, out)| {
                let range = &ranges[i / slabs];
                let (b, first) = (range.start / m, range.start % m);
                let (left, right) = self.operands(b);
                Task {
                    kind: self.kind,
                    left: left.slice(first * k..(first + range.len()) * k),
                    right: Right {
                        level: cpu.level(),
                        b: right,
                        layout: self.layout,
                        stride: match self.layout {
                            Layout::Plain => n,
                            Layout::Turned => k,
                        },
                        k,
                        n,
                    },
                    columns: columns[i % slabs].clone(),
                    out,
                }
            })
            .collect();
        let thread = cpu.one_thread();
        cpu.par_items(tasks, |task| task.run(&thread));
        Ok(())
    }
}

struct Task<'a> {
    kind: OperandKind,
    /// `[rows, K]`.
    left: Floats<'a>,
    right: Right<'a>,
    columns: Range<usize>,
    out: FloatsTile<'a>,
}

impl Task<'_> {
    fn run(mut self, cpu: &Cpu) {
        let level = cpu.level();
        let rows = {
            let mut own = Vec::new();
            let left = self.left.in_f32(level, &mut own);
            Prepared::prepare(cpu, self.kind, left, self.right.k).expect("whole rows")
        };
        let mut scratch = Scratch::new(self.kind, rows.rows(), rows.k());
        for first in self.columns.clone().step_by(PANEL) {
            let range = 0..rows.rows();
            let totals = product(level, &rows, range, &self.right, first, &mut scratch);
            let bias = None;
            level.run(Finish { totals, bias });
            let end = self.columns.end.min(first + PANEL);
            let part = first - self.columns.start..end - self.columns.start;
            for (row, totals) in totals.iter().enumerate() {
                let out = self.out.row_mut(row).slice(part.clone());
                out.write(level, &totals[..end - first]);
            }
        }
    }
}

/// One right operand.
pub(crate) struct Right<'a> {
    pub(crate) level: Level,
    pub(crate) b: Floats<'a>,
    pub(crate) layout: Layout,
    /// Elements from one line of b to the next.
    pub(crate) stride: usize,
    pub(crate) k: usize,
    pub(crate) n: usize,
}

impl Columns for Right<'_> {
    fn gather(&self, first: usize, k: usize, rows: &mut [PanelRow<f32>]) {
        let count = PANEL.min(self.n - first);
        match self.layout {
            Layout::Plain => {
                for (i, row) in rows.iter_mut().enumerate() {
                    let from = (k + i) * self.stride + first;
                    let row = row.values_mut();
                    self.b
                        .slice(from..from + count)
                        .read(self.level, &mut row[..count]);
                    row[count..].fill(0.0);
                }
            }
            Layout::Turned => self.level.run(Turn {
                b: self.b,
                start: first * self.stride + k,
                stride: self.stride,
                count,
                rows,
            }),
        }
    }
}

/// Lines of b become columns of a panel.
struct Turn<'a> {
    b: Floats<'a>,
    /// Of the first line: the element for the first row.
    start: usize,
    stride: usize,
    /// Lines; at most those of a panel. The other columns become +0.
    count: usize,
    rows: &'a mut [PanelRow<f32>],
}

impl Kernel for Turn<'_> {
    type Output = ();

    /// Squares of lanes.
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut row = 0;
        while row < self.rows.len() {
            let last = self.rows.len().min(row + S::LANES);
            let mut column = 0;
            while column < PANEL {
                let mut square = [S::F::splat(0.0); MAX_LANES];
                for i in 0..S::LANES.min(self.count.saturating_sub(column)) {
                    let line = self.start + (column + i) * self.stride;
                    square[i] = self.b.load_part(simd, line + row, line + last);
                }
                simd.transpose(&mut square[..S::LANES]);
                for i in row..last {
                    simd.store(square[i - row], &mut self.rows[i].values_mut()[column..]);
                }
                column += S::LANES;
            }
            row = last;
        }
    }
}
