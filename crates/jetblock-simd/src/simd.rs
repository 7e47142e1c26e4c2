//! The vector interface that kernels are generic over.

use jetblock_numerics::lanes::Lanes;

use crate::Level;

/// A token for one instruction set; its existence proves that the processor has it.
///
/// Slices are read and written from their start; a slice shorter than `LANES` panics (kernels walk exact chunks,
/// so the check disappears in optimised code).
pub trait Simd: Copy + Send + Sync + 'static {
    /// `LANES` values of f32.
    type F: Lanes;
    /// `LANES` pairs of bf16 operands; element 2k in the low half, 2k + 1 in the high half.
    type Pairs: Copy;
    /// Values per vector.
    const LANES: usize;
    /// The level this token stands for.
    const LEVEL: Level;

    /// Loads `LANES` values.
    fn load(self, src: &[f32]) -> Self::F;
    /// Stores `LANES` values.
    fn store(self, v: Self::F, dst: &mut [f32]);
    /// Loads `LANES` bf16 values, widened exactly.
    fn load_bf16(self, src: &[u16]) -> Self::F;
    /// Loads `LANES` f16 values, widened exactly (a NaN keeps being a NaN).
    fn load_f16(self, src: &[u16]) -> Self::F;
    /// Stores the low halves of `LANES` integers.
    fn store_u16(self, v: <Self::F as Lanes>::Int, dst: &mut [u16]);
    /// Loads `LANES` pairs.
    fn load_pairs(self, src: &[u32]) -> Self::Pairs;
    /// The same pair in every lane.
    fn splat_pair(self, pair: u32) -> Self::Pairs;
    /// `fma(x.even, w.even, fma(x.odd, w.odd, acc))`: two steps of the bf16 kind's chain.
    ///
    /// Operands must be flushed (NUMERICS.md section 2): then no step is subnormal and hardware that flushes agrees.
    fn dot_pairs(self, x: Self::Pairs, w: Self::Pairs, acc: Self::F) -> Self::F;
    /// Asks for the cache line of `at` in the second-level cache. A hint: it reads nothing.
    fn prefetch<T>(self, _at: &T) {}
}
