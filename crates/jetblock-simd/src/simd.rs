//! The vector interface that kernels are generic over.

use jetblock_numerics::lanes::Lanes;
use jetblock_numerics::{e2m1, e4m3};

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
    /// Loads the 4-bit codes `at..at + LANES`, one a lane; a byte holds two, the even one in its low half.
    ///
    /// `at` is a multiple of `LANES`. Bits above the four are arbitrary.
    fn load_nibbles(self, src: &[u8], at: usize) -> <Self::F as Lanes>::Int;
    /// The E2M1 values of the low four bits of each lane.
    #[inline(always)]
    fn e2m1(self, codes: <Self::F as Lanes>::Int) -> Self::F {
        e2m1::widen(codes)
    }
    /// Loads `LANES` pairs.
    fn load_pairs(self, src: &[u32]) -> Self::Pairs;
    /// Stores `LANES` pairs.
    fn store_pairs(self, pairs: Self::Pairs, dst: &mut [u32]);
    /// The same pair in every lane.
    fn splat_pair(self, pair: u32) -> Self::Pairs;
    /// `fma(x.even, w.even, fma(x.odd, w.odd, acc))`: two steps of the bf16 kind's chain.
    ///
    /// Operands must be flushed (NUMERICS.md section 2): then no step is subnormal and hardware that flushes agrees.
    fn dot_pairs(self, x: Self::Pairs, w: Self::Pairs, acc: Self::F) -> Self::F;
    /// Loads `LANES` bytes, each widened to an integer of its lane.
    fn load_u8(self, src: &[u8]) -> <Self::F as Lanes>::Int;
    /// The words of the pairs as integers.
    fn pairs_to_int(self, pairs: Self::Pairs) -> <Self::F as Lanes>::Int;
    /// The pairs with these words.
    fn pairs_from_int(self, words: <Self::F as Lanes>::Int) -> Self::Pairs;
    /// A table for [`Simd::look_up`].
    type Table: Copy;
    /// Makes a table of 16 bf16 operands.
    fn table(self, values: &[u16; 16]) -> Self::Table;
    /// In both halves of each word: the table's value at the index in the half's low four bits. Bits above are ignored.
    fn look_up(self, codes: Self::Pairs, table: Self::Table) -> Self::Pairs;
    /// In both halves of each word: the bf16 value of the E4M3 code in the half's low byte. Bits above are ignored. The
    /// codes must not be NaN (7F, FF).
    #[inline(always)]
    fn e4m3_to_pairs(self, codes: Self::Pairs) -> Self::Pairs {
        let words = self.pairs_to_int(codes);
        let even: Self::F = e4m3::widen(words);
        let odd: Self::F = e4m3::widen(Self::F::int_ushr::<16>(words));
        self.pairs_from_exact(even, odd)
    }
    /// In both halves of each word: the bf16 values of the signed integers in the half's low byte, then in its high byte.
    #[inline(always)]
    fn i8_to_pairs(self, codes: Self::Pairs) -> [Self::Pairs; 2] {
        let words = self.pairs_to_int(codes);
        let int = Self::F::int_shr::<24>;
        let (low_even, even) = (Self::F::int_shl::<24>(words), Self::F::int_shl::<16>(words));
        let (low_odd, odd) = (Self::F::int_shl::<8>(words), words);
        [
            self.pairs_from_exact(
                Self::F::from_int(int(low_even)),
                Self::F::from_int(int(low_odd)),
            ),
            self.pairs_from_exact(Self::F::from_int(int(even)), Self::F::from_int(int(odd))),
        ]
    }
    /// Pairs of values that bf16 holds exactly.
    #[inline(always)]
    fn pairs_from_exact(self, even: Self::F, odd: Self::F) -> Self::Pairs {
        let low = Self::F::int_ushr::<16>(even.to_bits());
        self.pairs_from_int(Self::F::int_or(low, odd.to_bits()))
    }
    /// The even elements of the pairs, widened.
    #[inline(always)]
    fn even(self, pairs: Self::Pairs) -> Self::F {
        Self::F::from_bits(Self::F::int_shl::<16>(self.pairs_to_int(pairs)))
    }
    /// The odd elements of the pairs, widened.
    #[inline(always)]
    fn odd(self, pairs: Self::Pairs) -> Self::F {
        let high = Self::F::splat_int(0xFFFF_0000_u32.cast_signed());
        Self::F::from_bits(Self::F::int_and(self.pairs_to_int(pairs), high))
    }
    /// Turns a square of `LANES` vectors: lane j of vector i becomes lane i of vector j.
    #[inline(always)]
    fn transpose(self, square: &mut [Self::F]) {
        assert!(square.len() == Self::LANES && Self::LANES <= 16);
        let mut values = [[0.0_f32; 16]; 16];
        for i in 0..Self::LANES {
            self.store(square[i], &mut values[i]);
        }
        for i in 0..Self::LANES {
            let mut column = [0.0_f32; 16];
            for j in 0..Self::LANES {
                column[j] = values[j][i];
            }
            square[i] = self.load(&column);
        }
    }
    /// Asks for the cache line of `at` in the second-level cache. A hint: it reads nothing.
    fn prefetch<T>(self, _at: &T) {}
}
