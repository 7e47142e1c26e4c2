//! What the processor can do at most: arithmetic in registers, reading from memory.

use std::array::from_fn;
use std::hint::black_box;

use jetblock_numerics::Lanes;
use jetblock_simd::{Kernel, Level, Simd};

/// Chains that run side by side: enough to hide the latency of any fused step.
const CHAINS: usize = 12;

/// Fused multiply-adds on registers; each step counts two operations a lane.
pub fn fma_flops(level: Level) -> f64 {
    level.run(Fma { steps: 100_000 })
}

/// Steps of the bf16 dot product on registers; each counts four operations a lane.
pub fn dot_pairs_flops(level: Level) -> f64 {
    level.run(DotPairs { steps: 100_000 })
}

/// Reads a slice once, front to back; returns its bytes.
pub fn read_bytes(level: Level, data: &[f32]) -> f64 {
    level.run(Read { data })
}

struct Fma {
    steps: usize,
}

impl Kernel for Fma {
    type Output = f64;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        let one = simd.load(&black_box([1.0; 16]));
        let mut chains: [S::F; CHAINS] = from_fn(|_| simd.load(&black_box([0.5; 16])));
        for _ in 0..self.steps {
            for chain in &mut chains {
                *chain = chain.fma(one, one);
            }
        }
        for chain in chains {
            let mut out = [0.0; 16];
            simd.store(chain, &mut out);
            black_box(out);
        }
        (self.steps * CHAINS * S::LANES * 2) as f64
    }
}

struct DotPairs {
    steps: usize,
}

impl Kernel for DotPairs {
    type Output = f64;
    const DOTS_PAIRS: bool = true;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        let one = simd.load_pairs(&black_box([0x3F80_3F80; 16]));
        let mut chains: [S::F; CHAINS] = from_fn(|_| simd.load(&black_box([0.5; 16])));
        for _ in 0..self.steps {
            for chain in &mut chains {
                *chain = simd.dot_pairs(one, one, *chain);
            }
        }
        for chain in chains {
            let mut out = [0.0; 16];
            simd.store(chain, &mut out);
            black_box(out);
        }
        (self.steps * CHAINS * S::LANES * 4) as f64
    }
}

struct Read<'a> {
    data: &'a [f32],
}

impl Kernel for Read<'_> {
    type Output = f64;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        let mut seen: [<S::F as Lanes>::Int; 4] = [S::F::splat_int(0); 4];
        for line in self.data.chunks_exact(4 * S::LANES) {
            for (i, seen) in seen.iter_mut().enumerate() {
                *seen = S::F::int_xor(*seen, simd.load(&line[i * S::LANES..]).to_bits());
            }
        }
        for seen in seen {
            let mut out = [0.0; 16];
            simd.store(S::F::from_bits(seen), &mut out);
            black_box(out);
        }
        size_of_val(self.data) as f64
    }
}
