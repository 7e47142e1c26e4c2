//! Counter-based random numbers: a draw is a function of what it is for, never of what was drawn before.
//!
//! The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", 2011).

use crate::{fma, math};

const MULTIPLIER_0: u32 = 0xD251_1F53;
const MULTIPLIER_1: u32 = 0xCD9E_8D57;
const WEYL_0: u32 = 0x9E37_79B9;
const WEYL_1: u32 = 0xBB67_AE85;
const ROUNDS: u32 = 10;
/// "JBME" in ASCII.
const TIE_KEY: u32 = 0x4A42_4D45;

/// Philox4x32-10: four words from a counter of four words and a key of two.
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..ROUNDS {
        let p0 = u64::from(MULTIPLIER_0) * u64::from(c0);
        let p1 = u64::from(MULTIPLIER_1) * u64::from(c2);
        c0 = (p1 >> 32) as u32 ^ c1 ^ k0;
        c2 = (p0 >> 32) as u32 ^ c3 ^ k1;
        c1 = p1 as u32;
        c3 = p0 as u32;
        k0 = k0.wrapping_add(WEYL_0);
        k1 = k1.wrapping_add(WEYL_1);
    }
    [c0, c1, c2, c3]
}

/// What a draw is for. Two draws of one seed differ in at least one of these fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// Tokens before the one drawn, or element index: counter words 0 (low half) and 1 (high half).
    pub position: u64,
    /// Which of several samples of one request: counter word 2.
    pub sample: u32,
    /// Which decision: counter word 3, a constant of [`domain`].
    pub domain: u32,
}

/// Uses of random numbers that are kept apart.
pub mod domain {
    /// Order among equal router scores ([`super::tie_hash`]).
    pub const TIE: u32 = 0;
    /// Choice of the next token.
    pub const TOKEN: u32 = 1;
    /// Normal variates; the step is in the bits above the lowest eight.
    pub const NORMAL: u32 = 2;
}

/// The four words of a draw. The key is the seed: word 0 its low half, word 1 its high half.
pub fn words(seed: u64, draw: Draw) -> [u32; 4] {
    let counter = [
        draw.position as u32,
        (draw.position >> 32) as u32,
        draw.sample,
        draw.domain,
    ];
    philox4x32(counter, [seed as u32, (seed >> 32) as u32])
}

/// The order among experts with equal scores under the `hash` tie rule: smaller first.
///
/// `position` counts from the start of the sequence; `layer` is the index in the stack.
pub fn tie_hash(layer: u32, position: u32, expert: u32) -> u32 {
    philox4x32([expert, position, layer, domain::TIE], [TIE_KEY, 0])[0]
}

/// A uniform 64-bit integer: output word 1 is its high half, word 0 its low half. Words 2 and 3 are not used.
pub fn uniform_u64(seed: u64, draw: Draw) -> u64 {
    let [low, high, ..] = words(seed, draw);
    u64::from(high) << 32 | u64::from(low)
}

/// Upper half of the 128-bit product: maps a uniform 64-bit integer `a` to `0..b`.
pub fn mulhi64(a: u64, b: u64) -> u64 {
    ((u128::from(a) * u128::from(b)) >> 64) as u64
}

/// A uniform f32 in [0, 1): the upper 24 bits of a word, times 2^-24. Exact.
pub fn unit_f32(word: u32) -> f32 {
    (word >> 8) as f32 * f32::from_bits(0x3380_0000)
}

/// Two independent standard normal variates of two words (Box and Muller, "A note on the generation of random normal
/// deviates", 1958). The first word decides how far out they are, at most 6.8.
pub fn normal_pair(distance: u32, direction: u32) -> [f32; 2] {
    // (word + 1/2) 2^-32, which is never 0.
    let u = fma(
        distance as f32,
        f32::from_bits(0x2F80_0000),
        f32::from_bits(0x2F00_0000),
    );
    let radius = (-2.0 * math::log(u)).sqrt();
    let angle = unit_f32(direction) * std::f32::consts::TAU;
    [radius * math::cos(angle), radius * math::sin(angle)]
}
