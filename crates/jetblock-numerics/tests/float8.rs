//! E4M3 and E2M1: every code, and rounding at every boundary between two neighbours. (`accuracy.rs` compares E4M3 with
//! a rounding by distances.)

use jetblock_numerics::{e2m1, e4m3};

/// The exact values of the non-negative codes, from the definition of the format.
fn values(exponent_bits: u32, fraction_bits: u32, bias: i32) -> Vec<f64> {
    let steps = 1 << fraction_bits;
    (0..1_i32 << (exponent_bits + fraction_bits))
        .map(|code| {
            let (e, m) = (code / steps, f64::from(code % steps) / f64::from(steps));
            let (one, e) = if e == 0 { (0.0, 1) } else { (1.0, e) };
            (one + m) * 2.0_f64.powi(e - bias)
        })
        .collect()
}

#[test]
fn codes_have_the_values_of_the_format() {
    let magnitudes = values(4, 3, 7);
    for code in 0..=255_u8 {
        let got = e4m3::decode(code);
        if code & 0x7F == 0x7F {
            assert_eq!(got.to_bits(), 0x7FC0_0000);
            assert_eq!(e4m3::encode(got), e4m3::NAN);
            continue;
        }
        assert_eq!(
            f64::from(got.abs()),
            magnitudes[usize::from(code & 0x7F)],
            "{code:02X}"
        );
        assert_eq!(got.is_sign_negative(), code >= 0x80, "{code:02X}");
        assert_eq!(e4m3::encode(got), code, "{code:02X} is {got}");
    }
    let magnitudes = values(2, 1, 1);
    assert_eq!(magnitudes, [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]);
    for code in 0..16_u8 {
        let got = e2m1::decode(code);
        assert_eq!(f64::from(got.abs()), magnitudes[usize::from(code & 7)]);
        assert_eq!(got.is_sign_negative(), code >= 8, "{code:X}");
        // -0 has code 8 but is not below zero.
        let back = if code == 8 { 0 } else { code };
        assert_eq!(e2m1::encode(got), back, "{code:X} is {got}");
    }
}

/// Values just below, at and just above every middle of neighbours round down, to the even code, and up.
fn check_ties(last: u8, decode: fn(u8) -> f32, encode: fn(f32) -> u8, sign: u8) {
    for code in 0..last {
        let middle = (decode(code) + decode(code + 1)) / 2.0;
        let even = code + (code & 1);
        let (below, above) = (middle.next_down(), middle.next_up());
        for (x, want) in [(below, code), (middle, even), (above, code + 1)] {
            assert_eq!(encode(x), want, "{x:e}");
            assert_eq!(encode(-x), want | sign, "{:e}", -x);
        }
    }
}

#[test]
fn ties_go_to_the_even_code() {
    check_ties(0x7E, e4m3::decode, e4m3::encode, 0x80);
    check_ties(7, e2m1::decode, e2m1::encode, 8);
}

#[test]
fn values_beyond_the_largest_saturate() {
    for x in [448.0_f32.next_up(), 464.0, 480.0, f32::MAX, f32::INFINITY] {
        assert_eq!((e4m3::encode(x), e4m3::encode(-x)), (0x7E, 0xFE), "{x:e}");
    }
    for x in [6.0_f32.next_up(), 7.0, 1e30, f32::INFINITY] {
        assert_eq!((e2m1::encode(x), e2m1::encode(-x)), (7, 15), "{x:e}");
    }
    for bits in [0x7FC0_0000, 0xFFC0_0000, 0x7F80_0001, 0xFFFF_FFFF] {
        assert_eq!(e4m3::encode(f32::from_bits(bits)), 0x7F);
        assert_eq!(e2m1::encode(f32::from_bits(bits)), 0);
    }
}

#[test]
fn zeros_keep_or_lose_their_sign_as_stated() {
    assert_eq!((e4m3::encode(0.0), e4m3::encode(-0.0)), (0, 0x80));
    assert_eq!((e4m3::encode(1e-30), e4m3::encode(-1e-30)), (0, 0x80));
    assert_eq!((e2m1::encode(0.0), e2m1::encode(-0.0)), (0, 0));
    assert_eq!((e2m1::encode(1e-30), e2m1::encode(-1e-30)), (0, 8));
}
