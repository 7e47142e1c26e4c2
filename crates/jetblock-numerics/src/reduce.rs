//! The order of every sum: scalar definitions, not meant to be fast.
//!
//! Block boundaries are at absolute indices and accumulators start at +0, so a result depends on the data alone:
//! not on a tile, a thread count or how a caller split its work.

use crate::fma::fma;
use crate::round::{bf16_widen, canonical};

/// Length of a dot product's block along k.
pub const K_BLOCK: usize = 256;
/// Length of a row reduction's block.
pub const ROW_BLOCK: usize = 1024;
/// Accumulators of a row reduction's block.
pub const ROW_LANES: usize = 32;
/// Length of a block in the Mamba-2 state contraction.
pub const STATE_BLOCK: usize = 32;
/// Length of a prefix sum's block.
pub const CUMSUM_BLOCK: usize = 256;

/// Dot product of the f32 kind: one fma chain from +0 for each block of 256, k ascending; block results are added
/// to +0 in ascending order.
pub fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    dot_blocks::<K_BLOCK>(a, b)
}

/// [`dot_f32`] with blocks of 32: the contraction of a Mamba-2 state over n.
pub fn dot32(a: &[f32], b: &[f32]) -> f32 {
    dot_blocks::<STATE_BLOCK>(a, b)
}

fn dot_blocks<const BLOCK: usize>(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "dot: operands differ in length");
    let mut total = 0.0_f32;
    for (a, b) in a.chunks(BLOCK).zip(b.chunks(BLOCK)) {
        let mut chain = 0.0;
        for (&a, &b) in a.iter().zip(b) {
            chain = fma(a, b, chain);
        }
        total += chain;
    }
    canonical(total)
}

/// Dot product of the bf16 kind: as [`dot_f32`], but the chain takes k in the order 1, 0, 3, 2, ...
///
/// An odd length is completed by one +0 in each operand. Operands come from [`crate::round::bf16_operand`].
pub fn dot_bf16(a: &[u16], b: &[u16]) -> f32 {
    assert_eq!(a.len(), b.len(), "dot: operands differ in length");
    let mut total = 0.0_f32;
    for (a, b) in a.chunks(K_BLOCK).zip(b.chunks(K_BLOCK)) {
        let mut chain = 0.0;
        for (a, b) in a.chunks(2).zip(b.chunks(2)) {
            let odd = |pair: &[u16]| pair.get(1).map_or(0.0, |&v| bf16_widen(v));
            chain = fma(odd(a), odd(b), chain);
            chain = fma(bf16_widen(a[0]), bf16_widen(b[0]), chain);
        }
        total += chain;
    }
    canonical(total)
}

/// Sum of a row: [`row_block`] for each 1024 elements; the array of their results is summed by the same rule, until
/// one value is left. An empty row gives +0.
pub fn sum(x: &[f32]) -> f32 {
    reduce_blocks(x, |acc, x| acc + x)
}

/// Sum of squares: [`sum`] with `fma(x, x, acc)` in the blocks of the row itself; their results are then added.
pub fn sum_of_squares(x: &[f32]) -> f32 {
    reduce_blocks(x, |acc, x| fma(x, x, acc))
}

fn reduce_blocks(x: &[f32], step: impl Fn(f32, f32) -> f32 + Copy) -> f32 {
    if x.len() <= ROW_BLOCK {
        return canonical(row_block(x, step));
    }
    let blocks: Vec<f32> = x
        .chunks(ROW_BLOCK)
        .map(|block| row_block(block, step))
        .collect();
    sum(&blocks)
}

/// One block of a row reduction: lane i of 32 starts at +0 and takes elements i, i + 32, ...; then lane j adds lane
/// j + h for h = 16, 8, 4, 2, 1.
///
/// Halves, not neighbours: each step is one shuffle on every instruction set.
pub fn row_block(block: &[f32], step: impl Fn(f32, f32) -> f32) -> f32 {
    assert!(
        block.len() <= ROW_BLOCK,
        "row_block: {} elements",
        block.len()
    );
    let mut lanes = [0.0_f32; ROW_LANES];
    // Absent elements are left out: a lane starts at +0 and can never become -0, so adding +0 would change nothing.
    for group in block.chunks(ROW_LANES) {
        for (lane, &x) in lanes.iter_mut().zip(group) {
            *lane = step(*lane, x);
        }
    }
    let mut half = ROW_LANES / 2;
    while half > 0 {
        for j in 0..half {
            lanes[j] += lanes[j + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Largest element: NaN if there is one, +0 above -0. An empty row gives -infinity.
///
/// No order is stated because none can be observed.
pub fn max(x: &[f32]) -> f32 {
    x.iter()
        .fold(f32::NEG_INFINITY, |m, &x| crate::round::max(m, x))
}

/// Inclusive prefix sums: a chain from +0 inside each block of 256, to which the block's offset is added. Offsets
/// are themselves a chain: the first is +0, the next is the previous offset plus the last chain value of its block.
pub fn cumsum(x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "cumsum: output differs in length");
    let mut offset = 0.0_f32;
    for (x, out) in x.chunks(CUMSUM_BLOCK).zip(out.chunks_mut(CUMSUM_BLOCK)) {
        let mut chain = 0.0_f32;
        for (&x, out) in x.iter().zip(out) {
            chain += x;
            *out = canonical(offset + chain);
        }
        offset += chain;
    }
}
