//! bf16 and f16 to f32 and back: by the vectors and threads of the operators, in memory that is used again.

use std::mem;
use std::ops::{Deref, DerefMut};
use std::sync::Mutex;

use jetblock_numerics::round;
use jetblock_simd::{Cpu, Kernel, Simd};

use crate::tensor::Element;

/// Elements worth a thread of their own.
const GRAIN: usize = 1 << 15;
/// Buffers that wait for their next use, and the elements of the largest kept: fresh memory costs more than converting.
const KEPT: usize = 4;
const KEPT_LEN: usize = 1 << 24;

static BUFFERS: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// Memory for f32 values.
pub(crate) struct Buffer(Vec<f32>);

impl Buffer {
    /// `len` elements of any value.
    pub(crate) fn new(len: usize) -> Buffer {
        let mut kept = BUFFERS.lock().expect("no holder of the lock panics");
        let fits = kept.iter().position(|buffer| buffer.capacity() >= len);
        let buffer = fits.map(|at| kept.swap_remove(at));
        drop(kept);
        match buffer {
            Some(mut buffer) => {
                buffer.resize(len, 0.0);
                Buffer(buffer)
            }
            None => Buffer(vec![0.0; len]),
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut kept = BUFFERS.lock().expect("no holder of the lock panics");
        if self.0.capacity() <= KEPT_LEN {
            if kept.len() == KEPT {
                kept.remove(0);
            }
            kept.push(mem::take(&mut self.0));
        }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

/// The elements of an array as f32: where they lie, or in memory of their own.
pub(crate) enum Values<'a> {
    InPlace(&'a [f32]),
    Own(Buffer),
}

impl Deref for Values<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Values::InPlace(values) => values,
            Values::Own(values) => values,
        }
    }
}

/// Widens bf16 or f16 exactly; NaN becomes canonical.
pub(crate) fn widen(words: &[u16], element: Element, cpu: &Cpu) -> Buffer {
    let mut values = Buffer::new(words.len());
    cpu.par_rows(&mut values, 1, GRAIN, |first, values| {
        let words = &words[first..first + values.len()];
        cpu.run(Widen {
            words,
            element,
            values,
        });
    });
    values
}

/// Rounds to bf16 or f16.
pub(crate) fn narrow(values: &[f32], element: Element, words: &mut [u16], cpu: &Cpu) {
    cpu.par_rows(words, 1, GRAIN, |first, words| {
        let values = &values[first..first + words.len()];
        cpu.run(Narrow {
            values,
            element,
            words,
        });
    });
}

struct Widen<'a> {
    words: &'a [u16],
    element: Element,
    values: &'a mut [f32],
}

impl Kernel for Widen<'_> {
    type Output = ();

    /// Plain loops: the compiler turns them into vectors of the level's width.
    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        let pairs = self.values.iter_mut().zip(self.words);
        if self.element == Element::BF16 {
            for (value, &word) in pairs {
                *value = round::bf16_to_f32(word);
            }
        } else {
            for (value, &word) in pairs {
                *value = round::f16_to_f32(word);
            }
        }
    }
}

struct Narrow<'a> {
    values: &'a [f32],
    element: Element,
    words: &'a mut [u16],
}

impl Kernel for Narrow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        let pairs = self.words.iter_mut().zip(self.values);
        if self.element == Element::BF16 {
            for (word, &value) in pairs {
                *word = round::f32_to_bf16(value);
            }
        } else {
            for (word, &value) in pairs {
                *word = round::f32_to_f16(value);
            }
        }
    }
}
