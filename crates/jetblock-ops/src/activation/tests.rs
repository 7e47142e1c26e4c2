use jetblock_numerics::{math, round};
use jetblock_testing::*;

use super::*;

fn reference(activation: Activation, x: &[f32]) -> Vec<f32> {
    let mut out = Guarded::new(x.len());
    activation.reference(x, &mut out).expect("equal lengths");
    out.assert_intact();
    out.to_vec()
}

#[test]
fn cpu_equals_reference() {
    let inputs = AWKWARD_LENGTHS
        .into_iter()
        .map(|len| painted_special(1, len, 9));
    let inputs = inputs.chain([
        painted_raw(2, 40_000),
        painted_wide(3, 30_001),
        SPECIAL_VALUES.to_vec(),
        vec![],
    ]);
    for x in inputs {
        for activation in Activation::ALL {
            let want = reference(activation, &x);
            for_every_cpu(|cpu| {
                let mut out = Guarded::new(x.len());
                activation.cpu(&x, &mut out, cpu).expect("equal lengths");
                assert_bits_equal(format!("{activation:?}, n = {}", x.len()), &out, &want);
                out.assert_intact();
                let mut in_place = x.clone();
                activation.cpu_in_place(&mut in_place, cpu);
                assert_bits_equal(
                    format!("{activation:?} in place, n = {}", x.len()),
                    &in_place,
                    &want,
                );
            });
        }
    }
}

/// All codes, and lengths at which a vector is short.
#[test]
fn bf16_is_widened_and_rounded() {
    let all: Vec<u16> = (0..=u16::MAX).collect();
    for words in [&all[..], &all[0x3F70..0x3F70 + 77], &all[..1], &[]] {
        let x: Vec<f32> = words.iter().map(|&w| round::bf16_to_f32(w)).collect();
        for activation in Activation::ALL {
            let want = reference(activation, &x);
            let want: Vec<u16> = want.iter().map(|&y| round::f32_to_bf16(y)).collect();
            for_every_cpu(|cpu| {
                let mut out = vec![0x5555; words.len()];
                let done = activation.cpu_bf16(words, &mut out, cpu);
                done.expect("equal lengths");
                assert_eq!(out, want, "{activation:?} of {} codes", words.len());
            });
        }
    }
    let error = Activation::Silu.cpu_bf16(&[0; 2], &mut [0; 3], &jetblock_simd::Cpu::single());
    assert_eq!(
        error.expect_err("invalid").to_string(),
        "activation: out [n] has 3 elements, expected 2"
    );
}

#[test]
fn powers_equal_their_reference() {
    let x = [painted_special(1, 3000, 9), SPECIAL_VALUES.to_vec()].concat();
    let exponents = [
        0.0,
        -0.0,
        1.0,
        2.0,
        3.0,
        -1.0,
        -2.0,
        0.5,
        -0.5,
        1.5,
        4.0,
        -3.0,
        f32::INFINITY,
    ];
    for exponent in exponents {
        let mut want = Guarded::new(x.len());
        pow_reference(&x, exponent, &mut want).expect("equal lengths");
        want.assert_intact();
        for_every_cpu(|cpu| {
            let mut out = Guarded::new(x.len());
            pow(&x, exponent, &mut out, cpu).expect("equal lengths");
            assert_bits_equal(format!("exponent {exponent}"), &out, &want);
            out.assert_intact();
        });
    }
    let mut cube = vec![0.0; x.len()];
    pow_reference(&x, 3.0, &mut cube).expect("equal lengths");
    let general: Vec<f32> = x.iter().map(|&x| math::pow(x, 3.0)).collect();
    assert_bits_differ("the general power", &general, &cube);
    let error = pow(&x, 2.0, &mut cube[..3], &jetblock_simd::Cpu::single());
    assert!(
        error
            .expect_err("short")
            .to_string()
            .contains("out [n] has 3 elements")
    );
}

#[test]
fn golden_v1() {
    let entries = crate::golden::entries("pow");
    assert!(entries.len() >= 3, "{} entries", entries.len());
    for entry in &entries {
        let x = painted(entry.seed(), entry.int("count"));
        let mut y = vec![0.0; x.len()];
        pow_reference(&x, entry.float("exponent"), &mut y).expect("equal lengths");
        entry.check(&y);
    }
}

#[test]
fn stored_nan_is_canonical() {
    for activation in Activation::ALL {
        let y = reference(
            activation,
            &[f32::from_bits(0xFFC0_1234), f32::from_bits(0x7F80_0001)],
        );
        assert_bits_equal(
            format!("{activation:?}"),
            &y,
            &[f32::from_bits(0x7FC0_0000); 2],
        );
    }
}

#[test]
fn other_formulas_of_the_same_function_are_noticed() {
    let x = painted(1, 1000);
    let by_sigmoid: Vec<f32> = x.iter().map(|x| x * math::sigmoid(*x)).collect();
    assert_bits_differ(
        "x * sigmoid(x)",
        &by_sigmoid,
        &reference(Activation::Silu, &x),
    );
    let unbranched: Vec<f32> = [20.5, 30.0, 100.0]
        .iter()
        .map(|x| math::log1p(math::exp(*x)))
        .collect();
    assert_bits_differ(
        "softplus without its branch",
        &unbranched,
        &reference(Activation::Softplus, &[20.5, 30.0, 100.0]),
    );
    assert_bits_differ(
        "gelu",
        &reference(Activation::GeluErf, &x),
        &reference(Activation::GeluTanh, &x),
    );
}

#[test]
fn lengths_must_agree() {
    let error = Activation::Silu
        .reference(&[0.0; 3], &mut [0.0; 2])
        .expect_err("short");
    assert_eq!(
        error.to_string(),
        "activation: out [n] has 2 elements, expected 3"
    );
}
