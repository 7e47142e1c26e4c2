//! Matrix products with kernels chosen by the number of rows, and K split among threads for a single row.

use std::ops::Range;
use std::sync::Mutex;

use jetblock_numerics::Lanes;
use jetblock_ops::linear::view::{PanelView, RowView};
use jetblock_ops::linear::{Epilogue, LinearJob, PANEL, PackedMatrix, Prepared, Rows};
use jetblock_simd::{Cpu, Kernel, Simd, TileMut, steps, tiles};

/// Elements of K that a tile takes before it goes back to memory.
const CACHE_BLOCK: usize = 512;
/// Rows of a register tile.
const TILE_ROWS: usize = 6;

pub(crate) fn grouped(cpu: &Cpu, jobs: Vec<LinearJob<'_>>) {
    let total: usize = jobs.iter().map(|job| job.out.len()).sum();
    let mut tasks = Vec::new();
    for job in jobs {
        let LinearJob {
            x,
            rows,
            weight,
            bias,
            epilogue,
            out,
        } = job;
        if rows.is_empty() {
            continue;
        }
        if rows.len() == 1 && cpu.threads() > 1 {
            split_k(cpu, x, rows.at(0), weight, out);
            finish(out, weight.n(), bias, epilogue);
            continue;
        }
        let panels = weight.n().div_ceil(PANEL);
        let share = (total / (cpu.threads() * 4 * rows.len() * PANEL)).clamp(1, panels);
        let share = if cpu.threads() == 1 { panels } else { share };
        let columns = steps(weight.n(), share * PANEL);
        let all = steps(rows.len(), rows.len());
        for (columns, out) in columns.iter().zip(tiles(out, weight.n(), &all, &columns)) {
            let panels = columns.start / PANEL..columns.end.div_ceil(PANEL);
            tasks.push(Task {
                x,
                rows: rows.clone(),
                weight,
                panels,
                out,
                bias,
                epilogue,
            });
        }
    }
    cpu.par_items(tasks, |task| cpu.run(task));
}

fn finish(out: &mut [f32], n: usize, bias: Option<&[f32]>, epilogue: Epilogue) {
    for row in out.chunks_exact_mut(n) {
        for (i, y) in row.iter_mut().enumerate() {
            *y += bias.map_or(0.0, |bias| bias[i]);
            if epilogue == Epilogue::Relu2 {
                let r = if *y > 0.0 { *y } else { 0.0 };
                *y = r * r;
            }
        }
    }
}

/// One row: each thread takes a part of K for all outputs, and the parts are added.
fn split_k(cpu: &Cpu, x: &Prepared, row: usize, weight: &PackedMatrix, out: &mut [f32]) {
    let words = match x.row(row) {
        RowView::Pairs(x) => x.len(),
        RowView::Values(x) => x.len(),
    };
    let parts: Vec<Mutex<Vec<f32>>> = (0..cpu.threads())
        .map(|_| Mutex::new(vec![0.0; out.len()]))
        .collect();
    cpu.par_items((0..parts.len()).collect(), |part| {
        let range = words * part / parts.len()..words * (part + 1) / parts.len();
        let mut own = parts[part].lock().expect("no thread panics here");
        cpu.run(OneRow {
            x: x.row(row),
            weight,
            words: range,
            out: &mut own,
        });
    });
    out.fill(0.0);
    for part in parts {
        for (y, p) in out
            .iter_mut()
            .zip(part.into_inner().expect("no thread panics here"))
        {
            *y += p;
        }
    }
}

struct OneRow<'a> {
    x: RowView<'a>,
    weight: &'a PackedMatrix,
    words: Range<usize>,
    out: &'a mut [f32],
}

impl Kernel for OneRow<'_> {
    type Output = ();
    const DOTS_PAIRS: bool = true;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let OneRow {
            x,
            weight,
            words,
            out,
        } = self;
        for (panel, out) in out.chunks_mut(PANEL).enumerate() {
            let mut y = [0.0; PANEL];
            one_row(simd, x, weight.panel(panel), words.clone(), &mut y);
            out.copy_from_slice(&y[..out.len()]);
        }
    }
}

struct Task<'a> {
    x: &'a Prepared,
    rows: Rows<'a>,
    weight: &'a PackedMatrix,
    panels: Range<usize>,
    out: TileMut<'a, f32>,
    bias: Option<&'a [f32]>,
    epilogue: Epilogue,
}

impl Kernel for Task<'_> {
    type Output = ();
    const DOTS_PAIRS: bool = true;
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let count = self.rows.len();
        let mut totals = vec![[0.0; PANEL]; count];
        for panel in self.panels.clone() {
            let view = self.weight.panel(panel);
            if count == 1 {
                let x = self.x.row(self.rows.at(0));
                let words = match x {
                    RowView::Pairs(x) => 0..x.len(),
                    RowView::Values(x) => 0..x.len(),
                };
                one_row(simd, x, view, words, &mut totals[0]);
            } else {
                totals.fill([0.0; PANEL]);
                match view {
                    PanelView::Pairs(w) => {
                        block_rows::<S, Pairs>(simd, &self, w.len(), |k| w[k].cells(), &mut totals)
                    }
                    PanelView::F32(w) => {
                        block_rows::<S, F32>(simd, &self, w.len(), |k| w[k].cells(), &mut totals)
                    }
                    PanelView::Bf16(w) => {
                        block_rows::<S, Bf16>(simd, &self, w.len(), |k| w[k].cells(), &mut totals)
                    }
                    PanelView::F16(w) => {
                        block_rows::<S, F16>(simd, &self, w.len(), |k| w[k].cells(), &mut totals)
                    }
                    PanelView::Quantized => unreachable!("these products are the contract's"),
                }
            }
            let first = (panel - self.panels.start) * PANEL;
            for (i, total) in totals.iter().enumerate() {
                let row = self.out.row_mut(i);
                let width = PANEL.min(row.len() - first);
                let row = &mut row[first..first + width];
                row.copy_from_slice(&total[..width]);
                finish(
                    row,
                    width,
                    self.bias.map(|bias| &bias[panel * PANEL..][..width]),
                    self.epilogue,
                );
            }
        }
    }
}

/// A storage format: how a step of a chain reads it.
trait Format {
    type Cell: Copy;
    type X: Copy;
    fn x(row: RowView<'_>) -> &[Self::X];
    fn step<S: Simd>(simd: S, x: Self::X, w: &[Self::Cell], acc: S::F) -> S::F;
}

struct Pairs;
impl Format for Pairs {
    type Cell = u32;
    type X = u32;
    #[inline(always)]
    fn x(row: RowView<'_>) -> &[u32] {
        match row {
            RowView::Pairs(x) => x,
            RowView::Values(_) => unreachable!("bf16-kind weights meet bf16-kind rows"),
        }
    }
    #[inline(always)]
    fn step<S: Simd>(simd: S, x: u32, w: &[u32], acc: S::F) -> S::F {
        simd.dot_pairs(simd.splat_pair(x), simd.load_pairs(w), acc)
    }
}

macro_rules! f32_kind {
    ($name:ident, $cell:ty, $load:ident) => {
        struct $name;
        impl Format for $name {
            type Cell = $cell;
            type X = f32;
            #[inline(always)]
            fn x(row: RowView<'_>) -> &[f32] {
                match row {
                    RowView::Values(x) => x,
                    RowView::Pairs(_) => unreachable!("f32-kind weights meet f32-kind rows"),
                }
            }
            #[inline(always)]
            fn step<S: Simd>(simd: S, x: f32, w: &[$cell], acc: S::F) -> S::F {
                S::F::splat(x).fma(simd.$load(w), acc)
            }
        }
    };
}
f32_kind!(F32, f32, load);
f32_kind!(Bf16, u16, load_bf16);
f32_kind!(F16, u16, load_f16);

#[inline(always)]
fn one_row<S: Simd>(
    simd: S,
    x: RowView<'_>,
    panel: PanelView<'_>,
    words: Range<usize>,
    y: &mut [f32; PANEL],
) {
    match panel {
        PanelView::Pairs(w) => chains::<S, Pairs>(simd, Pairs::x(x), |k| w[k].cells(), words, y),
        PanelView::F32(w) => chains::<S, F32>(simd, F32::x(x), |k| w[k].cells(), words, y),
        PanelView::Bf16(w) => chains::<S, Bf16>(simd, Bf16::x(x), |k| w[k].cells(), words, y),
        PanelView::F16(w) => chains::<S, F16>(simd, F16::x(x), |k| w[k].cells(), words, y),
        PanelView::Quantized => unreachable!("these products are the contract's"),
    }
}

/// One row of a panel: a quarter of the lanes' number of chains, each over every so many steps.
#[inline(always)]
fn chains<'w, S: Simd, F: Format>(
    simd: S,
    x: &[F::X],
    w: impl Fn(usize) -> &'w [F::Cell; PANEL],
    words: Range<usize>,
    y: &mut [f32; PANEL],
) where
    F::Cell: 'w,
{
    match S::LANES {
        16 => unrolled::<S, F, 4, 4>(simd, x, w, words, y),
        8 => unrolled::<S, F, 2, 4>(simd, x, w, words, y),
        _ => unrolled::<S, F, 1, 4>(simd, x, w, words, y),
    }
}

#[inline(always)]
fn unrolled<'w, S: Simd, F: Format, const CHAINS: usize, const NV: usize>(
    simd: S,
    x: &[F::X],
    w: impl Fn(usize) -> &'w [F::Cell; PANEL],
    words: Range<usize>,
    y: &mut [f32; PANEL],
) where
    F::Cell: 'w,
{
    let zero = S::F::splat(0.0);
    for first in (0..PANEL).step_by(NV * S::LANES) {
        let mut acc = [[zero; NV]; CHAINS];
        let mut k = words.start;
        while k + CHAINS <= words.end {
            for c in 0..CHAINS {
                let cells = w(k + c);
                for v in 0..NV {
                    acc[c][v] = F::step(simd, x[k + c], &cells[first + v * S::LANES..], acc[c][v]);
                }
            }
            k += CHAINS;
        }
        while k < words.end {
            for v in 0..NV {
                acc[0][v] = F::step(simd, x[k], &w(k)[first + v * S::LANES..], acc[0][v]);
            }
            k += 1;
        }
        for v in 0..NV {
            let mut sum = acc[0][v];
            for c in 1..CHAINS {
                sum = sum.add(acc[c][v]);
            }
            simd.store(sum, &mut y[first + v * S::LANES..]);
        }
    }
}

/// Several rows: register tiles over cache blocks of K, accumulated in memory.
#[inline(always)]
fn block_rows<'w, S: Simd, F: Format>(
    simd: S,
    task: &Task<'_>,
    words: usize,
    w: impl Fn(usize) -> &'w [F::Cell; PANEL] + Copy,
    totals: &mut [[f32; PANEL]],
) where
    F::Cell: 'w,
{
    let mut start = 0;
    while start < words {
        let block = start..words.min(start + CACHE_BLOCK);
        let mut row = 0;
        while row < totals.len() {
            let left = totals.len() - row;
            let take = left.min(TILE_ROWS);
            match (S::LANES, take) {
                (16, 6) => tile::<S, F, 6, 4>(simd, task, row, block.clone(), w, totals),
                (16, 4 | 5) => tile::<S, F, 4, 4>(simd, task, row, block.clone(), w, totals),
                (16, 2 | 3) => tile::<S, F, 2, 4>(simd, task, row, block.clone(), w, totals),
                (8, 4..) => tile::<S, F, 4, 2>(simd, task, row, block.clone(), w, totals),
                (8, 2 | 3) => tile::<S, F, 2, 2>(simd, task, row, block.clone(), w, totals),
                (_, 2..) => tile::<S, F, 2, 4>(simd, task, row, block.clone(), w, totals),
                _ => tile::<S, F, 1, 4>(simd, task, row, block.clone(), w, totals),
            }
            row += match (S::LANES, take) {
                (16, 6) => 6,
                (16 | 8, 4..) => 4,
                (_, 2..) => 2,
                _ => 1,
            };
        }
        start = block.end;
    }
}

#[inline(always)]
fn tile<'w, S: Simd, F: Format, const MR: usize, const NV: usize>(
    simd: S,
    task: &Task<'_>,
    first: usize,
    block: Range<usize>,
    w: impl Fn(usize) -> &'w [F::Cell; PANEL],
    totals: &mut [[f32; PANEL]],
) where
    F::Cell: 'w,
{
    let len = block.len();
    let mut x: [&[F::X]; MR] = [&[]; MR];
    for r in 0..MR {
        x[r] = &F::x(task.x.row(task.rows.at(first + r)))[block.clone()];
    }
    for column in (0..PANEL).step_by(NV * S::LANES) {
        let mut acc = [[S::F::splat(0.0); NV]; MR];
        for r in 0..MR {
            for v in 0..NV {
                acc[r][v] = simd.load(&totals[first + r][column + v * S::LANES..]);
            }
        }
        for k in 0..len {
            let cells = w(block.start + k);
            for r in 0..MR {
                for v in 0..NV {
                    acc[r][v] = F::step(simd, x[r][k], &cells[column + v * S::LANES..], acc[r][v]);
                }
            }
        }
        for r in 0..MR {
            for v in 0..NV {
                simd.store(acc[r][v], &mut totals[first + r][column + v * S::LANES..]);
            }
        }
    }
}
