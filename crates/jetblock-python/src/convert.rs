//! Memory for values on their way between Python's dtypes and f32, used again from call to call.

use std::mem;
use std::ops::{Deref, DerefMut};
use std::sync::Mutex;

/// Buffers that wait for their next use, and the elements of the largest kept: fresh memory costs more than converting.
const KEPT: usize = 4;
const KEPT_LEN: usize = 1 << 20;

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
