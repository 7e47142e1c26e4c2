//! Functions written over `Lanes` have the scalar bits on every instruction set.

use jetblock_numerics::{Lanes, e2m1, e4m3, math, paint, round};
use jetblock_simd::{Kernel, Level, Simd};

const NAMES: [&str; 21] = [
    "exp",
    "exp2",
    "log",
    "log1p",
    "softplus",
    "sigmoid",
    "silu",
    "tanh",
    "gelu_tanh",
    "erf",
    "gelu_erf",
    "rsqrt",
    "relu2",
    "max",
    "min",
    "canonical",
    "bf16_operand_round",
    "e4m3::round",
    "e4m3::widen",
    "e2m1::round",
    "e2m1::widen",
];

/// Applies function number `function` to `x`, whose length is a multiple of every vector width.
struct Apply<'a> {
    function: usize,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let chunks = self
            .x
            .chunks_exact(S::LANES)
            .zip(self.y.chunks_exact_mut(S::LANES));
        for (x, y) in chunks {
            let x = simd.load(x);
            let other = S::F::splat(-0.0);
            let f = match self.function {
                0 => math::exp(x),
                1 => math::exp2(x),
                2 => math::log(x),
                3 => math::log1p(x),
                4 => math::softplus(x),
                5 => math::sigmoid(x),
                6 => math::silu(x),
                7 => math::tanh(x),
                8 => math::gelu_tanh(x),
                9 => math::erf(x),
                10 => math::gelu_erf(x),
                11 => math::rsqrt(x),
                12 => math::relu2(x),
                13 => round::max(x, other),
                14 => round::min(x, other),
                15 => round::canonical(x),
                16 => round::bf16_operand_round(x),
                17 => S::F::from_bits(e4m3::round(x)),
                18 => e4m3::widen(S::F::int_ushr::<24>(x.to_bits())),
                19 => S::F::from_bits(e2m1::round(x)),
                _ => e2m1::widen(S::F::int_ushr::<28>(x.to_bits())),
            };
            simd.store(f, y);
        }
    }
}

fn apply(level: Level, function: usize, x: &[f32]) -> Vec<u32> {
    let mut y = vec![f32::NAN; x.len()];
    level.run(Apply {
        function,
        x,
        y: &mut y,
    });
    y.into_iter().map(f32::to_bits).collect()
}

#[test]
fn every_level_has_the_scalar_bits() {
    let mut x: Vec<f32> = (0..1 << 14).map(|i| paint::raw(1, i)).collect();
    x.extend((0..1 << 14).map(|i| paint::wide(2, i)));
    x.extend((0..1 << 14).map(|i| 64.0 * paint::uniform(3, i)));
    // Every sign and exponent with fractions 0, 1 and all ones: zeros, subnormals, infinities, NaN.
    x.extend(
        (0..512_u32)
            .flat_map(|e| [0, 1, 0x7F_FFFF, 0x40_0000].map(|f| f32::from_bits(e << 23 | f))),
    );
    for function in 0..NAMES.len() {
        let want = apply(Level::Scalar, function, &x);
        for level in Level::available() {
            let got = apply(level, function, &x);
            for ((x, want), got) in x.iter().zip(&want).zip(&got) {
                assert_eq!(
                    got, want,
                    "{} on {level}: ({x:e}) = {got:08X}, expected {want:08X}",
                    NAMES[function]
                );
            }
        }
    }
}

/// Control: the comparison sees a difference of one function from another.
#[test]
fn different_functions_differ() {
    let x: Vec<f32> = (0..64).map(|i| paint::uniform(4, i)).collect();
    assert_ne!(apply(Level::best(), 8, &x), apply(Level::best(), 10, &x));
}
