//! The software fma against the instruction, on random and on adversarial operands.

#![cfg(target_arch = "x86_64")]
#![allow(unsafe_code, reason = "calls a function compiled with the fma feature")]

use jetblock_numerics::{fma_soft, paint};

#[target_feature(enable = "fma")]
#[expect(
    clippy::disallowed_methods,
    reason = "compiles to the instruction under this feature"
)]
fn instruction(operands: &[[f32; 3]], out: &mut Vec<f32>) {
    out.extend(operands.iter().map(|&[a, b, c]| f32::mul_add(a, b, c)));
}

/// Draws `count` operand triples and compares. Returns how many results were subnormal, and how many inexact.
fn compare(name: &str, count: u32, draw: impl Fn(u32) -> [f32; 3]) -> (u32, u32) {
    assert!(
        is_x86_feature_detected!("fma"),
        "this test needs a processor with fma"
    );
    let (mut subnormal, mut inexact) = (0, 0);
    let mut want = Vec::new();
    for start in (0..count).step_by(4096) {
        let operands: Vec<_> = (start..count.min(start + 4096)).map(&draw).collect();
        want.clear();
        // SAFETY: the assertion above proves the feature.
        unsafe { instruction(&operands, &mut want) };
        for (&[a, b, c], &want) in operands.iter().zip(&want) {
            let got = fma_soft(a, b, c);
            let same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
            assert!(
                same,
                "{name}: fma({a:e}, {b:e}, {c:e}) = {got:e}, the instruction gives {want:e}"
            );
            subnormal += u32::from(want.is_subnormal());
            inexact += u32::from(f64::from(a) * f64::from(b) + f64::from(c) != f64::from(want));
        }
    }
    (subnormal, inexact)
}

/// A float with random sign and fraction and an exponent in `low..low + 2^spread_bits`.
fn with_exponent(seed: u32, i: u32, low: i32, spread_bits: u32) -> f32 {
    let h = paint::hash(seed, i);
    let exponent = low + ((h >> 23 & 0xFF) >> (8 - spread_bits)) as i32;
    f32::from_bits(h & 0x807F_FFFF | ((127 + exponent).clamp(0, 254) as u32) << 23)
}

#[test]
fn any_bits() {
    compare("raw", 4_000_000, |i| {
        [paint::raw(1, i), paint::raw(2, i), paint::raw(3, i)]
    });
}

#[test]
fn addend_near_the_product() {
    let (_, inexact) = compare("near", 4_000_000, |i| {
        [
            with_exponent(4, i, -4, 3),
            with_exponent(5, i, -4, 3),
            with_exponent(6, i, -32, 6),
        ]
    });
    assert!(inexact > 3_000_000);
}

#[test]
fn subnormal_results() {
    let (subnormal, _) = compare("subnormal", 3_000_000, |i| {
        [
            with_exponent(7, i, -80, 4),
            with_exponent(8, i, -72, 4),
            with_exponent(9, i, -140, 4),
        ]
    });
    assert!(subnormal > 1_000_000);
}

#[test]
fn cancellation() {
    compare("cancel", 2_000_000, |i| {
        let (a, b) = (paint::wide(10, i), paint::wide(11, i));
        [a, b, -(a * b)]
    });
}

#[test]
fn overflow() {
    compare("overflow", 1_000_000, |i| {
        [
            with_exponent(12, i, 60, 2),
            with_exponent(13, i, 64, 2),
            with_exponent(14, i, 124, 3),
        ]
    });
}

/// The product sits exactly between two floats and the addend, far smaller, decides: rounding to f64 and then to f32
/// gets these wrong.
#[test]
fn ties_decided_by_a_tiny_addend() {
    let (_, inexact) = compare("ties", 2_000_000, |i| {
        // (2^12 + 1) (2^12 + odd) has 25 bits, the last of which is 1.
        let odd = (paint::hash(15, i) & 0xFFF | 1) as f32;
        let tiny = with_exponent(16, i, -110, 6);
        [
            4097.0,
            4096.0 + odd,
            if i & 1 == 0 {
                tiny
            } else {
                f32::from_bits(tiny.to_bits() & 0x8000_0001)
            },
        ]
    });
    assert!(inexact > 1_000_000);
}

/// The same at the edge of the subnormal range, where f32 keeps fewer bits.
#[test]
fn subnormal_ties() {
    compare("subnormal ties", 2_000_000, |i| {
        let h = paint::hash(17, i);
        let odd = f32::from_bits((h & 0xFFFF | 1) << 1 | 1);
        let addend = f32::from_bits((h >> 16 & 0x80FF | 1) & 0xFF | h & 0x8000_0000);
        [odd, if h & 0x100 == 0 { 0.5 } else { -0.5 }, addend]
    });
}

/// Control: two roundings instead of one are seen by the cases above.
#[test]
fn two_roundings_differ() {
    let twice = |a: f32, b: f32, c: f32| (f64::from(a) * f64::from(b) + f64::from(c)) as f32;
    let (a, b, c) = (4097.0, 4097.0, f32::from_bits(0x2000_0000));
    assert_ne!(twice(a, b, c).to_bits(), fma_soft(a, b, c).to_bits());
}
