//! Products whose columns are brought together when they are needed: convolutions, products of two activations.
//!
//! The roles of [`super::linear`] are exchanged. Rows are operands that were prepared before (the weights of a
//! convolution); the columns (output positions) pass by in panels of 64, of which one k block at a time is gathered
//! into a buffer that stays in the nearest caches while all rows work on it. So results lie as `[row][column]`, and no
//! matrix of gathered columns ever exists. Every sum has the order of NUMERICS.md section 3.

use std::ops::Range;

use jetblock_numerics::reduce::K_BLOCK;
use jetblock_numerics::{Lanes, canonical, round};
use jetblock_simd::{Kernel, Level, Simd};

use super::cpu::{Block, F32, Pairs, Weight};
use super::pack::{PANEL, PanelRow};
use super::prepare::Operands;
use super::{OperandKind, Prepared, Rows};

/// Values of k that are gathered before they become pairs: they stay in the nearest cache.
const STAGE: usize = 32;

/// Columns up to which a panel is taken a vector at a time, and not whole.
const NARROW: usize = 48;

/// The columns of a product.
pub(crate) trait Columns {
    /// Fills row i with element `k + i` of the columns `first..first + 64`; +0 where there is no column.
    fn gather(&self, first: usize, k: usize, rows: &mut [PanelRow<f32>]);
}

impl PanelRow<f32> {
    /// The values to fill.
    #[inline(always)]
    pub(crate) fn values_mut(&mut self) -> &mut [f32; PANEL] {
        &mut self.0
    }
}

/// What a thread needs for its products; reused from panel to panel.
#[derive(Debug)]
pub(crate) struct Scratch {
    values: Vec<PanelRow<f32>>,
    pairs: Vec<PanelRow<u32>>,
    totals: Vec<[f32; PANEL]>,
}

impl Scratch {
    /// Room for products of `rows` rows of length `k`.
    pub(crate) fn new(kind: OperandKind, rows: usize, k: usize) -> Scratch {
        let block = k.min(K_BLOCK);
        let (values, pairs) = match kind {
            OperandKind::F32 => (block, 0),
            OperandKind::Bf16 => (STAGE.min(block.next_multiple_of(2)), block.div_ceil(2)),
        };
        Scratch {
            values: vec![PanelRow([0.0; PANEL]); values],
            pairs: vec![PanelRow([0; PANEL]); pairs],
            totals: vec![[0.0; PANEL]; rows],
        }
    }
}

/// `totals[i][j] = dot(rows[range.start + i], column first + j)`, before a NaN becomes canonical.
pub(crate) fn product<'s>(
    level: Level,
    rows: &Prepared,
    range: Range<usize>,
    columns: &impl Columns,
    first: usize,
    scratch: &'s mut Scratch,
) -> &'s mut [[f32; PANEL]] {
    let count = range.len();
    let rows_of = Rows::Range(range);
    let Scratch {
        values,
        pairs,
        totals,
    } = scratch;
    let totals = &mut totals[..count];
    for start in (0..rows.k()).step_by(K_BLOCK) {
        let len = K_BLOCK.min(rows.k() - start);
        match rows.kind() {
            OperandKind::F32 => {
                columns.gather(first, start, &mut values[..len]);
                level.run(AddBlock::<F32> {
                    block: &values[..len],
                    x: rows.values(),
                    start,
                    rows: &rows_of,
                    totals,
                });
            }
            OperandKind::Bf16 => {
                for at in (0..len).step_by(STAGE) {
                    let stage = &mut values[..STAGE.min(len - at).next_multiple_of(2)];
                    let filled = STAGE.min(len - at);
                    columns.gather(first, start + at, &mut stage[..filled]);
                    // A missing odd element.
                    stage[filled..].fill(PanelRow([0.0; PANEL]));
                    let pairs = &mut pairs[at / 2..];
                    level.run(PairUp { stage, pairs });
                }
                level.run(AddBlock::<Pairs> {
                    block: &pairs[..len.div_ceil(2)],
                    x: rows.pairs(),
                    start: start / 2,
                    rows: &rows_of,
                    totals,
                });
            }
        }
    }
    totals
}

/// One k block of one panel, added to the totals of all rows.
struct AddBlock<'a, W: Weight> {
    block: &'a [PanelRow<W::Cell>],
    x: Operands<'a, W::X>,
    start: usize,
    rows: &'a Rows<'a>,
    totals: &'a mut [[f32; PANEL]],
}

impl<W: Weight> Kernel for AddBlock<'_, W> {
    type Output = ();
    const DOTS_PAIRS: bool = W::K_STEP == 2;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let block = self.block();
        block.add_at_level::<S, W>(simd, self.totals, None);
    }
}

impl<'a, W: Weight> AddBlock<'a, W> {
    #[inline(always)]
    fn block(&self) -> Block<'a, W::Cell, W::X> {
        Block {
            weights: self.block,
            next: &[],
            x: self.x,
            start: self.start,
            rows: self.rows,
            first_row: 0,
        }
    }
}

/// Neighbours along k become pairs of operands, the even one in the low half.
struct PairUp<'a> {
    stage: &'a [PanelRow<f32>],
    pairs: &'a mut [PanelRow<u32>],
}

impl Kernel for PairUp<'_> {
    type Output = ();

    /// Plain loops: the compiler turns them into vectors of the level's width.
    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        let (two, _) = self.stage.as_chunks::<2>();
        for (pairs, [even, odd]) in self.pairs.iter_mut().zip(two) {
            for j in 0..PANEL {
                let a = round::bf16_operand_round(even.0[j]);
                let b = round::bf16_operand_round(odd.0[j]);
                pairs.0[j] = a.to_bits() >> 16 | b.to_bits();
            }
        }
    }
}

/// Adds a bias to each row of totals where there is one, and makes NaN canonical.
pub(crate) struct Finish<'a> {
    pub(crate) totals: &'a mut [[f32; PANEL]],
    /// One for each row.
    pub(crate) bias: Option<&'a [f32]>,
}

impl Kernel for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for i in 0..self.totals.len() {
            let total = &mut self.totals[i];
            let mut at = 0;
            while at < PANEL {
                let mut y = simd.load(&total[at..]);
                if let Some(bias) = self.bias {
                    y = y.add(S::F::splat(bias[i]));
                }
                simd.store(canonical(y), &mut total[at..]);
                at += S::LANES;
            }
        }
    }
}

/// All columns of a right operand, brought together once for many products. The memory is used again and again.
pub(crate) struct PackedColumns {
    kind: OperandKind,
    k: usize,
    values: Vec<PanelRow<f32>>,
    pairs: Vec<PanelRow<u32>>,
    stage: Vec<PanelRow<f32>>,
}

impl PackedColumns {
    /// No columns yet.
    pub(crate) fn new(kind: OperandKind) -> PackedColumns {
        PackedColumns {
            kind,
            k: 0,
            values: Vec::new(),
            pairs: Vec::new(),
            stage: Vec::new(),
        }
    }

    /// The `n` columns of length `k`, in place of what was here.
    pub(crate) fn pack(&mut self, level: Level, columns: &impl Columns, k: usize, n: usize) {
        let panels = n.div_ceil(PANEL);
        self.k = k;
        match self.kind {
            OperandKind::F32 => {
                self.values.resize(panels * k, PanelRow([0.0; PANEL]));
                for (panel, rows) in self.values.chunks_mut(k).enumerate() {
                    columns.gather(panel * PANEL, 0, rows);
                }
            }
            OperandKind::Bf16 => {
                let pairs = k.div_ceil(2);
                self.stage
                    .resize(k.next_multiple_of(2), PanelRow([0.0; PANEL]));
                // A missing odd element.
                self.stage[k..].fill(PanelRow([0.0; PANEL]));
                self.pairs.resize(panels * pairs, PanelRow([0; PANEL]));
                for (panel, pairs) in self.pairs.chunks_mut(pairs).enumerate() {
                    columns.gather(panel * PANEL, 0, &mut self.stage[..k]);
                    let stage = &self.stage[..];
                    level.run(PairUp { stage, pairs });
                }
            }
        }
    }

    /// Element `k` of column `n`, of the f32 kind.
    pub(crate) fn value(&self, k: usize, n: usize) -> f32 {
        self.values[n / PANEL * self.k + k].0[n % PANEL]
    }

    /// Whether all elements are finite, of the f32 kind.
    pub(crate) fn is_finite(&self) -> bool {
        let finite = |row: &PanelRow<f32>| row.0.iter().all(|v| v.is_finite());
        self.values.iter().all(finite)
    }

    /// `totals[i][j] = dot(rows[range.start + i], column 64 * panel + j)`.
    pub(crate) fn product(
        &self,
        level: Level,
        rows: &Prepared,
        range: Range<usize>,
        panel: usize,
        totals: &mut [[f32; PANEL]],
    ) {
        let rows_of = Rows::Range(range);
        for start in (0..self.k).step_by(K_BLOCK) {
            let len = K_BLOCK.min(self.k - start);
            match self.kind {
                OperandKind::F32 => level.run(AddBlock::<F32> {
                    block: &self.values[panel * self.k + start..][..len],
                    x: rows.values(),
                    start,
                    rows: &rows_of,
                    totals,
                }),
                OperandKind::Bf16 => level.run(AddBlock::<Pairs> {
                    block: &self.pairs[panel * self.k.div_ceil(2) + start / 2..][..len.div_ceil(2)],
                    x: rows.pairs(),
                    start: start / 2,
                    rows: &rows_of,
                    totals,
                }),
            }
        }
    }

    /// `totals[i][j] = dot(x[i, :], column 64 * panel + j)` of at most 256 elements of f32 columns; x has rows of `stride`.
    /// Only the first `columns` of the panel count.
    pub(crate) fn block_product(
        &self,
        level: Level,
        (x, stride): (&[f32], usize),
        panel: usize,
        columns: usize,
        totals: &mut [[f32; PANEL]],
    ) {
        let block = AddBlock::<F32> {
            block: &self.values[panel * self.k..][..self.k],
            x: Operands::new(x, stride),
            start: 0,
            rows: &Rows::Range(0..totals.len()),
            totals,
        };
        if columns <= NARROW {
            level.run(AddNarrow { block, columns });
        } else {
            level.run(block);
        }
    }
}

/// The first columns of a block.
struct AddNarrow<'a> {
    block: AddBlock<'a, F32>,
    columns: usize,
}

impl Kernel for AddNarrow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let block = self.block.block();
        block.add_narrow::<S, F32>(simd, self.block.totals, self.columns);
    }
}
