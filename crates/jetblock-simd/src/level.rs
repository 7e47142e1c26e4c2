//! Instruction-set levels and dispatch.

use std::fmt;
use std::str::FromStr;

use crate::{Simd, scalar::Scalar};

/// An instruction-set level. Every level gives the same bits; only speed differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Plain Rust, one lane; fused multiply-add in software where the baseline target lacks it.
    Scalar,
    /// aarch64 Advanced SIMD, 4 lanes.
    Neon,
    /// AVX2 + FMA + F16C, 8 lanes.
    Avx2,
    /// AVX-512 F, BW, DQ, VL, 16 lanes.
    Avx512,
    /// AVX-512 with the bf16 dot product VDPBF16PS.
    Avx512Bf16,
}

/// A computation that can run at any level: `run` is instantiated once per level under its target features.
///
/// Mark implementations `#[inline(always)]`, and every function they call that touches vectors as well: code that
/// is not inlined into the dispatching function is compiled without the features and runs many times slower.
pub trait Kernel {
    /// What it returns.
    type Output;
    /// Whether it calls [`Simd::dot_pairs`]. What does not is compiled for AVX-512 once, not once more for AVX-512 BF16.
    const DOTS_PAIRS: bool = false;
    /// The computation.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

impl Level {
    /// All levels, slowest first.
    pub const ALL: [Level; 5] = [
        Level::Scalar,
        Level::Neon,
        Level::Avx2,
        Level::Avx512,
        Level::Avx512Bf16,
    ];

    /// The name used by `--isa` and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Level::Scalar => "scalar",
            Level::Neon => "neon",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
            Level::Avx512Bf16 => "avx512bf16",
        }
    }

    /// Whether this processor can run the level. For `Avx512Bf16` the instruction must also have passed the
    /// known-answer test: a processor whose VDPBF16PS rounds otherwise is treated as not having it.
    pub fn is_available(self) -> bool {
        match self {
            Level::Scalar => true,
            #[cfg(target_arch = "aarch64")]
            Level::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => x86::has_avx2(),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => x86::has_avx512(),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 => x86::has_avx512_bf16(),
            #[allow(
                unreachable_patterns,
                reason = "which levels remain depends on the target"
            )]
            _ => false,
        }
    }

    /// The levels this processor can run, slowest first.
    pub fn available() -> Vec<Level> {
        Level::ALL
            .into_iter()
            .filter(|level| level.is_available())
            .collect()
    }

    /// The fastest level this processor can run.
    pub fn best() -> Level {
        Level::available().pop().unwrap_or(Level::Scalar)
    }

    /// Runs the kernel at this level.
    ///
    /// # Panics
    /// If the processor lacks the level; [`crate::Cpu::new`] refuses such a level first, with an error.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            Level::Scalar => kernel.run(Scalar),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 if x86::has_avx2() => {
                // SAFETY: the guard checked the features of `run_avx2`.
                unsafe { x86::run_avx2(kernel) }
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 if x86::has_avx512() => {
                // SAFETY: the guard checked the features of `run_avx512`.
                unsafe { x86::run_avx512(kernel) }
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 if x86::has_avx512_bf16() => {
                if K::DOTS_PAIRS {
                    // SAFETY: the guard checked the features of `run_avx512_bf16`.
                    unsafe { x86::run_avx512_bf16(kernel) }
                } else {
                    // SAFETY: the guard checked more than the features of `run_avx512`.
                    unsafe { x86::run_avx512(kernel) }
                }
            }
            #[cfg(target_arch = "aarch64")]
            Level::Neon if self.is_available() => {
                // SAFETY: the guard checked the feature of `run_neon`.
                unsafe { run_neon(kernel) }
            }
            level => panic!("instruction-set level {level} is not available on this processor"),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Level {
    type Err = String;
    fn from_str(s: &str) -> Result<Level, String> {
        Level::ALL
            .into_iter()
            .find(|level| level.name() == s)
            .ok_or_else(|| {
                let names: Vec<_> = Level::ALL.iter().map(|level| level.name()).collect();
                format!(
                    "unknown instruction-set level {s:?}, expected one of {}",
                    names.join(", ")
                )
            })
    }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
unsafe fn run_neon<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(crate::neon::Neon(()))
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::sync::LazyLock;

    use super::{Kernel, Simd};
    use crate::avx2::Avx2;
    use crate::avx512::{Avx512, Avx512Bf16};
    use crate::scalar::Scalar;

    static AVX2: LazyLock<bool> = LazyLock::new(|| {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
    });
    static AVX512: LazyLock<bool> = LazyLock::new(|| {
        has_avx2()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
    });
    static AVX512_BF16: LazyLock<bool> = LazyLock::new(|| {
        has_avx512() && is_x86_feature_detected!("avx512bf16") && bf16_known_answers()
    });

    pub(super) fn has_avx2() -> bool {
        *AVX2
    }
    pub(super) fn has_avx512() -> bool {
        *AVX512
    }
    pub(super) fn has_avx512_bf16() -> bool {
        *AVX512_BF16
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
        kernel.run(Avx2(()))
    }
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
        kernel.run(Avx512(()))
    }
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub(super) unsafe fn run_avx512_bf16<K: Kernel>(kernel: K) -> K::Output {
        kernel.run(Avx512Bf16(()))
    }

    /// Whether VDPBF16PS computes `fma(even, even, fma(odd, odd, acc))` here, on operands whose sums exercise
    /// rounding in both steps, cancellation, infinities and products that alone are beyond the largest f32.
    fn bf16_known_answers() -> bool {
        struct Probe;
        impl Kernel for Probe {
            type Output = bool;
            #[inline(always)]
            fn run<S: Simd>(self, simd: S) -> bool {
                let mut state = 0x9E37_79B9_7F4A_7C15_u64;
                let mut next = move || {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    (state >> 16) as u32
                };
                const TWO_127: f32 = f32::from_bits(0x7F00_0000);
                // Exponents 2^-8 .. 2^7 around the accumulator's, any sign and significand.
                let operand = |r: u32| ((r & 0x80FF) | ((119 + (r >> 16) % 16) << 7)) & 0xFFFF;
                for round in 0..256 {
                    let (mut x, mut w, mut acc) = ([0_u32; 16], [0_u32; 16], [0_f32; 16]);
                    for lane in 0..16 {
                        x[lane] = operand(next()) | operand(next()) << 16;
                        w[lane] = operand(next()) | operand(next()) << 16;
                        let r = next();
                        acc[lane] =
                            f32::from_bits((r & 0x807F_FFFF) | ((117 + (r >> 24) % 20) << 23));
                    }
                    if round == 0 {
                        x[0] = 0x7F80_3F80;
                        acc[1] = f32::INFINITY;
                        (x[2], w[2], acc[2]) = (0x3F80_3F80, 0xBF80_3F80, 0.0);
                        // 2^64 * 2^64 - 2^127: a fused step is finite, a rounded product is not.
                        (x[3], w[3], acc[3]) = (0x5F80_0000, 0x5F80_0000, -TWO_127);
                        (x[4], w[4], acc[4]) = (0x0000_5F80, 0x0000_5F80, -TWO_127);
                    }
                    let mut got = [0_f32; 16];
                    let dot =
                        simd.dot_pairs(simd.load_pairs(&x), simd.load_pairs(&w), simd.load(&acc));
                    simd.store(dot, &mut got);
                    for lane in 0..16 {
                        let want = Scalar.dot_pairs(x[lane], w[lane], acc[lane]);
                        let same = want.to_bits() == got[lane].to_bits()
                            || (want.is_nan() && got[lane].is_nan());
                        if !same {
                            return false;
                        }
                    }
                }
                true
            }
        }
        // SAFETY: called from AVX512_BF16's initialiser after the features were detected.
        unsafe { run_avx512_bf16(Probe) }
    }
}
