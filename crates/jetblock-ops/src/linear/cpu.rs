//! [`super::linear`] with a register tile per instruction set and tasks over panels and rows.
//!
//! Lanes run over outputs. A task walks its panels; in each it takes k blocks of 256 in turn (a block of the panel
//! stays in the nearest caches) and brings all its rows over the block, a few rows at a time in registers.

use std::marker::PhantomData;
use std::ops::Range;

use jetblock_numerics::reduce::K_BLOCK;
use jetblock_numerics::{Lanes, canonical, max};
use jetblock_simd::{Cpu, Kernel, Level, Simd, TileMut, tiles};

use super::pack::{PANEL, PanelRow, Panels};
use super::prepare::Operands;
use super::quantized::cpu::{CodeFormat, E4m3, I8, Nibbles, Product, Side, Values};
use super::quantized::{self, Codes, QuantizedPanels};
use super::{Epilogue, LinearJob, OperandKind, PackedMatrix, Prepared, Rows};
use crate::row::store_part;

/// Rows whose totals a task keeps at once: 64 KiB.
const ROW_CHUNK: usize = 256;
/// Rows worth splitting off: fewer would read their weights again for too little work.
const MIN_ROWS: usize = 24;
/// Multiply-adds worth a task of their own; about 20 microseconds.
const MIN_TASK: usize = 1 << 20;

/// Bytes of a cache line.
const LINE_BYTES: usize = 64;
/// Rows from which a block takes longer to work on than to read, so that the next one is worth asking for. With
/// fewer rows the kernel is a plain stream, which the processor's own prefetcher does best.
const PREFETCH_ROWS: usize = 6;

pub(super) fn run(cpu: &Cpu, jobs: Vec<LinearJob<'_>>) {
    let pieces = pieces_per_job(cpu.threads(), &jobs);
    let mut tasks = Vec::with_capacity(pieces.iter().sum());
    for (job, pieces) in jobs.into_iter().zip(pieces) {
        cut(job, pieces, &mut tasks);
    }
    cpu.par_items(tasks, |task| task.run(cpu));
}

/// A part of a job: some panels of some rows.
struct Task<'a> {
    x: &'a Prepared,
    rows: Rows<'a>,
    weight: &'a PackedMatrix,
    bias: Option<&'a [f32]>,
    epilogue: Epilogue,
    panels: Range<usize>,
    /// The task's rows and the outputs of its panels.
    out: TileMut<'a, f32>,
}

/// How many tasks to make of each job: a few per thread in all, by work.
fn pieces_per_job(threads: usize, jobs: &[LinearJob<'_>]) -> Vec<usize> {
    let work = |job: &LinearJob<'_>| job.out.len().saturating_mul(job.weight.k());
    let total: usize = jobs.iter().map(work).fold(0, usize::saturating_add);
    let per_task = (total / (threads * 4)).max(MIN_TASK);
    jobs.iter()
        .map(|job| {
            if threads == 1 {
                1
            } else {
                work(job).div_ceil(per_task).max(1)
            }
        })
        .collect()
}

/// Cuts a job along its panels, and along its rows where the panels are too few.
fn cut<'a>(job: LinearJob<'a>, pieces: usize, tasks: &mut Vec<Task<'a>>) {
    let LinearJob {
        x,
        rows,
        weight,
        bias,
        epilogue,
        out,
    } = job;
    let (m, n, panels) = (rows.len(), weight.n(), weight.n().div_ceil(PANEL));
    if m == 0 || n == 0 {
        return;
    }
    let panel_pieces = pieces.min(panels);
    let row_pieces = pieces.div_ceil(panel_pieces).min(m.div_ceil(MIN_ROWS));
    let row_ranges: Vec<_> = (0..row_pieces)
        .map(|i| m * i / row_pieces..m * (i + 1) / row_pieces)
        .collect();
    let panel_ranges: Vec<_> = (0..panel_pieces)
        .map(|i| panels * i / panel_pieces..panels * (i + 1) / panel_pieces)
        .collect();
    let columns: Vec<_> = panel_ranges
        .iter()
        .map(|p| p.start * PANEL..n.min(p.end * PANEL))
        .collect();
    let mut tiles = tiles(out, n, &row_ranges, &columns).into_iter();
    for range in row_ranges {
        let rows = match &rows {
            Rows::Range(all) => Rows::Range(all.start + range.start..all.start + range.end),
            Rows::List(list) => Rows::List(&list[range]),
        };
        for panels in &panel_ranges {
            let out = tiles
                .next()
                .expect("one tile for each row range and panel range");
            tasks.push(Task {
                x,
                rows: rows.clone(),
                weight,
                bias,
                epilogue,
                panels: panels.clone(),
                out,
            });
        }
    }
}

impl<'a> Task<'a> {
    /// Each storage format is a kernel of its own: all of them in one function would take the compiler minutes.
    fn run(self, cpu: &Cpu) {
        let x = self.x;
        match self.weight.panels() {
            Panels::Pairs(panels) => self.walk::<Pairs>(cpu, panels, x.pairs()),
            Panels::F32(panels) => self.walk::<F32>(cpu, panels, x.values()),
            Panels::Bf16(panels) => self.walk::<Bf16>(cpu, panels, x.values()),
            Panels::F16(panels) => self.walk::<F16>(cpu, panels, x.values()),
            Panels::Quantized(panels) => match (x.kind(), panels.codes()) {
                (OperandKind::Bf16, Codes::E4m3) => {
                    self.walk_quantized::<quantized::cpu::Pairs, E4m3>(cpu, panels, x.pairs())
                }
                (OperandKind::Bf16, Codes::I8) => {
                    self.walk_quantized::<quantized::cpu::Pairs, I8>(cpu, panels, x.pairs())
                }
                (OperandKind::Bf16, _) => {
                    self.walk_quantized::<quantized::cpu::Pairs, Nibbles>(cpu, panels, x.pairs())
                }
                (OperandKind::F32, Codes::E4m3) => {
                    self.walk_quantized::<Values, E4m3>(cpu, panels, x.values())
                }
                (OperandKind::F32, Codes::I8) => {
                    self.walk_quantized::<Values, I8>(cpu, panels, x.values())
                }
                (OperandKind::F32, _) => {
                    self.walk_quantized::<Values, Nibbles>(cpu, panels, x.values())
                }
            },
        }
    }

    fn walk<W: Weight>(self, cpu: &Cpu, panels: &'a [PanelRow<W::Cell>], x: Operands<'a, W::X>) {
        cpu.run(Walk::<W> {
            task: self,
            panels,
            x,
        });
    }

    fn walk_quantized<X: Side, C: CodeFormat>(
        self,
        cpu: &Cpu,
        panels: &'a QuantizedPanels,
        x: Operands<'a, X::Word>,
    ) {
        cpu.run(WalkQuantized::<X, C> {
            task: self,
            panels,
            x,
            codes: PhantomData,
        });
    }
}

/// A task over weights of one format.
struct Walk<'a, W: Weight> {
    task: Task<'a>,
    panels: &'a [PanelRow<W::Cell>],
    x: Operands<'a, W::X>,
}

impl<W: Weight> Kernel for Walk<'_, W> {
    type Output = ();
    const DOTS_PAIRS: bool = W::K_STEP == 2;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Walk { task, panels, x } = self;
        task.walk_panels::<S, W>(simd, panels, x);
    }
}

/// A task over codes of one format.
struct WalkQuantized<'a, X: Side, C> {
    task: Task<'a>,
    panels: &'a QuantizedPanels,
    x: Operands<'a, X::Word>,
    codes: PhantomData<C>,
}

impl<X: Side, C: CodeFormat> Kernel for WalkQuantized<'_, X, C> {
    type Output = ();
    const DOTS_PAIRS: bool = X::DOTS_PAIRS;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        self.task.walk_codes::<S, X, C>(simd, self.panels, self.x);
    }
}

impl Task<'_> {
    #[inline(always)]
    fn walk_panels<S: Simd, W: Weight>(
        mut self,
        simd: S,
        panels: &[PanelRow<W::Cell>],
        x: Operands<'_, W::X>,
    ) {
        let steps = self.weight.k().div_ceil(W::K_STEP);
        let block_steps = K_BLOCK / W::K_STEP;
        let mut totals = vec![[0.0; PANEL]; self.rows.len().min(ROW_CHUNK)];
        for panel in self.panels.clone() {
            let mut ending = Ending::new(
                self.bias,
                self.epilogue,
                panel,
                self.panels.start,
                &mut self.out,
            );
            let mut first = 0;
            while first < self.rows.len() {
                let count = ROW_CHUNK.min(self.rows.len() - first);
                let totals = &mut totals[..count];
                let mut start = 0;
                while start < steps {
                    let (at, end) = (
                        panel * steps + start,
                        panel * steps + steps.min(start + block_steps),
                    );
                    let block = Block {
                        weights: &panels[at..end],
                        next: &panels[end..],
                        x,
                        start,
                        rows: &self.rows,
                        first_row: first,
                    };
                    let last = (start + block_steps >= steps).then_some(&mut ending);
                    block.add_at_level::<S, W>(simd, totals, last);
                    start += block_steps;
                }
                first += count;
            }
        }
    }

    #[inline(always)]
    fn walk_codes<S: Simd, X: Side, C: CodeFormat>(
        mut self,
        simd: S,
        panels: &QuantizedPanels,
        x: Operands<'_, X::Word>,
    ) {
        let mut totals = vec![[0.0; PANEL]; self.rows.len().min(ROW_CHUNK)];
        let mut first = 0;
        while first < self.rows.len() {
            let count = ROW_CHUNK.min(self.rows.len() - first);
            let totals = &mut totals[..count];
            let mut product = Product::<X>::new(panels, x, self.x.k(), &self.rows, first, count);
            for panel in self.panels.clone() {
                let mut ending = Ending::new(
                    self.bias,
                    self.epilogue,
                    panel,
                    self.panels.start,
                    &mut self.out,
                );
                product.totals::<S, C>(simd, panel, totals);
                for i in 0..count {
                    ending.store(simd, first + i, &totals[i]);
                }
            }
            first += count;
        }
    }
}

/// The way from totals to outputs.
pub(super) struct Ending<'t, 'a> {
    bias: Option<[f32; PANEL]>,
    epilogue: Epilogue,
    out: &'t mut TileMut<'a, f32>,
    /// The panel's columns of `out`.
    columns: Range<usize>,
}

impl<'t, 'a> Ending<'t, 'a> {
    /// Of one panel; `out` has the columns of panels from `first_panel` on.
    #[inline(always)]
    fn new(
        all_bias: Option<&[f32]>,
        epilogue: Epilogue,
        panel: usize,
        first_panel: usize,
        out: &'t mut TileMut<'a, f32>,
    ) -> Ending<'t, 'a> {
        let mut bias = None;
        if let Some(all) = all_bias {
            let some = &all[panel * PANEL..all.len().min((panel + 1) * PANEL)];
            bias.insert([0.0; PANEL])[..some.len()].copy_from_slice(some);
        }
        let column = (panel - first_panel) * PANEL;
        Ending {
            bias,
            epilogue,
            columns: column..out.cols().min(column + PANEL),
            out,
        }
    }

    /// Bias, epilogue, canonical NaN; then the outputs that exist are stored.
    ///
    /// Called for a few rows at a time, as soon as they are complete: their stores then drain beside the next rows'
    /// arithmetic.
    #[inline(always)]
    fn store<S: Simd>(&mut self, simd: S, row: usize, total: &[f32; PANEL]) {
        let mut at = 0;
        let out = &mut self.out.row_mut(row)[self.columns.clone()];
        while at < out.len() {
            let mut y = simd.load(&total[at..]);
            if let Some(bias) = &self.bias {
                y = y.add(simd.load(&bias[at..]));
            }
            if self.epilogue == Epilogue::Relu2 {
                let r = max(y, S::F::splat(0.0));
                y = r.mul(r);
            }
            let end = out.len().min(at + S::LANES);
            store_part(simd, canonical(y), &mut out[at..end]);
            at = end;
        }
    }
}

/// A storage format of weights and the step of a chain that reads it.
pub(super) trait Weight {
    /// An element of a panel row.
    type Cell: Copy;
    /// An operand on the other side.
    type X: Copy;
    /// Elements of k in a step.
    const K_STEP: usize;
    /// `Cell`s at lanes `at..` as a vector.
    type Vector<S: Simd>: Copy;
    fn load<S: Simd>(simd: S, cells: &[Self::Cell]) -> Self::Vector<S>;
    fn splat<S: Simd>(simd: S, x: Self::X) -> Self::Vector<S>;
    /// The chain `acc` one step further.
    fn step<S: Simd>(simd: S, x: Self::Vector<S>, w: Self::Vector<S>, acc: S::F) -> S::F;
}

pub(super) struct Pairs;
impl Weight for Pairs {
    type Cell = u32;
    type X = u32;
    const K_STEP: usize = 2;
    type Vector<S: Simd> = S::Pairs;
    #[inline(always)]
    fn load<S: Simd>(simd: S, cells: &[u32]) -> S::Pairs {
        simd.load_pairs(cells)
    }
    #[inline(always)]
    fn splat<S: Simd>(simd: S, x: u32) -> S::Pairs {
        simd.splat_pair(x)
    }
    #[inline(always)]
    fn step<S: Simd>(simd: S, x: S::Pairs, w: S::Pairs, acc: S::F) -> S::F {
        simd.dot_pairs(x, w, acc)
    }
}

/// The f32 kind differs between storage dtypes only in how a vector of weights is loaded.
macro_rules! f32_kind {
    ($name:ident, $cell:ty, $load:ident) => {
        pub(super) struct $name;
        impl Weight for $name {
            type Cell = $cell;
            type X = f32;
            const K_STEP: usize = 1;
            type Vector<S: Simd> = S::F;
            #[inline(always)]
            fn load<S: Simd>(simd: S, cells: &[$cell]) -> S::F {
                simd.$load(cells)
            }
            #[inline(always)]
            fn splat<S: Simd>(_: S, x: f32) -> S::F {
                S::F::splat(x)
            }
            #[inline(always)]
            fn step<S: Simd>(_: S, x: S::F, w: S::F, acc: S::F) -> S::F {
                x.fma(w, acc)
            }
        }
    };
}
f32_kind!(F32, f32, load);
f32_kind!(Bf16, u16, load_bf16);
f32_kind!(F16, u16, load_f16);

/// One k block of one panel, and the rows to bring over it.
///
/// Below this point there are no closures, iterator adapters or `array::from_fn`: what is not inlined lacks the
/// level's features, and a tile whose address leaves the function is kept in memory.
pub(super) struct Block<'a, C, X> {
    pub(super) weights: &'a [PanelRow<C>],
    /// What follows in memory, where the next block is.
    pub(super) next: &'a [PanelRow<C>],
    pub(super) x: Operands<'a, X>,
    /// The block's first step.
    pub(super) start: usize,
    pub(super) rows: &'a Rows<'a>,
    /// The row of the first total.
    pub(super) first_row: usize,
}

impl<C: Copy, X: Copy> Block<'_, C, X> {
    /// [`Block::add`] with the register tile of the level.
    #[inline(always)]
    pub(super) fn add_at_level<S: Simd, W: Weight<Cell = C, X = X>>(
        &self,
        simd: S,
        totals: &mut [[f32; PANEL]],
        ending: Option<&mut Ending<'_, '_>>,
    ) {
        let two = W::K_STEP == 2;
        match S::LEVEL {
            Level::Avx512 if two => self.add::<S, W, 4, 4, 4>(simd, totals, PANEL, ending),
            Level::Avx512Bf16 | Level::Avx512 => {
                self.add::<S, W, 4, 4, 6>(simd, totals, PANEL, ending)
            }
            Level::Neon if two => self.add::<S, W, 16, 4, 4>(simd, totals, PANEL, ending),
            Level::Neon => self.add::<S, W, 16, 4, 6>(simd, totals, PANEL, ending),
            Level::Avx2 if two => self.add::<S, W, 8, 2, 4>(simd, totals, PANEL, ending),
            Level::Avx2 => self.add::<S, W, 8, 2, 6>(simd, totals, PANEL, ending),
            Level::Scalar => self.add::<S, W, 8, 8, 1>(simd, totals, PANEL, ending),
        }
    }

    /// [`Block::add`] for the first `columns` alone: as many vectors, one at a time.
    #[inline(always)]
    pub(super) fn add_narrow<S: Simd, W: Weight<Cell = C, X = X>>(
        &self,
        simd: S,
        totals: &mut [[f32; PANEL]],
        columns: usize,
    ) {
        match S::LEVEL {
            Level::Scalar => self.add::<S, W, 8, 8, 1>(simd, totals, columns, None),
            _ => self.add::<S, W, 1, 1, 6>(simd, totals, columns, None),
        }
    }

    /// Adds the block to the totals of all rows, in groups of at most `MR` that are as equal as can be.
    ///
    /// A register tile is `MR` rows by `NV` vectors: as many chains as leave registers for the operands, of which
    /// the bf16 kind needs twice as many where it takes its pairs apart. A single row takes `N1` vectors: few chains
    /// would wait for each other. Columns from `end` on are left out.
    #[inline(always)]
    fn add<
        S: Simd,
        W: Weight<Cell = C, X = X>,
        const N1: usize,
        const NV: usize,
        const MR: usize,
    >(
        &self,
        simd: S,
        totals: &mut [[f32; PANEL]],
        end: usize,
        mut ending: Option<&mut Ending<'_, '_>>,
    ) {
        let m = totals.len();
        let groups = m.div_ceil(MR);
        for group in 0..groups {
            match m * (group + 1) / groups - m * group / groups {
                1 => self.tile::<S, W, N1, 1>(simd, group, groups, totals, end),
                2 => self.tile::<S, W, NV, 2>(simd, group, groups, totals, end),
                3 => self.tile::<S, W, NV, 3>(simd, group, groups, totals, end),
                4 => self.tile::<S, W, NV, 4>(simd, group, groups, totals, end),
                5 => self.tile::<S, W, NV, 5>(simd, group, groups, totals, end),
                _ => self.tile::<S, W, NV, 6>(simd, group, groups, totals, end),
            }
            if let Some(ending) = ending.as_deref_mut() {
                for row in m * group / groups..m * (group + 1) / groups {
                    ending.store(simd, self.first_row + row, &totals[row]);
                }
            }
        }
    }

    /// The cells of each step of the next block that a pass asks for: passes over one block share its lines, so that
    /// the next arrives while this one is worked on.
    #[inline(always)]
    fn ahead(rows: usize, pass: usize, passes: usize) -> Range<usize> {
        if passes == 1 && rows < PREFETCH_ROWS {
            return 0..0;
        }
        let line = LINE_BYTES / size_of::<C>();
        let lines = PANEL / line;
        lines * pass / passes * line..lines * (pass + 1) / passes * line
    }

    /// `MR` rows: chains in registers, then one addition to each total.
    #[inline(always)]
    fn tile<S: Simd, W: Weight<Cell = C, X = X>, const NV: usize, const MR: usize>(
        &self,
        simd: S,
        group: usize,
        groups: usize,
        totals: &mut [[f32; PANEL]],
        end: usize,
    ) {
        let weights = self.weights;
        let at = totals.len() * group / groups;
        let totals = &mut totals[at..][..MR];
        let mut x: [&[X]; MR] = [&[]; MR];
        for r in 0..MR {
            let row = self.rows.at(self.first_row + at + r);
            x[r] = self.x.run(row, self.start, weights.len());
        }
        let columns = PANEL / (NV * S::LANES);
        let mut column = 0;
        while column < end {
            let pass = group * columns + column / (NV * S::LANES);
            let ahead = Self::ahead(MR, pass, groups * columns);
            let mut chains = [[S::F::splat(0.0); NV]; MR];
            for i in 0..weights.len() {
                let row = &weights[i].0;
                if i < self.next.len() {
                    let mut cell = ahead.start;
                    while cell < ahead.end {
                        simd.prefetch(&self.next[i].0[cell]);
                        cell += LINE_BYTES / size_of::<C>();
                    }
                }
                let mut w = [W::load(simd, &row[column..]); NV];
                for v in 1..NV {
                    w[v] = W::load(simd, &row[column + v * S::LANES..]);
                }
                for r in 0..MR {
                    let x = W::splat(simd, x[r][i]);
                    for v in 0..NV {
                        chains[r][v] = W::step(simd, x, w[v], chains[r][v]);
                    }
                }
            }
            for r in 0..MR {
                for v in 0..NV {
                    let total = &mut totals[r][column + v * S::LANES..];
                    // The first block's totals start at +0.
                    let before = if self.start == 0 {
                        S::F::splat(0.0)
                    } else {
                        simd.load(total)
                    };
                    simd.store(before.add(chains[r][v]), total);
                }
            }
            column += NV * S::LANES;
        }
    }
}
