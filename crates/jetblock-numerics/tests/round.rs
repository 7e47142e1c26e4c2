//! Conversions: every 16-bit code, and rounding at every boundary between two neighbours.

use jetblock_numerics::round::{
    bf16_operand, bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16, max, min,
};
use jetblock_numerics::{canonical, paint};

#[test]
fn bf16_survives_a_round_trip() {
    for code in 0..=u16::MAX {
        let wide = bf16_to_f32(code);
        let want = if wide.is_nan() { 0x7FC0 } else { code };
        assert_eq!(f32_to_bf16(wide), want);
    }
}

#[test]
fn f16_survives_a_round_trip() {
    for code in 0..=u16::MAX {
        let wide = f16_to_f32(code);
        let want = if wide.is_nan() { 0x7E00 } else { code };
        assert_eq!(f32_to_f16(wide), want, "{code:04X} is {wide:e}");
    }
}

/// Checks that values just below, at and just above the middle of neighbours round down, to even, and up.
fn check_midpoints(codes: std::ops::Range<u16>, widen: fn(u16) -> f32, narrow: fn(f32) -> u16) {
    for code in codes {
        let (low, high) = (f64::from(widen(code)), f64::from(widen(code + 1)));
        let middle = ((low + high) / 2.0) as f32;
        let even = if code & 1 == 0 { code } else { code + 1 };
        let (below, above) = (
            f32::from_bits(middle.to_bits() - 1),
            f32::from_bits(middle.to_bits() + 1),
        );
        for sign in [0, 0x8000] {
            let with_sign = |v: f32| if sign == 0 { v } else { -v };
            assert_eq!(narrow(with_sign(middle)), even | sign, "{middle:e}");
            assert_eq!(narrow(with_sign(below)), code | sign, "{below:e}");
            assert_eq!(narrow(with_sign(above)), (code + 1) | sign, "{above:e}");
        }
    }
}

#[test]
fn bf16_rounds_to_nearest_even() {
    check_midpoints(0..0x7F7F, bf16_to_f32, f32_to_bf16);
    assert_eq!(f32_to_bf16(f32::from_bits(0x7F7F_7FFF)), 0x7F7F);
    assert_eq!(f32_to_bf16(f32::from_bits(0x7F7F_8000)), 0x7F80);
    assert_eq!(f32_to_bf16(f32::from_bits(0x7F80_0001)), 0x7FC0);
}

#[test]
fn f16_rounds_to_nearest_even() {
    check_midpoints(0..0x7BFF, f16_to_f32, f32_to_f16);
    assert_eq!(f32_to_f16(65519.996), 0x7BFF);
    assert_eq!(f32_to_f16(65520.0), 0x7C00);
    assert_eq!(f32_to_f16(-1.0e30), 0xFC00);
    assert_eq!(f32_to_f16(1.0e-30), 0);
    assert_eq!(f32_to_f16(-1.0e-30), 0x8000);
    assert_eq!(f32_to_f16(f32::from_bits(0xFF80_0001)), 0x7E00);
}

#[test]
fn small_operands_become_positive_zero() {
    let limit = f32::from_bits(0x2680_0000); // 2^-50
    assert_eq!(bf16_operand(limit), 0x2680);
    assert_eq!(bf16_operand(-limit), 0xA680);
    // The rounding comes first: this value rounds up to the limit.
    assert_eq!(bf16_operand(f32::from_bits(0x267F_FFFF)), 0x2680);
    assert_eq!(bf16_operand(f32::from_bits(0xA67F_0000)), 0);
    assert_eq!(bf16_operand(-0.0), 0);
    assert_eq!(bf16_operand(f32::NAN), 0x7FC0);
    assert_eq!(bf16_operand(f32::NEG_INFINITY), 0xFF80);
}

#[test]
fn max_and_min_decide_zeros_and_nan() {
    for (a, b) in [(0.0, -0.0), (-0.0, 0.0)] {
        assert_eq!(f32::to_bits(max(a, b)), 0);
        assert_eq!(f32::to_bits(min(a, b)), 0x8000_0000);
    }
    for (a, b) in [
        (f32::from_bits(0xFF80_0001), 1.0),
        (1.0, f32::from_bits(0xFFFF_FFFF)),
        (f32::NAN, f32::NAN),
    ] {
        assert_eq!(f32::to_bits(max(a, b)), 0x7FC0_0000);
        assert_eq!(f32::to_bits(min(a, b)), 0x7FC0_0000);
    }
    for i in 0..10_000 {
        let (a, b) = (paint::wide(1, i), paint::wide(2, i));
        assert_eq!(max(a, b), if a > b { a } else { b });
        assert_eq!(min(a, b), if a < b { a } else { b });
    }
    assert_eq!(f32::to_bits(max(-0.0, -0.0)), 0x8000_0000);
    assert_eq!(max(f32::NEG_INFINITY, f32::INFINITY), f32::INFINITY);
}

#[test]
fn canonical_changes_nothing_but_nan() {
    for i in 0..100_000 {
        let x = paint::raw(3, i);
        let want = if x.is_nan() { 0x7FC0_0000 } else { x.to_bits() };
        assert_eq!(f32::to_bits(canonical(x)), want);
    }
}
