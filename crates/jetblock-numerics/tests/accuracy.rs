//! Elementary functions against binary64: every stated error bound, and every stated edge case.
//!
//! A sample here; `examples/exhaustive.rs` visits all 2^32 arguments.

use jetblock_numerics::{math, paint};

mod functions;

const NAN: u32 = 0x7FC0_0000;
const INF: u32 = 0x7F80_0000;
const NEG_INF: u32 = 0xFF80_0000;
const NEG_ZERO: u32 = 0x8000_0000;
const ONE: u32 = 0x3F80_0000;
const NEG_ONE: u32 = 0xBF80_0000;

/// Arguments where some function changes branch: neighbourhoods of these are visited.
const TURNS: [u32; 22] = [
    0,
    0x0080_0000,
    0x3400_0000,
    0x3F19_999A,
    0x3F40_0000,
    0x3F49_0FDB,
    0x3F70_0000,
    0x3F80_0000,
    0x3FC0_0000,
    0x4000_0000,
    0x4080_0000,
    0x4120_F9B7,
    0x4153_765A,
    0x4160_0000,
    0x41A0_0000,
    0x42AE_AC4F,
    0x42B1_7217,
    0x42FC_0000,
    0x4300_0000,
    0x4B00_0000,
    0x7F7F_FFFF,
    0x7FC0_0000,
];

#[test]
fn errors_stay_within_the_stated_bounds() {
    let sampled = (0..1 << 16).map(|i| paint::raw(1, i));
    let ordinary = (0..1 << 16).map(|i| paint::wide(2, i));
    let near = (0..1 << 15).map(|i| 64.0 * paint::uniform(3, i));
    let turns = TURNS.iter().flat_map(|&turn| {
        (0..128).map(move |i| f32::from_bits(turn.wrapping_sub(64).wrapping_add(i)))
    });
    let x: Vec<f32> = sampled
        .chain(ordinary)
        .chain(near)
        .chain(turns)
        .flat_map(|x| [x, -x])
        .collect();
    let mut y = vec![0.0; x.len()];
    for function in functions::all() {
        (function.apply)(&x, &mut y);
        for (&x, &y) in x.iter().zip(&y) {
            let error = function.error(x, y);
            assert!(
                error <= function.bound,
                "{}({x:e}) = {y:e} is off by {error} units",
                function.name
            );
        }
    }
}

#[test]
fn a_wrong_constant_would_exceed_the_bound() {
    let exp = functions::all()
        .into_iter()
        .find(|function| function.name == "exp")
        .expect("exp is listed");
    let x = 1.5;
    let y = math::exp(x);
    assert!(exp.error(x, y) <= exp.bound);
    assert!(exp.error(x, f32::from_bits(y.to_bits() + 2)) > exp.bound);
}

#[test]
fn edge_cases() {
    // Results at -inf, -1, -0, +0, +inf.
    type Row = (&'static str, fn(f32) -> f32, [u32; 5]);
    let half = 0x3F00_0000;
    let rows: [Row; 15] = [
        ("exp", math::exp, [0, 0x3EBC_5AB2, ONE, ONE, INF]),
        ("exp2", math::exp2, [0, half, ONE, ONE, INF]),
        ("log", math::log, [NAN, NAN, NEG_INF, NEG_INF, INF]),
        ("log1p", math::log1p, [NAN, NEG_INF, NEG_ZERO, 0, INF]),
        (
            "softplus",
            math::softplus,
            [0, 0x3EA0_63D6, 0x3F31_7218, 0x3F31_7218, INF],
        ),
        ("sigmoid", math::sigmoid, [0, 0x3E89_B2B1, half, half, ONE]),
        ("silu", math::silu, [NAN, 0xBE89_B2B1, NEG_ZERO, 0, INF]),
        ("tanh", math::tanh, [NEG_ONE, 0xBF42_F7D6, NEG_ZERO, 0, ONE]),
        (
            "gelu_tanh",
            math::gelu_tanh,
            [NEG_ZERO, 0xBE22_9E91, NEG_ZERO, 0, INF],
        ),
        ("erf", math::erf, [NEG_ONE, 0xBF57_BB3D, NEG_ZERO, 0, ONE]),
        (
            "gelu_erf",
            math::gelu_erf,
            [NEG_ZERO, 0xBE22_7687, NEG_ZERO, 0, INF],
        ),
        ("rsqrt", math::rsqrt, [NAN, NAN, NEG_INF, INF, 0]),
        ("relu2", math::relu2, [0, 0, 0, 0, INF]),
        ("sin", math::sin, [NAN, 0xBF57_6AA4, NEG_ZERO, 0, NAN]),
        ("cos", math::cos, [NAN, 0x3F0A_5140, ONE, ONE, NAN]),
    ];
    for (name, f, want) in rows {
        let x = [f32::NEG_INFINITY, -1.0, -0.0, 0.0, f32::INFINITY];
        for (x, want) in x.into_iter().zip(want) {
            assert_eq!(
                f(x).to_bits(),
                want,
                "{name}({x:?}) = {:08X}, expected {want:08X}",
                f(x).to_bits()
            );
        }
        for nan in [0x7FC0_0000, 0xFFC0_0000, 0x7F80_0001, 0xFFFF_FFFF] {
            assert_eq!(
                f(f32::from_bits(nan)).to_bits(),
                NAN,
                "{name}(NaN {nan:08X})"
            );
        }
    }
}

#[test]
fn thresholds_are_where_they_are_stated() {
    let at = |f: fn(f32) -> f32, x: u32| f(f32::from_bits(x)).to_bits();
    assert_eq!(at(math::exp, 0xC2AE_AC50), 0);
    assert_eq!(at(math::exp, 0xC2AE_AC4F), 0x0080_0026);
    assert_eq!(at(math::exp, 0x42B1_7217), 0x7F7F_FF84);
    assert_eq!(at(math::exp, 0x42B1_7218), INF);
    assert_eq!(at(math::exp2, 0xC2FC_0001), 0);
    assert_eq!(at(math::exp2, 0xC2FC_0000), 0x0080_0000);
    assert_eq!(at(math::exp2, 0x4300_0000), INF);
    assert_eq!(at(math::softplus, 0x41A0_0001), 0x41A0_0001);
}

#[test]
fn compositions_are_literal() {
    for i in 0..1 << 16 {
        let x = 64.0 * paint::uniform(4, i);
        let softplus = if x > 20.0 {
            x
        } else {
            math::log1p(math::exp(x))
        };
        assert_eq!(
            math::softplus(x).to_bits(),
            softplus.to_bits(),
            "softplus({x:e})"
        );
        assert_eq!(
            math::sigmoid(x).to_bits(),
            (1.0 / (1.0 + math::exp(-x))).to_bits(),
            "sigmoid({x:e})"
        );
        assert_eq!(
            math::silu(x).to_bits(),
            (x / (1.0 + math::exp(-x))).to_bits(),
            "silu({x:e})"
        );
    }
}

#[test]
fn integer_powers_of_two_are_exact() {
    for n in -126..128 {
        let power = f32::from_bits(((127 + n) as u32) << 23);
        assert_eq!(math::exp2(n as f32), power);
        assert_eq!(math::pow(2.0, n as f32), power);
    }
    assert_eq!(math::pow(2.0, -149.0).to_bits(), 1);
    assert_eq!(math::pow(2.0, -150.0).to_bits(), 0);
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the platform's binary64 functions are the oracle"
)]
fn pow_rounds_the_exact_power() {
    for i in 0..1 << 17 {
        let x = paint::wide(5, i).abs();
        let y = 4.0 * paint::uniform(6, i);
        let exact = f64::from(x).powf(f64::from(y));
        let got = math::pow(x, y);
        if (exact as f32).is_infinite() {
            assert_eq!(got, exact as f32);
            continue;
        }
        let exponent = (((exact.to_bits() >> 52) & 0x7FF) as i32 - 1023).max(-126);
        let unit = f64::from_bits(((1023 + exponent - 23) as u64) << 52);
        let error = (f64::from(got) - exact).abs() / unit;
        assert!(
            error <= 0.501,
            "pow({x:e}, {y:e}) = {got:e} is off by {error} units"
        );
    }
}

#[test]
fn pow_has_the_special_cases_of_ieee_754() {
    let inf = f32::INFINITY;
    let nan = f32::NAN;
    #[rustfmt::skip]
    let cases: [(f32, f32, u32); 38] = [
        (nan, 0.0, ONE), (nan, -0.0, ONE), (0.0, 0.0, ONE), (inf, 0.0, ONE), (1.0, nan, ONE), (1.0, inf, ONE),
        (nan, 1.0, NAN), (2.0, nan, NAN), (-2.0, 0.5, NAN), (-2.0, nan, NAN),
        (-2.0, 3.0, 0xC100_0000), (-2.0, 2.0, 0x4080_0000), (-2.0, -1.0, 0xBF00_0000),
        (-1.0, inf, ONE), (-1.0, -inf, ONE), (-1.0, 3.0e10, ONE),
        (0.0, 3.0, 0), (-0.0, 3.0, NEG_ZERO), (-0.0, 2.0, 0), (-0.0, 0.5, 0),
        (0.0, -3.0, INF), (-0.0, -3.0, NEG_INF), (-0.0, -2.0, INF), (-0.0, -0.5, INF), (0.0, inf, 0), (0.0, -inf, INF),
        (inf, 2.0, INF), (inf, -2.0, 0), (-inf, 3.0, NEG_INF), (-inf, 2.0, INF), (-inf, -3.0, NEG_ZERO), (-inf, -2.0, 0),
        (2.0, inf, INF), (2.0, -inf, 0), (0.5, inf, 0), (0.5, -inf, INF),
        (f32::MAX, 2.0, INF), (f32::MAX, -2.0, 0),
    ];
    for (x, y, want) in cases {
        let got = math::pow(x, y).to_bits();
        assert_eq!(
            got, want,
            "pow({x:?}, {y:?}) = {got:08X}, expected {want:08X}"
        );
    }
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the platform's binary64 functions are the oracle"
)]
fn binary64_functions_are_close_to_the_platforms() {
    use math::binary64;
    let close = |name: &str, x: f64, got: f64, want: f64, bound: f64| {
        let error = (got - want).abs() / (want.abs() * f64::EPSILON);
        assert!(
            error <= bound,
            "{name}({x:e}) = {got:e}, the platform gives {want:e}"
        );
    };
    for i in 0..1 << 16 {
        let low = f64::from(paint::uniform(8, i)) * f64::from_bits((1023 - 24) << 52);
        let x = f64::from(paint::wide(7, i)) * (1.0 + low);
        close("sin", x, binary64::sin(x), x.sin(), 2.0);
        close("cos", x, binary64::cos(x), x.cos(), 2.0);
        close("log", x.abs(), binary64::log(x.abs()), x.abs().ln(), 2.0);
        if x.abs() < 700.0 {
            close("exp", x, binary64::exp(x), x.exp(), 2.0);
        }
        let y = f64::from(paint::uniform(9, i));
        close(
            "pow",
            y,
            binary64::pow(10_000.0, -y.abs()),
            10_000_f64.powf(-y.abs()),
            16.0,
        );
    }
    assert_eq!(binary64::exp(-1.0e4), 0.0);
    assert_eq!(binary64::exp(1.0e4), f64::INFINITY);
    close(
        "sin",
        1.0e300,
        binary64::sin(1.0e300),
        1.0e300_f64.sin(),
        2.0,
    );
}
