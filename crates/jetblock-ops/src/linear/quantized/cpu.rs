//! Totals of quantized panels: chains over codes that are decoded on the way.
//!
//! For a few rows, codes become operands in registers, one decoding for a group of rows: the kernel reads the stored
//! bytes and nothing else. For many rows, a block of 256 k is decoded once into operands that stay in the nearest caches,
//! and groups of rows are brought over it.
//!
//! No closures, iterator adapters or `array::from_fn` in what runs per step: see `linear/cpu.rs`.

use jetblock_numerics::Lanes;
use jetblock_numerics::reduce::K_BLOCK;
use jetblock_simd::{Level, Simd};

use super::super::Rows;
use super::super::pack::{PANEL, PanelRow};
use super::super::prepare::Operands;
use super::panels::{QuantizedPanels, Scales};
use super::{Codes, operand};

/// Scale blocks in a block of k at most.
const MAX_BLOCKS: usize = K_BLOCK / 16;
/// Words in a cache line.
const LINE: usize = 16;
/// Rows of a group whose codes are decoded in registers.
const GROUP: usize = 4;

/// Some rows of x on their way through panels.
pub(in super::super) struct Product<'a, X: Side> {
    panels: &'a QuantizedPanels,
    x: Operands<'a, X::Word>,
    k: usize,
    rows: &'a Rows<'a>,
    first_row: usize,
    /// `[rows, K / block]`: the chains over x with codes 1, for formats with offsets.
    sums: Vec<f32>,
    scales: [[f32; PANEL]; MAX_BLOCKS],
    offsets: [[f32; PANEL]; MAX_BLOCKS],
    /// One block of operand pairs, where there are many rows.
    decoded: Vec<PanelRow<u32>>,
}

impl<'a, X: Side> Product<'a, X> {
    /// For rows `first_row..first_row + count` of the list.
    pub(in super::super) fn new(
        panels: &'a QuantizedPanels,
        x: Operands<'a, X::Word>,
        k: usize,
        rows: &'a Rows<'a>,
        first_row: usize,
        count: usize,
    ) -> Product<'a, X> {
        let mut sums = Vec::new();
        if let Some(blocks) = panels.format.blocks.filter(|b| b.offset.is_some()) {
            let words = blocks.len / 2 * X::STEP;
            for row in first_row..first_row + count {
                let x = x.run(rows.at(row), 0, k / blocks.len * words);
                sums.extend(x.chunks_exact(words).map(X::sum));
            }
        }
        Product {
            panels,
            x,
            k,
            rows,
            first_row,
            sums,
            scales: [[0.0; PANEL]; MAX_BLOCKS],
            offsets: [[0.0; PANEL]; MAX_BLOCKS],
            decoded: Vec::new(),
        }
    }

    /// The totals of one panel for all rows, times the outputs' factors.
    #[inline(always)]
    pub(in super::super) fn totals<S: Simd, C: CodeFormat>(
        &mut self,
        simd: S,
        panel: usize,
        totals: &mut [[f32; PANEL]],
    ) {
        let decode = C::decoder(simd, self.panels.format.codes);
        self.walk(simd, decode, panel, totals);
        let factors = &self.panels.factors[panel * PANEL..][..PANEL];
        for i in 0..totals.len() {
            let mut at = 0;
            while at < PANEL {
                let y = simd.load(&totals[i][at..]).mul(simd.load(&factors[at..]));
                simd.store(y, &mut totals[i][at..]);
                at += S::LANES;
            }
        }
    }

    #[inline(always)]
    fn walk<S: Simd, D: Decode<S>>(
        &mut self,
        simd: S,
        decode: D,
        panel: usize,
        totals: &mut [[f32; PANEL]],
    ) {
        let (x, k) = (self.x, self.k);
        let per_word = 2 * D::STEPS;
        let words = k.div_ceil(per_word);
        let block_words = K_BLOCK / per_word;
        let format = self.panels.format;
        let block_len = format.blocks.map_or(K_BLOCK, |blocks| blocks.len);
        let all_blocks = format.blocks_in(k);
        let is_direct = totals.len() <= direct_rows::<S, X, D>();
        totals.fill([0.0; PANEL]);
        let mut start = 0;
        while start < words {
            let end = words.min(start + block_words);
            let cells = &self.panels.codes[panel * words + start..panel * words + end];
            let first_block = start * per_word / block_len;
            let blocks = if all_blocks == 0 {
                0
            } else {
                (end - start) * per_word / block_len
            };
            let at = panel * all_blocks + first_block;
            self.panels
                .scales
                .widen(simd, at, &mut self.scales[..blocks]);
            self.panels
                .offsets
                .widen(simd, at, &mut self.offsets[..blocks]);
            if !is_direct {
                let next = &self.panels.codes[panel * words + end..];
                decode_block(simd, decode, cells, next, &mut self.decoded);
            }
            let block = Block {
                x,
                start: start * D::STEPS * X::STEP,
                rows: self.rows,
                first_row: self.first_row,
                steps: block_len / 2,
                scales: &self.scales[..blocks],
                offsets: match self.panels.offsets {
                    Scales::None => &[],
                    _ => &self.offsets[..blocks],
                },
                sums: &self.sums,
                sums_stride: all_blocks,
                first_block,
            };
            if is_direct {
                block.direct::<S, X, D>(simd, decode, cells, totals);
            } else {
                block.grouped::<S, X>(simd, &self.decoded, totals);
            }
            start = end;
        }
    }
}

/// Rows up to which codes are decoded in registers, as measured.
#[inline(always)]
fn direct_rows<S: Simd, X: Side, D: Decode<S>>() -> usize {
    let looks_up = D::STEPS == 4;
    match S::LEVEL {
        Level::Scalar => 1,
        // A look-up costs less than reading its result does, unless a step is a single instruction.
        Level::Avx512Bf16 if looks_up && X::DOTS_PAIRS => 64,
        Level::Avx512 | Level::Avx512Bf16 if looks_up => usize::MAX,
        _ => GROUP,
    }
}

/// Codes to operand pairs, asking on the way for the codes that are `next`: the rows take longer than reading them.
#[inline(always)]
fn decode_block<S: Simd, D: Decode<S>>(
    simd: S,
    decode: D,
    cells: &[PanelRow<u32>],
    next: &[PanelRow<u32>],
    pairs: &mut Vec<PanelRow<u32>>,
) {
    pairs.resize(cells.len() * D::STEPS, PanelRow([0; PANEL]));
    for i in 0..cells.len() {
        if i < next.len() {
            let mut column = 0;
            while column < PANEL {
                simd.prefetch(&next[i].0[column]);
                column += LINE;
            }
        }
        let out = &mut pairs[i * D::STEPS..][..D::STEPS];
        let mut column = 0;
        while column < PANEL {
            let mut word = simd.load_pairs(&cells[i].0[column..]);
            for step in 0..D::STEPS {
                simd.store_pairs(decode.pair(simd, word, step), &mut out[step].0[column..]);
                word = decode.next(simd, word);
            }
            column += S::LANES;
        }
    }
}

/// How the words of some code formats are decoded.
pub(in super::super) trait CodeFormat {
    type Decoder<S: Simd>: Decode<S>;
    fn decoder<S: Simd>(simd: S, codes: Codes) -> Self::Decoder<S>;
}

/// A word of codes as operand pairs, one step along k after another.
pub(in super::super) trait Decode<S: Simd>: Copy {
    /// Steps, of two k each, in a word.
    const STEPS: usize;
    /// The pair of a step; `word` has been through `next` as many times.
    fn pair(self, simd: S, word: S::Pairs, step: usize) -> S::Pairs;
    /// The word for the next step.
    fn next(self, simd: S, word: S::Pairs) -> S::Pairs;
}

#[inline(always)]
fn shift<S: Simd, const BITS: u32>(simd: S, word: S::Pairs) -> S::Pairs {
    simd.pairs_from_int(S::F::int_ushr::<BITS>(simd.pairs_to_int(word)))
}

/// Any 4-bit code.
pub(in super::super) struct Nibbles;

impl CodeFormat for Nibbles {
    type Decoder<S: Simd> = Table<S::Table>;
    #[inline(always)]
    fn decoder<S: Simd>(simd: S, codes: Codes) -> Table<S::Table> {
        let mut values = [0; 16];
        for code in 0..16 {
            values[code] = operand(codes, code as u8);
        }
        Table(simd.table(&values))
    }
}

/// The operands of sixteen codes.
#[derive(Clone, Copy)]
pub(in super::super) struct Table<T>(T);

impl<S: Simd> Decode<S> for Table<S::Table> {
    const STEPS: usize = 4;
    #[inline(always)]
    fn pair(self, simd: S, word: S::Pairs, _: usize) -> S::Pairs {
        simd.look_up(word, self.0)
    }
    #[inline(always)]
    fn next(self, simd: S, word: S::Pairs) -> S::Pairs {
        shift::<S, 4>(simd, word)
    }
}

#[derive(Clone, Copy)]
pub(in super::super) struct E4m3;

impl CodeFormat for E4m3 {
    type Decoder<S: Simd> = E4m3;
    #[inline(always)]
    fn decoder<S: Simd>(_: S, _: Codes) -> E4m3 {
        E4m3
    }
}

impl<S: Simd> Decode<S> for E4m3 {
    const STEPS: usize = 2;
    #[inline(always)]
    fn pair(self, simd: S, word: S::Pairs, _: usize) -> S::Pairs {
        simd.e4m3_to_pairs(word)
    }
    #[inline(always)]
    fn next(self, simd: S, word: S::Pairs) -> S::Pairs {
        shift::<S, 8>(simd, word)
    }
}

#[derive(Clone, Copy)]
pub(in super::super) struct I8;

impl CodeFormat for I8 {
    type Decoder<S: Simd> = I8;
    #[inline(always)]
    fn decoder<S: Simd>(_: S, _: Codes) -> I8 {
        I8
    }
}

impl<S: Simd> Decode<S> for I8 {
    const STEPS: usize = 2;
    #[inline(always)]
    fn pair(self, simd: S, word: S::Pairs, step: usize) -> S::Pairs {
        simd.i8_to_pairs(word)[step]
    }
    #[inline(always)]
    fn next(self, _: S, word: S::Pairs) -> S::Pairs {
        word
    }
}

/// Operand pairs that were decoded before.
#[derive(Clone, Copy)]
struct Decoded;

impl<S: Simd> Decode<S> for Decoded {
    const STEPS: usize = 1;
    #[inline(always)]
    fn pair(self, _: S, word: S::Pairs, _: usize) -> S::Pairs {
        word
    }
    #[inline(always)]
    fn next(self, _: S, word: S::Pairs) -> S::Pairs {
        word
    }
}

/// The activations' side of an operand kind.
pub(in super::super) trait Side {
    /// Whether it uses the pair instruction.
    const DOTS_PAIRS: bool;
    type Word: Copy;
    /// Words in a step of two k.
    const STEP: usize;
    /// A step's operands in every lane.
    type Vector<S: Simd>: Copy;
    fn splat<S: Simd>(simd: S, x: &[Self::Word]) -> Self::Vector<S>;
    /// The chain `acc` two k further.
    fn step<S: Simd>(simd: S, x: Self::Vector<S>, w: S::Pairs, acc: S::F) -> S::F;
    /// The chain over x with every code 1.
    fn sum(x: &[Self::Word]) -> f32;
}

pub(in super::super) struct Pairs;

impl Side for Pairs {
    const DOTS_PAIRS: bool = true;
    type Word = u32;
    const STEP: usize = 1;
    type Vector<S: Simd> = S::Pairs;
    #[inline(always)]
    fn splat<S: Simd>(simd: S, x: &[u32]) -> S::Pairs {
        simd.splat_pair(x[0])
    }
    #[inline(always)]
    fn step<S: Simd>(simd: S, x: S::Pairs, w: S::Pairs, acc: S::F) -> S::F {
        simd.dot_pairs(x, w, acc)
    }
    fn sum(x: &[u32]) -> f32 {
        let mut p = 0.0;
        for pair in x {
            p += f32::from_bits(pair & 0xFFFF_0000);
            p += f32::from_bits(pair << 16);
        }
        p
    }
}

pub(in super::super) struct Values;

impl Side for Values {
    const DOTS_PAIRS: bool = false;
    type Word = f32;
    const STEP: usize = 2;
    type Vector<S: Simd> = [S::F; 2];
    #[inline(always)]
    fn splat<S: Simd>(_: S, x: &[f32]) -> [S::F; 2] {
        [S::F::splat(x[0]), S::F::splat(x[1])]
    }
    #[inline(always)]
    fn step<S: Simd>(simd: S, x: [S::F; 2], w: S::Pairs, acc: S::F) -> S::F {
        x[1].fma(simd.odd(w), x[0].fma(simd.even(w), acc))
    }
    fn sum(x: &[f32]) -> f32 {
        let mut p = 0.0;
        for x in x {
            p += x;
        }
        p
    }
}

/// 256 k of one panel, or what is left of them.
struct Block<'a, X> {
    x: Operands<'a, X>,
    /// The block's first word of x.
    start: usize,
    rows: &'a Rows<'a>,
    /// The row of the first total.
    first_row: usize,
    /// Steps under one scale.
    steps: usize,
    /// Empty in a format without block scales.
    scales: &'a [[f32; PANEL]],
    /// Empty in a format without offsets.
    offsets: &'a [[f32; PANEL]],
    /// `[rows, sums_stride]`.
    sums: &'a [f32],
    sums_stride: usize,
    /// The first scale block.
    first_block: usize,
}

impl<X: Copy> Block<'_, X> {
    /// Any number of rows, decoding in registers for each group anew.
    #[inline(always)]
    fn direct<S: Simd, W: Side<Word = X>, D: Decode<S>>(
        &self,
        simd: S,
        decode: D,
        cells: &[PanelRow<u32>],
        totals: &mut [[f32; PANEL]],
    ) {
        let most = if S::LEVEL == Level::Scalar { 1 } else { GROUP };
        let m = totals.len();
        let groups = m.div_ceil(most);
        for group in 0..groups {
            let at = m * group / groups;
            let totals = &mut totals[at..m * (group + 1) / groups];
            // Panels are read in memory's order where there are registers for whole rows of them.
            match (S::LANES, totals.len()) {
                (16, 1) => self.tile::<S, W, D, 4, 1>(simd, decode, cells, at, totals),
                (16, 2) => self.tile::<S, W, D, 4, 2>(simd, decode, cells, at, totals),
                (16, 3) => self.tile::<S, W, D, 4, 3>(simd, decode, cells, at, totals),
                (16, _) => self.tile::<S, W, D, 4, 4>(simd, decode, cells, at, totals),
                (8, 1) => self.tile::<S, W, D, 4, 1>(simd, decode, cells, at, totals),
                (8, 2) => self.tile::<S, W, D, 2, 2>(simd, decode, cells, at, totals),
                (8, 3) => self.tile::<S, W, D, 2, 3>(simd, decode, cells, at, totals),
                (8, _) => self.tile::<S, W, D, 2, 4>(simd, decode, cells, at, totals),
                (4, 1) => self.tile::<S, W, D, 8, 1>(simd, decode, cells, at, totals),
                (4, 2) => self.tile::<S, W, D, 4, 2>(simd, decode, cells, at, totals),
                (4, 3) => self.tile::<S, W, D, 4, 3>(simd, decode, cells, at, totals),
                (4, _) => self.tile::<S, W, D, 4, 4>(simd, decode, cells, at, totals),
                _ => self.tile::<S, W, D, 8, 1>(simd, decode, cells, at, totals),
            }
        }
    }

    /// Any number of rows over decoded operands, in groups that are as equal as can be.
    #[inline(always)]
    fn grouped<S: Simd, W: Side<Word = X>>(
        &self,
        simd: S,
        cells: &[PanelRow<u32>],
        totals: &mut [[f32; PANEL]],
    ) {
        let most = match S::LEVEL {
            Level::Avx512Bf16 => 6,
            // Pairs that are taken apart need registers.
            Level::Avx512 if !W::DOTS_PAIRS => 6,
            Level::Scalar => 1,
            _ => 4,
        };
        let m = totals.len();
        let groups = m.div_ceil(most);
        for group in 0..groups {
            let at = m * group / groups;
            let totals = &mut totals[at..m * (group + 1) / groups];
            match (S::LANES, totals.len()) {
                (16, 1) => self.tile::<S, W, Decoded, 4, 1>(simd, Decoded, cells, at, totals),
                (16, 2) => self.tile::<S, W, Decoded, 4, 2>(simd, Decoded, cells, at, totals),
                (16, 3) => self.tile::<S, W, Decoded, 4, 3>(simd, Decoded, cells, at, totals),
                (16, 4) => self.tile::<S, W, Decoded, 4, 4>(simd, Decoded, cells, at, totals),
                (16, 5) => self.tile::<S, W, Decoded, 4, 5>(simd, Decoded, cells, at, totals),
                (16, _) => self.tile::<S, W, Decoded, 4, 6>(simd, Decoded, cells, at, totals),
                (8 | 4, 1) => self.tile::<S, W, Decoded, 4, 1>(simd, Decoded, cells, at, totals),
                (8 | 4, 2) => self.tile::<S, W, Decoded, 2, 2>(simd, Decoded, cells, at, totals),
                (8 | 4, 3) => self.tile::<S, W, Decoded, 2, 3>(simd, Decoded, cells, at, totals),
                (8 | 4, _) => self.tile::<S, W, Decoded, 2, 4>(simd, Decoded, cells, at, totals),
                _ => self.tile::<S, W, Decoded, 8, 1>(simd, Decoded, cells, at, totals),
            }
        }
    }

    /// `MR` rows by `NV` vectors: a chain for each scale block, scaled into the block's sum, which goes to the total.
    #[inline(always)]
    fn tile<S: Simd, W: Side<Word = X>, D: Decode<S>, const NV: usize, const MR: usize>(
        &self,
        simd: S,
        decode: D,
        cells: &[PanelRow<u32>],
        at: usize,
        totals: &mut [[f32; PANEL]],
    ) {
        let zero = S::F::splat(0.0);
        let mut x: [&[X]; MR] = [&[]; MR];
        for r in 0..MR {
            let row = self.rows.at(self.first_row + at + r);
            x[r] = self
                .x
                .run(row, self.start, cells.len() * D::STEPS * W::STEP);
        }
        let per_scale = if self.scales.is_empty() {
            cells.len()
        } else {
            self.steps / D::STEPS
        };
        let mut column = 0;
        while column < PANEL {
            let mut acc = [[zero; NV]; MR];
            let (mut word, mut block) = (0, 0);
            while word < cells.len() {
                let end = word + per_scale;
                let mut chains = [[zero; NV]; MR];
                while word < end {
                    let row = &cells[word].0;
                    let mut w = [simd.load_pairs(&row[column..]); NV];
                    for v in 1..NV {
                        w[v] = simd.load_pairs(&row[column + v * S::LANES..]);
                    }
                    let from = word * D::STEPS * W::STEP;
                    for step in 0..D::STEPS {
                        let mut pairs = [decode.pair(simd, w[0], step); NV];
                        for v in 1..NV {
                            pairs[v] = decode.pair(simd, w[v], step);
                        }
                        for r in 0..MR {
                            let x = W::splat(simd, &x[r][from + step * W::STEP..][..W::STEP]);
                            for v in 0..NV {
                                chains[r][v] = W::step(simd, x, pairs[v], chains[r][v]);
                            }
                        }
                        for v in 0..NV {
                            w[v] = decode.next(simd, w[v]);
                        }
                    }
                    word += 1;
                }
                if self.scales.is_empty() {
                    acc = chains;
                    break;
                }
                for v in 0..NV {
                    let s = simd.load(&self.scales[block][column + v * S::LANES..]);
                    for r in 0..MR {
                        acc[r][v] = s.fma(chains[r][v], acc[r][v]);
                    }
                }
                if !self.offsets.is_empty() {
                    for r in 0..MR {
                        let sum = self.sums[(at + r) * self.sums_stride + self.first_block + block];
                        let sum = S::F::splat(sum);
                        for v in 0..NV {
                            let o = simd.load(&self.offsets[block][column + v * S::LANES..]);
                            acc[r][v] = o.fma(sum, acc[r][v]);
                        }
                    }
                }
                block += 1;
            }
            for r in 0..MR {
                for v in 0..NV {
                    let total = &mut totals[r][column + v * S::LANES..];
                    simd.store(simd.load(total).add(acc[r][v]), total);
                }
            }
            column += NV * S::LANES;
        }
    }
}
