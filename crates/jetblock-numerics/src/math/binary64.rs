//! exp, log, sin, cos and pow in binary64, for tables built once on the host.
//!
//! Only `+ - * /` on binary64 and integers, each rounded separately and no fma, so that any language can repeat them.
//! Errors stay within a few units of binary64: rounded to f32 the results are off by at most 0.501 units.

const LN2_HI: f64 = f64::from_bits(0x3FE6_2E42_FEF0_0000);
const LN2_LO: f64 = f64::from_bits(0x3DD4_73DE_6AF2_78ED);
const LN2: f64 = f64::from_bits(0x3FE6_2E42_FEFA_39EF);
const LOG2_E: f64 = f64::from_bits(0x3FF7_1547_652B_82FE);
const SQRT_2: f64 = f64::from_bits(0x3FF6_A09E_667F_3BCD);
const PI_OVER_4: f64 = f64::from_bits(0x3FE9_21FB_5444_2D18);
/// pi/2 * 2^-128.
const PI_OVER_2_SCALED: f64 = f64::from_bits(0x3FF9_21FB_5444_2D18 - (128 << 52));
/// 1.5 * 2^52: adding and subtracting it rounds to an integer.
const ROUND: f64 = 6_755_399_441_055_744.0;

/// 1/n! for n = 0..=18, each the nearest binary64.
const INVERSE_FACTORIAL: [f64; 19] = [
    1.0,
    1.0,
    0.5,
    f64::from_bits(0x3FC5_5555_5555_5555),
    f64::from_bits(0x3FA5_5555_5555_5555),
    f64::from_bits(0x3F81_1111_1111_1111),
    f64::from_bits(0x3F56_C16C_16C1_6C17),
    f64::from_bits(0x3F2A_01A0_1A01_A01A),
    f64::from_bits(0x3EFA_01A0_1A01_A01A),
    f64::from_bits(0x3EC7_1DE3_A556_C734),
    f64::from_bits(0x3E92_7E4F_B778_9F5C),
    f64::from_bits(0x3E5A_E645_67F5_44E4),
    f64::from_bits(0x3E21_EED8_EFF8_D898),
    f64::from_bits(0x3DE6_1246_13A8_6D09),
    f64::from_bits(0x3DA9_3974_A8C0_7C9D),
    f64::from_bits(0x3D6A_E7F3_E733_B81F),
    f64::from_bits(0x3D2A_E7F3_E733_B81F),
    f64::from_bits(0x3CE9_52C7_7030_AD4A),
    f64::from_bits(0x3CA6_8278_63B9_7D97),
];

/// 2/(2k + 1) for k = 0..=11, each the nearest binary64.
const ATANH: [f64; 12] = [
    2.0,
    f64::from_bits(0x3FE5_5555_5555_5555),
    f64::from_bits(0x3FD9_9999_9999_999A),
    f64::from_bits(0x3FD2_4924_9249_2492),
    f64::from_bits(0x3FCC_71C7_1C71_C71C),
    f64::from_bits(0x3FC7_45D1_745D_1746),
    f64::from_bits(0x3FC3_B13B_13B1_3B14),
    f64::from_bits(0x3FC1_1111_1111_1111),
    f64::from_bits(0x3FBE_1E1E_1E1E_1E1E),
    f64::from_bits(0x3FBA_F286_BCA1_AF28),
    f64::from_bits(0x3FB8_6186_1861_8618),
    f64::from_bits(0x3FB6_42C8_590B_2164),
];

/// 128 zero bits, then the first 1152 bits of 2/pi after the binary point.
const TWO_OVER_PI: [u64; 20] = [
    0,
    0,
    0xA2F9_836E_4E44_1529,
    0xFC27_57D1_F534_DDC0,
    0xDB62_9599_3C43_9041,
    0xFE51_63AB_DEBB_C561,
    0xB724_6E3A_424D_D2E0,
    0x0649_2EEA_09D1_921C,
    0xFE1D_EB1C_B129_A73E,
    0xE882_35F5_2EBB_4484,
    0xE99C_7026_B45F_7E41,
    0x3991_D639_8353_39F4,
    0x9C84_5F8B_BDF9_283B,
    0x1FF8_97FF_DE05_980F,
    0xEF2F_118B_5A0A_6D1F,
    0x6D36_7ECF_27CB_09B7,
    0x4F46_3F66_9E5F_EA2D,
    0x7527_BAC7_EBE5_F17B,
    0x3D07_39F7_8A52_92EA,
    0x6BFB_5FB1_1F8D_5D08,
];

/// e^x.
pub fn exp(x: f64) -> f64 {
    if x.is_nan() {
        return f64::NAN;
    }
    let x = x.clamp(-800.0, 800.0);
    let n = (x * LOG2_E + ROUND) - ROUND;
    let r = (x - n * LN2_HI) - n * LN2_LO;
    scale(exp_series(r), n as i32)
}

/// Natural logarithm; log(0) is -infinity, a negative argument gives NaN.
pub fn log(x: f64) -> f64 {
    match split(x) {
        Split::Edge(y) => y,
        Split::Normal { n, log_m } => n * LN2_HI + (n * LN2_LO + log_m),
    }
}

/// x^y, with the special cases of IEEE 754 (`pow`).
pub fn pow(x: f64, y: f64) -> f64 {
    if y == 0.0 || x == 1.0 {
        return 1.0;
    }
    if x.is_nan() || y.is_nan() {
        return f64::NAN;
    }
    let magnitude = pow_magnitude(x.abs(), y);
    if x.is_sign_positive() {
        return magnitude;
    }
    let integer = y.trunc() == y;
    // From 2^53 on every binary64 is even.
    let odd = integer && y.abs() < 9_007_199_254_740_992.0 && (y as i64) & 1 == 1;
    if odd {
        -magnitude
    } else if integer || x == 0.0 || x.is_infinite() {
        magnitude
    } else {
        f64::NAN
    }
}

/// x^y for x >= 0, y != 0, neither NaN.
fn pow_magnitude(x: f64, y: f64) -> f64 {
    if x == 1.0 {
        return 1.0;
    }
    if y.is_infinite() || x == 0.0 || x.is_infinite() {
        return if (x > 1.0) == (y > 0.0) {
            f64::INFINITY
        } else {
            0.0
        };
    }
    let Split::Normal { n, log_m } = split(x) else {
        unreachable!("x is positive and finite")
    };
    let t = (y * (n + log_m * LOG2_E)).clamp(-1200.0, 1200.0);
    let n = (t + ROUND) - ROUND;
    scale(exp_series((t - n) * LN2), n as i32)
}

/// Sine, exact argument reduction.
pub fn sin(x: f64) -> f64 {
    let Some((quadrant, r)) = reduce(x) else {
        return f64::NAN;
    };
    let y = quarter(quadrant, r);
    if x.is_sign_negative() { -y } else { y }
}

/// Cosine, exact argument reduction.
pub fn cos(x: f64) -> f64 {
    let Some((quadrant, r)) = reduce(x) else {
        return f64::NAN;
    };
    quarter(quadrant + 1, r)
}

/// sin(quadrant * pi/2 + r).
fn quarter(quadrant: u32, r: f64) -> f64 {
    let y = if quadrant & 1 == 0 {
        sin_series(r)
    } else {
        cos_series(r)
    };
    if quadrant & 2 == 0 { y } else { -y }
}

/// |x| = quadrant * pi/2 + r modulo 2 pi, |r| <= pi/4. None for infinities and NaN.
///
/// |x| = M 2^E with an integer M. In M 2^E 2/pi, multiples of 4 do not matter, so only 128 bits of 2/pi do: those of
/// weight 2 down to 2^-126 after the multiplication by 2^E (Payne and Hanek 1983).
fn reduce(x: f64) -> Option<(u32, f64)> {
    let x = x.abs();
    if !x.is_finite() {
        return None;
    }
    if x < PI_OVER_4 {
        return Some((0, x));
    }
    let m = u128::from(x.to_bits() & 0x000F_FFFF_FFFF_FFFF | 1 << 52);
    let e = (x.to_bits() >> 52) as usize;
    let turns = m.wrapping_mul(two_over_pi_bits(e + 126 - 1075));
    let quadrant = (turns.wrapping_add(1 << 125) >> 126) as u32;
    let fraction = (turns << 2).cast_signed();
    Some((quadrant, fraction as f64 * PI_OVER_2_SCALED))
}

/// floor(2/pi * 2^p) modulo 2^128.
fn two_over_pi_bits(p: usize) -> u128 {
    let (word, shift) = (p / 64, p % 64);
    let at = |i: usize| u128::from(TWO_OVER_PI[word + i]);
    let high = at(0) << 64 | at(1);
    if shift == 0 {
        high
    } else {
        high << shift | at(2) >> (64 - shift)
    }
}

/// sin r = r + r z (-1/3! + z/5! - ... + z^7/17!), z = r^2.
fn sin_series(r: f64) -> f64 {
    let z = r * r;
    let mut q = INVERSE_FACTORIAL[17];
    for n in [15, 13, 11, 9, 7, 5, 3] {
        q = INVERSE_FACTORIAL[n] - q * z;
    }
    r - r * z * q
}

/// cos r = (1 - z/2) + z^2 (1/4! - z/6! + ... - z^7/18!), z = r^2.
fn cos_series(r: f64) -> f64 {
    let z = r * r;
    let mut q = INVERSE_FACTORIAL[18];
    for n in [16, 14, 12, 10, 8, 6, 4] {
        q = INVERSE_FACTORIAL[n] - q * z;
    }
    (1.0 - 0.5 * z) + z * z * q
}

/// e^r = 1 + r + r^2/2! + ... + r^14/14!.
fn exp_series(r: f64) -> f64 {
    let mut q = INVERSE_FACTORIAL[14];
    for n in (0..14).rev() {
        q = q * r + INVERSE_FACTORIAL[n];
    }
    q
}

/// p * 2^n in two steps, so that neither factor under- or overflows for |n| <= 1200.
fn scale(p: f64, n: i32) -> f64 {
    let power = |n: i32| f64::from_bits(((1023 + n) as u64) << 52);
    let half = n >> 1;
    p * power(half) * power(n - half)
}

enum Split {
    /// log(x) where x is not positive and finite.
    Edge(f64),
    /// x = 2^n m with m in [sqrt(1/2), sqrt 2).
    Normal { n: f64, log_m: f64 },
}

fn split(x: f64) -> Split {
    if x == 0.0 {
        return Split::Edge(f64::NEG_INFINITY);
    }
    if x.is_nan() || x < 0.0 {
        return Split::Edge(f64::NAN);
    }
    if x.is_infinite() {
        return Split::Edge(x);
    }
    // 2^54 makes subnormals normal.
    let (x, shift) = if x < f64::MIN_POSITIVE {
        (x * 18_014_398_509_481_984.0, 54)
    } else {
        (x, 0)
    };
    let mut n = (x.to_bits() >> 52) as i32 - 1023;
    let mut m = f64::from_bits(x.to_bits() & 0x000F_FFFF_FFFF_FFFF | 1023 << 52);
    if m >= SQRT_2 {
        m *= 0.5;
        n += 1;
    }
    // log m = 2 atanh s = s (2 + 2/3 s^2 + 2/5 s^4 + ...).
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let mut q = ATANH[11];
    for k in (0..11).rev() {
        q = q * z + ATANH[k];
    }
    Split::Normal {
        n: f64::from(n - shift),
        log_m: s * q,
    }
}
