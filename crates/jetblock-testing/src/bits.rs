//! Comparison of raw bit patterns: `==` would call `-0` and `+0` equal and no NaN equal to itself.

use std::fmt;

/// Values compared by their bit pattern.
pub trait Bits: Copy + fmt::Debug {
    /// The pattern, widened.
    fn pattern(self) -> u64;
    /// Hexadecimal digits of a pattern.
    const DIGITS: usize;
}

/// Expands to `impl Bits for u32 { .. }` and so on: the value itself, or the pattern `to_bits` gives.
macro_rules! impl_bits {
    ($($t:ty: $digits:literal, $pattern:expr;)*) => {$(
        impl Bits for $t {
            const DIGITS: usize = $digits;
            fn pattern(self) -> u64 {
                let pattern: fn($t) -> u64 = $pattern;
                pattern(self)
            }
        }
    )*};
}

impl_bits! {
    f32: 8, |v| u64::from(v.to_bits());
    f64: 16, |v| v.to_bits();
    u8: 2, u64::from;
    u16: 4, u64::from;
    u32: 8, u64::from;
    u64: 16, |v| v;
    i32: 8, |v| u64::from(v.cast_unsigned());
}

/// The first place where two slices differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference<T> {
    /// Index.
    pub index: usize,
    /// Value in the first slice.
    pub got: T,
    /// Value in the second slice.
    pub want: T,
    /// How many elements differ.
    pub count: usize,
}

impl<T: Bits> fmt::Display for Difference<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = T::DIGITS;
        write!(
            f,
            "index {}: got {:0digits$X} ({:?}), want {:0digits$X} ({:?}); {} elements differ",
            self.index,
            self.got.pattern(),
            self.got,
            self.want.pattern(),
            self.want,
            self.count
        )
    }
}

/// The first difference in bits, if any.
///
/// # Panics
/// If the lengths differ.
pub fn first_difference<T: Bits>(got: &[T], want: &[T]) -> Option<Difference<T>> {
    assert_eq!(got.len(), want.len(), "slices differ in length");
    let differs = |i: &usize| got[*i].pattern() != want[*i].pattern();
    let index = (0..got.len()).find(differs)?;
    let count = (0..got.len()).filter(differs).count();
    Some(Difference {
        index,
        got: got[index],
        want: want[index],
        count,
    })
}

/// Panics with the first differing index and both values in hexadecimal.
#[track_caller]
pub fn assert_bits_equal<T: Bits>(what: impl fmt::Display, got: &[T], want: &[T]) {
    if let Some(difference) = first_difference(got, want) {
        panic!("{what}: {difference} of {}", got.len());
    }
}

/// The positive control: panics if a result that must be wrong was not noticed.
#[track_caller]
pub fn assert_bits_differ<T: Bits>(what: impl fmt::Display, broken: &[T], want: &[T]) {
    assert!(
        first_difference(broken, want).is_some(),
        "{what}: the broken variant gave the same bits"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_of_different_sign_differ_and_equal_nans_agree() {
        let a = [1.0, -0.0, f32::NAN];
        assert_eq!(first_difference(&a, &a), None);
        let difference = first_difference(&[1.0, 0.0, f32::NAN], &a).expect("the zeros differ");
        assert_eq!(
            difference.to_string(),
            "index 1: got 00000000 (0.0), want 80000000 (-0.0); 1 elements differ"
        );
    }

    #[test]
    #[should_panic(expected = "the broken variant gave the same bits")]
    fn a_control_that_changes_nothing_is_reported() {
        assert_bits_differ("control", &[1_u16], &[1_u16]);
    }
}
