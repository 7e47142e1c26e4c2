//! Scores of queries against keys, and their weights: lanes over keys.

use jetblock_numerics::lanes::Lanes;
use jetblock_numerics::math;
use jetblock_numerics::reduce::{K_BLOCK, ROW_LANES};
use jetblock_simd::{Kernel, Simd};

use super::MAX_SPLIT;
use super::blocks::KEY_BLOCK;
use super::unrolled::unrolled;
use crate::row::{self, MAX_LANES};

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

/// Bytes that arrive in a near cache together.
pub(super) const LINE_BYTES: usize = 64;

/// `out[r][at..] = scale * dot(q[r], key)` for the first `keys` keys of a panel (rounded up to whole vectors).
pub(super) struct ScorePanel<'a, K: QkKind, const ROWS: usize> {
    /// Step by step.
    pub q: &'a [[K::Query; ROWS]],
    pub panel: &'a [[K::Code; KEY_BLOCK]],
    /// The panel to fetch meanwhile, or none.
    pub next: &'a [[K::Code; KEY_BLOCK]],
    pub keys: usize,
    pub scale: f32,
    pub out: &'a mut Scores,
    pub at: usize,
}

impl<K: QkKind, const ROWS: usize> Kernel for ScorePanel<'_, K, ROWS> {
    type Output = ();
    const DOTS_PAIRS: bool = K::WIDTH == 2;

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        // As many accumulators as the register file holds beside the keys and one query: 12 of 16, or 24 of 32.
        let mut key = 0;
        while key < self.keys {
            if const { S::LANES == 8 } {
                self.tile::<S, 2>(simd, key);
                key += 2 * S::LANES;
            } else {
                self.tile::<S, 4>(simd, key);
                key += 4 * S::LANES;
            }
        }
    }
}

impl<K: QkKind, const ROWS: usize> ScorePanel<'_, K, ROWS> {
    /// Keys `key..key + VECTORS * LANES` of the panel.
    #[inline(always)]
    fn tile<S: Simd, const VECTORS: usize>(&mut self, simd: S, key: usize) {
        let chain = K_BLOCK / K::WIDTH;
        let steps = self.panel.len().min(self.q.len());
        let mut start = 0;
        while start < steps {
            let end = steps.min(start + chain);
            let mut acc = [[S::F::splat(0.0); VECTORS]; ROWS];
            for i in start..end {
                if key == 0 && i < self.next.len() {
                    let mut cell = 0;
                    while cell < KEY_BLOCK {
                        simd.prefetch(&self.next[i][cell]);
                        cell += LINE_BYTES / size_of::<K::Code>();
                    }
                }
                let (q, keys) = (&self.q[i], &self.panel[i][key..][..VECTORS * S::LANES]);
                let mut k = [K::load(simd, keys); VECTORS];
                unrolled!(v < VECTORS => { k[v] = K::load(simd, &keys[v * S::LANES..]); });
                unrolled!(r < ROWS => {
                    let q = K::splat(simd, q[r]);
                    unrolled!(v < VECTORS => { acc[r][v] = K::step(simd, q, k[v], acc[r][v]); });
                });
            }
            let rows = &mut self.out[..ROWS];
            unrolled!(r < ROWS => {
                let out = &mut rows[r][self.at + key..][..VECTORS * S::LANES];
                unrolled!(v < VECTORS => {
                    let out = &mut out[v * S::LANES..];
                    let before = if start == 0 { S::F::splat(0.0) } else { simd.load(out) };
                    let total = before.add(acc[r][v]);
                    let scaled = S::F::splat(self.scale).mul(total);
                    simd.store(if end == steps { scaled } else { total }, out);
                });
            });
            start = end;
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
