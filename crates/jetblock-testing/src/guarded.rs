//! Output buffers that notice writes outside them and elements never written.

use std::ops::{Deref, DerefMut};

/// Elements of guard on each side.
const GUARD: usize = 64;
/// A NaN with a payload that no operator stores (operators store canonical NaNs).
const PAINT: u32 = 0xFFBA_DBAD;

/// A slice of f32 with guards on both sides; it starts out filled with a pattern no operator stores.
///
/// Safe code cannot write outside a slice, but a kernel that is handed a longer slice than its share can.
#[derive(Debug)]
pub struct Guarded {
    data: Vec<f32>,
}

impl Guarded {
    /// `len` elements between guards.
    pub fn new(len: usize) -> Guarded {
        Guarded {
            data: vec![f32::from_bits(PAINT); len + 2 * GUARD],
        }
    }

    /// Panics if a guard changed or an element was never written.
    #[track_caller]
    pub fn assert_intact(&self) {
        let untouched = |v: &f32| v.to_bits() == PAINT;
        let (head, tail) = (&self.data[..GUARD], &self.data[self.data.len() - GUARD..]);
        assert!(
            head.iter().chain(tail).all(untouched),
            "a guard was overwritten"
        );
        if let Some(index) = self.iter().position(untouched) {
            panic!("element {index} of {} was never written", self.len());
        }
    }
}

impl Deref for Guarded {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.data[GUARD..self.data.len() - GUARD]
    }
}

impl DerefMut for Guarded {
    fn deref_mut(&mut self) -> &mut [f32] {
        let end = self.data.len() - GUARD;
        &mut self.data[GUARD..end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "element 2 of 3 was never written")]
    fn an_unwritten_element_is_reported() {
        let mut out = Guarded::new(3);
        out[0] = 1.0;
        out[1] = 2.0;
        out.assert_intact();
    }
}
