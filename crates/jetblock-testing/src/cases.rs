//! Inputs given by a formula, awkward sizes, and the machines a result must not depend on.

use std::sync::LazyLock;

use jetblock_numerics::paint;
use jetblock_simd::{Cpu, Level};

/// Sizes around the vector widths, the 32 lanes and the blocks of 256 and 1024 of the contract.
pub const AWKWARD_LENGTHS: [usize; 17] = [
    1, 2, 7, 15, 16, 17, 31, 32, 33, 63, 255, 256, 257, 1023, 1024, 1025, 2049,
];

/// Values at which shortcuts break: zeros, subnormals, extremes, infinities, NaN with and without payload.
pub const SPECIAL_VALUES: [f32; 14] = [
    0.0,
    -0.0,
    f32::from_bits(1),
    f32::from_bits(0x8000_0001),
    f32::from_bits(0x007F_FFFF),
    f32::MIN_POSITIVE,
    f32::MAX,
    f32::MIN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::from_bits(0x7FC0_0000),
    f32::from_bits(0xFFC0_1234),
    1.0,
    -20.5,
];

/// `count` values in (-2, 2): [`paint::uniform`].
pub fn painted(seed: u32, count: usize) -> Vec<f32> {
    paint::uniform_vec(seed, count)
}

/// `count` values of magnitude 2^-20 to 2^20: [`paint::wide`].
pub fn painted_wide(seed: u32, count: usize) -> Vec<f32> {
    (0..count as u32).map(|i| paint::wide(seed, i)).collect()
}

/// `count` arbitrary bit patterns: [`paint::raw`].
pub fn painted_raw(seed: u32, count: usize) -> Vec<f32> {
    (0..count as u32).map(|i| paint::raw(seed, i)).collect()
}

/// [`painted`] with about one value in `every` replaced by one of [`SPECIAL_VALUES`].
pub fn painted_special(seed: u32, count: usize, every: u32) -> Vec<f32> {
    let pick = |i: u32| paint::hash(seed ^ 0x5EC1_A100, i);
    let value = |i: u32| match pick(i) {
        h if h % every == 0 => SPECIAL_VALUES[(h / every) as usize % SPECIAL_VALUES.len()],
        _ => paint::uniform(seed, i),
    };
    (0..count as u32).map(value).collect()
}

/// Every available level with 1, 2, 3 and 4 threads.
pub fn cpus() -> &'static [Cpu] {
    static CPUS: LazyLock<Vec<Cpu>> = LazyLock::new(|| {
        let levels = Level::available().into_iter();
        levels
            .flat_map(|level| (1..=4).map(move |threads| cpu(threads, level)))
            .collect()
    });
    &CPUS
}

fn cpu(threads: usize, level: Level) -> Cpu {
    Cpu::new(threads, level).unwrap_or_else(|e| panic!("{threads} threads at level {level}: {e}"))
}

/// Calls `f` with each of [`cpus`]; a panic inside is preceded by a line that names the level and thread count.
pub fn for_every_cpu(mut f: impl FnMut(&Cpu)) {
    /// Speaks only when it is dropped by unwinding.
    struct Name<'a>(&'a Cpu);
    impl Drop for Name<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!(
                    "the failure is at level {} with {} threads",
                    self.0.level(),
                    self.0.threads()
                );
            }
        }
    }
    for cpu in cpus() {
        let _name = Name(cpu);
        f(cpu);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_comes_with_one_to_four_threads() {
        let mut seen = Vec::new();
        for_every_cpu(|cpu| seen.push((cpu.level(), cpu.threads())));
        assert_eq!(seen.len(), 4 * Level::available().len());
        assert!(seen.contains(&(Level::Scalar, 1)) && seen.contains(&(Level::best(), 4)));
    }

    #[test]
    fn special_values_appear() {
        let x = painted_special(3, 2000, 8);
        let special = x
            .iter()
            .filter(|v| !v.is_finite() || (v.is_subnormal()))
            .count();
        assert!((50..200).contains(&special), "{special} of 2000");
    }
}
