//! The inner loops of attention, over rows held in registers.

use std::ops::Range;

use jetblock_numerics::lanes::Lanes;
use jetblock_numerics::reduce::{K_BLOCK, ROW_LANES};
use jetblock_numerics::{canonical, math, max};
use jetblock_simd::{Kernel, Simd};

use super::MAX_SPLIT;
use super::kv_cache::{Blocks, KEY_BLOCK};
use crate::row::{self, MAX_LANES, store_part};

/// Most rows of a register tile.
pub(super) const MAX_ROWS: usize = 6;

/// Scores of a tile's rows against one block of keys, later their weights.
pub(super) type Scores = [[f32; MAX_SPLIT]; MAX_ROWS];

/// How keys lie in a panel and how a step of the chain takes them.
pub(super) trait QkKind {
    /// An element of a panel.
    type Code: Copy + Default;
    /// An element of a query, in the same order.
    type Query: Copy + Default;
    /// Keys, or a query in every lane.
    type Vector<S: Simd>: Copy;
    /// Elements of the head a step takes.
    const WIDTH: usize;

    /// One step of a query; `x` has `WIDTH` elements, or fewer at the end of the head.
    fn query(x: &[f32]) -> Self::Query;
    fn load<S: Simd>(simd: S, keys: &[Self::Code]) -> Self::Vector<S>;
    fn splat<S: Simd>(simd: S, query: Self::Query) -> Self::Vector<S>;
    fn step<S: Simd>(simd: S, query: Self::Vector<S>, keys: Self::Vector<S>, acc: S::F) -> S::F;
}

/// The bf16 kind: pairs of operands.
pub(super) struct PairKeys;
/// The f32 kind over f32 keys.
pub(super) struct F32Keys;
/// The f32 kind over bf16 keys.
pub(super) struct Bf16Keys;

impl QkKind for PairKeys {
    type Code = u32;
    type Query = u32;
    type Vector<S: Simd> = S::Pairs;
    const WIDTH: usize = 2;

    #[inline(always)]
    fn query(x: &[f32]) -> u32 {
        pair(x[0], x.get(1).copied().unwrap_or(0.0))
    }
    #[inline(always)]
    fn load<S: Simd>(simd: S, keys: &[u32]) -> S::Pairs {
        simd.load_pairs(keys)
    }
    #[inline(always)]
    fn splat<S: Simd>(simd: S, query: u32) -> S::Pairs {
        simd.splat_pair(query)
    }
    #[inline(always)]
    fn step<S: Simd>(simd: S, query: S::Pairs, keys: S::Pairs, acc: S::F) -> S::F {
        simd.dot_pairs(query, keys, acc)
    }
}

impl QkKind for F32Keys {
    type Code = f32;
    type Query = f32;
    type Vector<S: Simd> = S::F;
    const WIDTH: usize = 1;

    #[inline(always)]
    fn query(x: &[f32]) -> f32 {
        x[0]
    }
    #[inline(always)]
    fn load<S: Simd>(simd: S, keys: &[f32]) -> S::F {
        simd.load(keys)
    }
    #[inline(always)]
    fn splat<S: Simd>(_: S, query: f32) -> S::F {
        S::F::splat(query)
    }
    #[inline(always)]
    fn step<S: Simd>(_: S, query: S::F, keys: S::F, acc: S::F) -> S::F {
        query.fma(keys, acc)
    }
}

impl QkKind for Bf16Keys {
    type Code = u16;
    type Query = f32;
    type Vector<S: Simd> = S::F;
    const WIDTH: usize = 1;

    #[inline(always)]
    fn query(x: &[f32]) -> f32 {
        x[0]
    }
    #[inline(always)]
    fn load<S: Simd>(simd: S, keys: &[u16]) -> S::F {
        simd.load_bf16(keys)
    }
    #[inline(always)]
    fn splat<S: Simd>(_: S, query: f32) -> S::F {
        S::F::splat(query)
    }
    #[inline(always)]
    fn step<S: Simd>(_: S, query: S::F, keys: S::F, acc: S::F) -> S::F {
        query.fma(keys, acc)
    }
}

/// Two operands of the bf16 kind, `even` in the low half.
#[inline(always)]
pub(super) fn pair(even: f32, odd: f32) -> u32 {
    use jetblock_numerics::round::bf16_operand_round;
    // The lower halves are zero.
    bf16_operand_round(odd).to_bits() | bf16_operand_round(even).to_bits() >> 16
}

/// A stored element of a value.
pub(super) trait ValueCode: Copy + Default {
    fn load<S: Simd>(simd: S, values: &[Self]) -> S::F;
}

impl ValueCode for f32 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, values: &[f32]) -> S::F {
        simd.load(values)
    }
}

impl ValueCode for u16 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, values: &[u16]) -> S::F {
        simd.load_bf16(values)
    }
}

/// `out[r][at..] = scale * dot(q[r], key)` for the first `keys` keys of a panel (rounded up to whole vectors).
pub(super) struct ScorePanel<'a, K: QkKind, const ROWS: usize> {
    /// Step by step.
    pub q: &'a [[K::Query; ROWS]],
    pub panel: &'a [[K::Code; KEY_BLOCK]],
    pub keys: usize,
    pub scale: f32,
    pub out: &'a mut Scores,
    pub at: usize,
}

impl<K: QkKind, const ROWS: usize> Kernel for ScorePanel<'_, K, ROWS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        // As many accumulators as the register file holds beside the keys and one query: 12 of 16, or 24 of 32.
        for key in (0..self.keys).step_by(const { vectors::<S>() * S::LANES }) {
            let at = self.at + key;
            if const { vectors::<S>() == 2 } {
                score_tile::<S, K, ROWS, 2>(
                    simd, self.q, self.panel, key, self.scale, self.out, at,
                );
            } else {
                score_tile::<S, K, ROWS, 4>(
                    simd, self.q, self.panel, key, self.scale, self.out, at,
                );
            }
        }
    }
}

/// Vectors of a register tile's row.
const fn vectors<S: Simd>() -> usize {
    if S::LANES == 8 { 2 } else { 4 }
}

#[inline(always)]
fn score_tile<S: Simd, K: QkKind, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    q: &[[K::Query; ROWS]],
    panel: &[[K::Code; KEY_BLOCK]],
    key: usize,
    scale: f32,
    out: &mut Scores,
    at: usize,
) {
    let chain = K_BLOCK / K::WIDTH;
    let chains = panel.len().div_ceil(chain);
    for (i, (q, panel)) in q.chunks(chain).zip(panel.chunks(chain)).enumerate() {
        let mut acc = [[S::F::splat(0.0); VECTORS]; ROWS];
        for (q, keys) in q.iter().zip(panel) {
            let keys = &keys[key..][..VECTORS * S::LANES];
            let mut k = [K::load(simd, keys); VECTORS];
            for v in 1..VECTORS {
                k[v] = K::load(simd, &keys[v * S::LANES..]);
            }
            for r in 0..ROWS {
                let q = K::splat(simd, q[r]);
                for v in 0..VECTORS {
                    acc[r][v] = K::step(simd, q, k[v], acc[r][v]);
                }
            }
        }
        for r in 0..ROWS {
            let out = &mut out[r][at..][..VECTORS * S::LANES];
            for v in 0..VECTORS {
                let out = &mut out[v * S::LANES..];
                let before = if i == 0 {
                    S::F::splat(0.0)
                } else {
                    simd.load(out)
                };
                let total = before.add(acc[r][v]);
                let scaled = S::F::splat(scale).mul(total);
                simd.store(if i + 1 == chains { scaled } else { total }, out);
            }
        }
    }
}

/// Turns the scores of a tile's rows into weights.
pub(super) struct Weigh<'a> {
    pub scores: &'a mut [[f32; MAX_SPLIT]],
    /// Admitted keys of each row.
    pub counts: [usize; MAX_ROWS],
}

impl Kernel for Weigh<'_> {
    /// `m_b` and `l_b` of each row.
    type Output = [[f32; MAX_LANES]; 2];

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Self::Output {
        let mut out = [[0.0; MAX_LANES]; 2];
        for (r, s) in self.scores.iter_mut().enumerate() {
            (out[0][r], out[1][r]) = weights(simd, s, self.counts[r]);
        }
        out
    }
}

/// Turns the scores of `count` keys into weights `exp(s - m_b)`; gives `(m_b, l_b)`.
///
/// A NaN score is passed over by the maximum but not by its weight, so `l_b` is NaN and with it the row. The sign of
/// a zero maximum cannot be seen: it is only subtracted, and exp(+0) = exp(-0).
#[inline(always)]
fn weights<S: Simd>(simd: S, s: &mut [f32; MAX_SPLIT], count: usize) -> (f32, f32) {
    // Slots up to a whole row of lanes: -infinity does not raise the maximum and its weight is +0.
    let slots = count.next_multiple_of(ROW_LANES);
    s[count..slots].fill(f32::NEG_INFINITY);
    let s = &mut s[..slots];
    let mut largest = [S::F::splat(f32::NEG_INFINITY); 2];
    for s in s.chunks_exact(2 * S::LANES) {
        for v in 0..2 {
            let x = simd.load(&s[v * S::LANES..]);
            largest[v] = S::F::select(largest[v].lt(x), x, largest[v]);
        }
    }
    let mut lanes = [f32::NEG_INFINITY; 2 * MAX_LANES];
    simd.store(largest[0], &mut lanes);
    simd.store(largest[1], &mut lanes[S::LANES..]);
    let mut m_b = f32::NEG_INFINITY;
    for &x in &lanes[..2 * S::LANES] {
        m_b = if m_b < x { x } else { m_b };
    }
    let m = S::F::splat(m_b);
    for s in s.chunks_exact_mut(S::LANES) {
        simd.store(math::exp(simd.load(s).sub(m)), s);
    }
    (m_b, row::sum(simd, s))
}

/// The values of one head.
#[derive(Clone, Copy)]
pub(super) struct HeadValues<'a, V> {
    pub blocks: &'a Blocks<V>,
    pub head: usize,
    /// First cache block of the key block.
    pub first: usize,
    /// Elements of a stored row.
    pub row_len: usize,
}

/// Chains the weighted values of `keys` (slots of the key block) onto `o_b [ROWS, row_len]`, which counts as +0 where
/// `keys` starts at slot 0.
pub(super) struct WeightedValues<'a, V, const ROWS: usize> {
    pub p: &'a [[f32; MAX_SPLIT]; ROWS],
    pub values: HeadValues<'a, V>,
    pub keys: Range<usize>,
    pub o_b: &'a mut [f32],
}

impl<V: ValueCode, const ROWS: usize> Kernel for WeightedValues<'_, V, ROWS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let wide = const { vectors::<S>() * S::LANES };
        let mut d = 0;
        while d + wide <= self.values.row_len {
            if const { vectors::<S>() == 2 } {
                value_tile::<S, V, ROWS, 2>(simd, &mut self, d);
            } else {
                value_tile::<S, V, ROWS, 4>(simd, &mut self, d);
            }
            d += wide;
        }
        while d < self.values.row_len {
            value_tile::<S, V, ROWS, 1>(simd, &mut self, d);
            d += S::LANES;
        }
    }
}

#[inline(always)]
fn value_tile<S: Simd, V: ValueCode, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    tile: &mut WeightedValues<V, ROWS>,
    d: usize,
) {
    let WeightedValues {
        p,
        values,
        keys,
        o_b,
    } = tile;
    let row_len = values.row_len;
    let mut acc = [[S::F::splat(0.0); VECTORS]; ROWS];
    if keys.start > 0 {
        for r in 0..ROWS {
            for v in 0..VECTORS {
                acc[r][v] = simd.load(&o_b[r * row_len + d + v * S::LANES..]);
            }
        }
    }
    for block in keys.start / KEY_BLOCK..keys.end.div_ceil(KEY_BLOCK) {
        let at = block * KEY_BLOCK;
        let run = keys.start.max(at) - at..keys.end.min(at + KEY_BLOCK) - at;
        let stored = &values.blocks.head(values.first + block, values.head)[run.start * row_len..];
        let mut weights = [&[0.0_f32][..]; ROWS];
        for r in 0..ROWS {
            weights[r] = &p[r][at + run.start..at + run.end];
        }
        for (key, stored) in (0..run.len()).zip(stored.chunks_exact(row_len)) {
            let stored = &stored[d..][..VECTORS * S::LANES];
            let mut x = [V::load(simd, stored); VECTORS];
            for v in 1..VECTORS {
                x[v] = V::load(simd, &stored[v * S::LANES..]);
            }
            for r in 0..ROWS {
                let p = S::F::splat(weights[r][key]);
                for v in 0..VECTORS {
                    acc[r][v] = p.fma(x[v], acc[r][v]);
                }
            }
        }
    }
    for r in 0..ROWS {
        for v in 0..VECTORS {
            simd.store(acc[r][v], &mut o_b[r * row_len + d + v * S::LANES..]);
        }
    }
}

/// Joins a tile's partial results of a block to those of the blocks before.
pub(super) struct Fold<'a> {
    /// `[m_b, l_b]` of each row; what stands beyond the rows is computed and dropped.
    pub block: [[f32; MAX_LANES]; 2],
    /// `[rows, row_len]`.
    pub o_b: &'a [f32],
    pub m: &'a mut [f32],
    pub l: &'a mut [f32],
    /// `[rows, row_len]`.
    pub o: &'a mut [f32],
    pub row_len: usize,
}

impl Kernel for Fold<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let rows = self.m.len();
        let [m_b, l_b] = self.block;
        let (mut m, mut l) = ([0.0_f32; MAX_LANES], [0.0_f32; MAX_LANES]);
        m[..rows].copy_from_slice(self.m);
        l[..rows].copy_from_slice(self.l);
        let (mut a, mut b) = ([0.0_f32; MAX_LANES], [0.0_f32; MAX_LANES]);
        for r in (0..rows).step_by(S::LANES) {
            let (old, new) = (simd.load(&m[r..]), simd.load(&m_b[r..]));
            let largest = max(old, new);
            let scale_old = math::exp(old.sub(largest));
            let scale_new = math::exp(new.sub(largest));
            let sum = simd
                .load(&l[r..])
                .fma(scale_old, simd.load(&l_b[r..]).mul(scale_new));
            simd.store(largest, &mut m[r..]);
            simd.store(sum, &mut l[r..]);
            simd.store(scale_old, &mut a[r..]);
            simd.store(scale_new, &mut b[r..]);
        }
        self.m.copy_from_slice(&m[..rows]);
        self.l.copy_from_slice(&l[..rows]);
        let o = self.o.chunks_exact_mut(self.row_len);
        for (r, (o, o_b)) in o.zip(self.o_b.chunks_exact(self.row_len)).enumerate() {
            let (a, b) = (S::F::splat(a[r]), S::F::splat(b[r]));
            for (o, o_b) in o.chunks_exact_mut(S::LANES).zip(o_b.chunks_exact(S::LANES)) {
                simd.store(simd.load(o).fma(a, simd.load(o_b).mul(b)), o);
            }
        }
    }
}

/// `y = o / l` of one row; `o` is padded.
pub(super) struct Finish<'a> {
    pub o: &'a [f32],
    pub l: f32,
    pub y: &'a mut [f32],
}

impl Kernel for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let l = S::F::splat(self.l);
        for (y, o) in self
            .y
            .chunks_mut(S::LANES)
            .zip(self.o.chunks_exact(S::LANES))
        {
            store_part(simd, canonical(simd.load(o).div(l)), y);
        }
    }
}

/// Appends f32 keys `[head_dim]` of a block as pairs of operands.
pub(super) struct RoundKeys<'a> {
    pub keys: &'a [[f32; KEY_BLOCK]],
    pub pairs: &'a mut Vec<[u32; KEY_BLOCK]>,
}

impl Kernel for RoundKeys<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for elements in self.keys.chunks(2) {
            let mut pairs = [0; KEY_BLOCK];
            let odd = elements.get(1).unwrap_or(&[0.0; KEY_BLOCK]);
            for j in 0..KEY_BLOCK {
                pairs[j] = pair(elements[0][j], odd[j]);
            }
            self.pairs.push(pairs);
        }
    }
}
