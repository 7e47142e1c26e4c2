//! The order of sums, against definitions written index by index.

use jetblock_numerics::reduce::{cumsum, dot_bf16, dot_f32, dot32, max, sum, sum_of_squares};
use jetblock_numerics::round::{bf16_operand, bf16_widen};
use jetblock_numerics::{fma, paint};

const LENGTHS: [usize; 18] = [
    0, 1, 2, 3, 31, 32, 33, 255, 256, 257, 511, 1023, 1024, 1025, 2047, 4099, 33_000, 1_050_000,
];

fn painted(seed: u32, len: usize) -> Vec<f32> {
    paint::uniform_vec(seed, len)
}

/// As NUMERICS.md writes it: absent elements are +0 and are added.
fn sum_by_index(x: &[f32], step: fn(f32, f32) -> f32) -> f32 {
    let mut blocks = Vec::new();
    for block in 0..x.len().div_ceil(1024).max(1) {
        let mut lane = [0.0_f32; 32];
        for (i, lane) in lane.iter_mut().enumerate() {
            for e in (i..1024).step_by(32) {
                *lane = step(*lane, x.get(block * 1024 + e).copied().unwrap_or(0.0));
            }
        }
        for h in [16, 8, 4, 2, 1] {
            for j in 0..h {
                lane[j] += lane[j + h];
            }
        }
        blocks.push(lane[0]);
    }
    if blocks.len() == 1 {
        blocks[0]
    } else {
        sum_by_index(&blocks, |acc, x| acc + x)
    }
}

#[test]
fn sums_equal_the_definition() {
    for len in LENGTHS {
        let x = painted(1, len);
        assert_eq!(
            sum(&x).to_bits(),
            sum_by_index(&x, |acc, x| acc + x).to_bits(),
            "sum of {len}"
        );
        let squares = sum_by_index(&x, |acc, x| fma(x, x, acc));
        assert_eq!(
            sum_of_squares(&x).to_bits(),
            squares.to_bits(),
            "sum_of_squares of {len}"
        );
    }
}

#[test]
fn sums_of_nothing_and_of_minus_zero_are_plus_zero() {
    assert_eq!(sum(&[]).to_bits(), 0);
    assert_eq!(sum(&[-0.0]).to_bits(), 0);
    assert_eq!(dot_f32(&[], &[]).to_bits(), 0);
    assert_eq!(dot_f32(&[-0.0], &[1.0]).to_bits(), 0);
    // This product underflows to -0, which the total absorbs.
    assert_eq!(dot_f32(&[-1.0e-30], &[1.0e-30]).to_bits(), 0);
}

/// A dot product with everything indexed: `order` lists k within a block of `block`.
fn dot_by_index(len: usize, block: usize, at: impl Fn(usize) -> (f32, f32), pairs: bool) -> f32 {
    let mut total = 0.0_f32;
    for start in (0..len).step_by(block) {
        let mut chain = 0.0;
        for i in 0..block {
            // Pairs: 1, 0, 3, 2, ... is the index with its last bit flipped.
            let k = start + if pairs { i ^ 1 } else { i };
            let (a, b) = if k < len { at(k) } else { (0.0, 0.0) };
            chain = fma(a, b, chain);
        }
        total += chain;
    }
    total
}

#[test]
fn dots_equal_the_definition() {
    for len in LENGTHS {
        let (a, b) = (painted(2, len), painted(3, len));
        assert_eq!(
            dot_f32(&a, &b).to_bits(),
            dot_by_index(len, 256, |k| (a[k], b[k]), false).to_bits(),
            "{len}"
        );
        assert_eq!(
            dot32(&a, &b).to_bits(),
            dot_by_index(len, 32, |k| (a[k], b[k]), false).to_bits(),
            "{len}"
        );
        let codes = |x: &[f32]| x.iter().map(|&x| bf16_operand(x)).collect::<Vec<_>>();
        let (a, b) = (codes(&a), codes(&b));
        let want = dot_by_index(len, 256, |k| (bf16_widen(a[k]), bf16_widen(b[k])), true);
        assert_eq!(dot_bf16(&a, &b).to_bits(), want.to_bits(), "{len}");
    }
}

/// Controls: the order is observable, so the tests above can fail.
#[test]
fn other_orders_differ() {
    let (a, b) = (painted(2, 4099), painted(3, 4099));
    let at = |k: usize| (a[k], b[k]);
    assert_ne!(
        dot_f32(&a, &b).to_bits(),
        dot_by_index(4099, 256, at, true).to_bits()
    );
    assert_ne!(dot_f32(&a, &b).to_bits(), dot32(&a, &b).to_bits());
    let sequential = a.iter().fold(0.0, |acc, x| acc + x);
    assert_ne!(sum(&a).to_bits(), f32::to_bits(sequential));
}

#[test]
fn zero_padding_is_neutral() {
    let (mut a, mut b) = (painted(4, 700), painted(5, 700));
    let (dot, total) = (dot_f32(&a, &b), sum(&a));
    a.resize(1024, 0.0);
    b.resize(1024, 0.0);
    assert_eq!(dot_f32(&a, &b).to_bits(), dot.to_bits());
    assert_eq!(sum(&a).to_bits(), total.to_bits());
}

#[test]
fn nan_results_are_canonical() {
    let x = [f32::INFINITY, f32::NEG_INFINITY];
    assert_eq!(sum(&x).to_bits(), 0x7FC0_0000);
    assert_eq!(dot_f32(&x, &[1.0, 1.0]).to_bits(), 0x7FC0_0000);
    assert_eq!(dot_f32(&[0.0], &[f32::INFINITY]).to_bits(), 0x7FC0_0000);
    assert_eq!(
        max(&[1.0, f32::from_bits(0xFF80_0001), 2.0]).to_bits(),
        0x7FC0_0000
    );
}

#[test]
fn max_ignores_order() {
    assert_eq!(max(&[]), f32::NEG_INFINITY);
    assert_eq!(max(&[-0.0, 0.0, -0.0]).to_bits(), 0);
    assert_eq!(max(&[-3.0, -1.0, -2.0]), -1.0);
}

#[test]
fn cumsum_restarts_in_each_block() {
    let x = painted(6, 1000);
    let mut got = vec![f32::NAN; x.len()];
    cumsum(&x, &mut got);
    let mut offset = 0.0_f32;
    for block in 0..4 {
        let mut chain = 0.0_f32;
        for i in block * 256..x.len().min(block * 256 + 256) {
            chain += x[i];
            assert_eq!(got[i].to_bits(), (offset + chain).to_bits(), "element {i}");
        }
        offset += chain;
    }
    let sequential = x.iter().fold(0.0, |acc, x| acc + x);
    assert_ne!(got[999].to_bits(), f32::to_bits(sequential));
}
