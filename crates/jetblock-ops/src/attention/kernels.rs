//! The inner loops of attention, over rows held in registers.

use std::ops::Range;

use jetblock_numerics::lanes::Lanes;
use jetblock_numerics::math;
use jetblock_numerics::reduce::{K_BLOCK, ROW_LANES};
use jetblock_simd::Simd;

use super::MAX_SPLIT;
use super::kv_cache::{Blocks, KEY_BLOCK};
use crate::row;

/// Most rows of a register tile.
pub(super) const MAX_ROWS: usize = 6;

/// Scores of a tile's rows against one block of keys, later their weights.
pub(super) type Scores = [[f32; MAX_SPLIT]; MAX_ROWS];

/// How keys lie in a panel and how a step of the chain takes them.
pub(super) trait QkKind<S: Simd> {
    /// An element of a panel.
    type Code: Copy + Default;
    /// An element of a query, in the same order.
    type Query: Copy + Default;
    type KeyVec: Copy;
    type QueryVec: Copy;
    /// Elements of the head a step takes.
    const WIDTH: usize;

    /// One step of a query; `x` has `WIDTH` elements, or fewer at the end of the head.
    fn query(x: &[f32]) -> Self::Query;
    fn load(simd: S, keys: &[Self::Code]) -> Self::KeyVec;
    fn splat(simd: S, query: Self::Query) -> Self::QueryVec;
    fn step(simd: S, query: Self::QueryVec, keys: Self::KeyVec, acc: S::F) -> S::F;
}

/// The bf16 kind: pairs of operands.
pub(super) struct PairKeys;
/// The f32 kind over f32 keys.
pub(super) struct F32Keys;
/// The f32 kind over bf16 keys.
pub(super) struct Bf16Keys;

impl<S: Simd> QkKind<S> for PairKeys {
    type Code = u32;
    type Query = u32;
    type KeyVec = S::Pairs;
    type QueryVec = S::Pairs;
    const WIDTH: usize = 2;

    #[inline(always)]
    fn query(x: &[f32]) -> u32 {
        pair(x[0], x.get(1).copied().unwrap_or(0.0))
    }
    #[inline(always)]
    fn load(simd: S, keys: &[u32]) -> S::Pairs {
        simd.load_pairs(keys)
    }
    #[inline(always)]
    fn splat(simd: S, query: u32) -> S::Pairs {
        simd.splat_pair(query)
    }
    #[inline(always)]
    fn step(simd: S, query: S::Pairs, keys: S::Pairs, acc: S::F) -> S::F {
        simd.dot_pairs(query, keys, acc)
    }
}

impl<S: Simd> QkKind<S> for F32Keys {
    type Code = f32;
    type Query = f32;
    type KeyVec = S::F;
    type QueryVec = S::F;
    const WIDTH: usize = 1;

    #[inline(always)]
    fn query(x: &[f32]) -> f32 {
        x[0]
    }
    #[inline(always)]
    fn load(simd: S, keys: &[f32]) -> S::F {
        simd.load(keys)
    }
    #[inline(always)]
    fn splat(_: S, query: f32) -> S::F {
        S::F::splat(query)
    }
    #[inline(always)]
    fn step(_: S, query: S::F, keys: S::F, acc: S::F) -> S::F {
        query.fma(keys, acc)
    }
}

impl<S: Simd> QkKind<S> for Bf16Keys {
    type Code = u16;
    type Query = f32;
    type KeyVec = S::F;
    type QueryVec = S::F;
    const WIDTH: usize = 1;

    #[inline(always)]
    fn query(x: &[f32]) -> f32 {
        x[0]
    }
    #[inline(always)]
    fn load(simd: S, keys: &[u16]) -> S::F {
        simd.load_bf16(keys)
    }
    #[inline(always)]
    fn splat(_: S, query: f32) -> S::F {
        S::F::splat(query)
    }
    #[inline(always)]
    fn step(_: S, query: S::F, keys: S::F, acc: S::F) -> S::F {
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
pub(super) trait ValueCode<S: Simd>: Copy + Default {
    fn load(simd: S, values: &[Self]) -> S::F;
}

impl<S: Simd> ValueCode<S> for f32 {
    #[inline(always)]
    fn load(simd: S, values: &[f32]) -> S::F {
        simd.load(values)
    }
}

impl<S: Simd> ValueCode<S> for u16 {
    #[inline(always)]
    fn load(simd: S, values: &[u16]) -> S::F {
        simd.load_bf16(values)
    }
}

/// `out[r][at..] = scale * dot(q[r], key)` for the first `keys` keys of a panel (rounded up to whole vectors).
#[inline(always)]
pub(super) fn scores<S: Simd, K: QkKind<S>, const ROWS: usize>(
    simd: S,
    q: &[[K::Query; ROWS]],
    panel: &[[K::Code; KEY_BLOCK]],
    keys: usize,
    scale: f32,
    out: &mut Scores,
    at: usize,
) {
    // As many accumulators as the register file holds beside the keys and one query: 24 of 32, or 12 of 16.
    let vectors = if S::LANES == 8 { 2 } else { 4 };
    let mut key = 0;
    while key < keys {
        if vectors == 2 {
            score_tile::<S, K, ROWS, 2>(simd, q, panel, key, scale, out, at + key);
        } else {
            score_tile::<S, K, ROWS, 4>(simd, q, panel, key, scale, out, at + key);
        }
        key += vectors * S::LANES;
    }
}

#[inline(always)]
fn score_tile<S: Simd, K: QkKind<S>, const ROWS: usize, const VECTORS: usize>(
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

/// Turns the scores of `count` keys into weights `exp(s - m_b)`; gives `(m_b, l_b)`.
///
/// A NaN score is passed over by the maximum but not by its weight, so `l_b` is NaN and with it the row. The sign of
/// a zero maximum cannot be seen: it is only subtracted, and exp(+0) = exp(-0).
#[inline(always)]
pub(super) fn weights<S: Simd>(simd: S, s: &mut [f32; MAX_SPLIT], count: usize) -> (f32, f32) {
    // Slots up to a whole row of lanes: -infinity does not raise the maximum and its weight is +0.
    let slots = count.next_multiple_of(ROW_LANES);
    s[count..slots].fill(f32::NEG_INFINITY);
    let s = s[..slots].as_chunks_mut::<ROW_LANES>().0;
    let vectors = ROW_LANES / S::LANES;
    let mut largest = [S::F::splat(f32::NEG_INFINITY); ROW_LANES];
    for s in s.iter() {
        for v in 0..vectors {
            let x = simd.load(&s[v * S::LANES..]);
            largest[v] = S::F::select(largest[v].lt(x), x, largest[v]);
        }
    }
    let mut lanes = [0.0_f32; ROW_LANES];
    for v in 0..vectors {
        simd.store(largest[v], &mut lanes[v * S::LANES..]);
    }
    let mut m_b = f32::NEG_INFINITY;
    for x in lanes {
        m_b = if m_b < x { x } else { m_b };
    }
    let m = S::F::splat(m_b);
    for s in s.iter_mut() {
        for v in 0..vectors {
            let s = &mut s[v * S::LANES..];
            simd.store(math::exp(simd.load(s).sub(m)), s);
        }
    }
    (m_b, row::sum(simd, s.as_flattened()))
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
#[inline(always)]
pub(super) fn weighted_values<S: Simd, V: ValueCode<S>, const ROWS: usize>(
    simd: S,
    p: &[[f32; MAX_SPLIT]; ROWS],
    values: HeadValues<V>,
    keys: Range<usize>,
    o_b: &mut [f32],
) {
    let wide = if S::LANES == 8 { 2 } else { 4 };
    let mut d = 0;
    while d + wide * S::LANES <= values.row_len {
        if wide == 2 {
            value_tile::<S, V, ROWS, 2>(simd, p, values, keys.clone(), d, o_b);
        } else {
            value_tile::<S, V, ROWS, 4>(simd, p, values, keys.clone(), d, o_b);
        }
        d += wide * S::LANES;
    }
    while d < values.row_len {
        value_tile::<S, V, ROWS, 1>(simd, p, values, keys.clone(), d, o_b);
        d += S::LANES;
    }
}

#[inline(always)]
fn value_tile<S: Simd, V: ValueCode<S>, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    p: &[[f32; MAX_SPLIT]; ROWS],
    values: HeadValues<V>,
    keys: Range<usize>,
    d: usize,
    o_b: &mut [f32],
) {
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
