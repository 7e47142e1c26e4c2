//! Why bf16 operands below 2^-50 become zero: then no product and no partial sum of a dot product is subnormal, so
//! hardware that flushes subnormals inside its bf16 dot product (x86 VDPBF16PS) has nothing to flush.
//!
//! The proof: an operand has 8 significant bits and magnitude at least 2^-50, so it is a multiple of 2^-57. A product is
//! a multiple of 2^-114. A sum of multiples of 2^-114, rounded to f32, is again one: where the f32 grid is finer than
//! 2^-114 the sum is exact, and where it is coarser every point of the grid is a multiple. A multiple of 2^-114 other
//! than zero is at least 2^-114, above the least normal number 2^-126.

use jetblock_numerics::round::{bf16_operand, bf16_widen};
use jetblock_numerics::{fma, paint};

/// 2^n.
fn power(n: i32) -> f64 {
    f64::from_bits(((1023 + n) as u64) << 52)
}

fn is_multiple_of(v: f32, n: i32) -> bool {
    let scaled = f64::from(v) * power(-n);
    scaled.trunc() == scaled
}

/// All finite bf16 values after the flush.
fn operands() -> impl Iterator<Item = f32> {
    (0..=u16::MAX)
        .map(|code| bf16_widen(bf16_operand(bf16_widen(code))))
        .filter(|v| v.is_finite())
}

#[test]
fn operands_are_multiples_of_2_to_minus_57() {
    assert!(operands().all(|v| v == 0.0 || f64::from(v.abs()) >= power(-50)));
    assert!(operands().all(|v| is_multiple_of(v, -57)));
    assert!(!operands().all(|v| is_multiple_of(v, -56)));
    assert!(operands().all(|v| v != 0.0 || v.is_sign_positive()));
}

#[test]
fn products_are_exact_multiples_of_2_to_minus_114() {
    let small: Vec<f32> = operands().filter(|v| v.abs() < 1.0).collect();
    assert!(small.len() > 12_000);
    for &a in small.iter().step_by(7) {
        for &b in &small {
            let exact = f64::from(a) * f64::from(b);
            assert_eq!(f64::from(a * b), exact);
            assert!(is_multiple_of(a * b, -114) && !(a * b).is_subnormal());
        }
    }
}

#[test]
fn partial_sums_are_zero_or_normal() {
    let mut inexact = 0;
    for chain in 0..4096 {
        let mut sum = 0.0;
        for k in 0..64 {
            let draw = |seed| {
                // Exponents from -50 up, most of them at the bottom, so that sums cancel often.
                let h = paint::hash(seed, chain * 64 + k);
                let exponent = -50 + (h >> 8 & 0xFF).trailing_zeros() as i32;
                bf16_operand(f32::from_bits(
                    h & 0x807F_0000 | ((127 + exponent) as u32) << 23,
                ))
            };
            let (a, b) = (bf16_widen(draw(1)), bf16_widen(draw(2)));
            let exact = f64::from(a) * f64::from(b) + f64::from(sum);
            sum = fma(a, b, sum);
            inexact += u32::from(f64::from(sum) != exact);
            assert!(is_multiple_of(sum, -114) && !sum.is_subnormal());
        }
    }
    assert!(
        inexact > 0,
        "sums were never rounded, so nothing was tested"
    );
}

/// Control: without the flush a product can be subnormal.
#[test]
fn unflushed_products_can_be_subnormal() {
    let v = f32::from_bits(0x1F80_0000); // 2^-64
    assert!((v * v).is_subnormal());
    assert_eq!(bf16_operand(v), 0);
}
