//! The meaning of resizing: each output from its taps, axis inside axis.

use jetblock_numerics::{canonical, fma};

use super::Upsample;
use super::axis::Axis;
use crate::OpError;

impl Upsample<'_> {
    /// The definition.
    pub fn reference(&self, out: &mut [f32]) -> Result<(), OpError> {
        self.check(out)?;
        let axes = self.axes();
        let [_, rows, columns] = self.input_size;
        let from: usize = self.input_size.iter().product();
        let [depth, height, width] = self.output_size;
        for (i, y) in out.iter_mut().enumerate() {
            let (w, i) = (i % width, i / width);
            let (h, i) = (i % height, i / height);
            let (d, image) = (i % depth, i / depth);
            let x = &self.x[image * from..][..from];
            *y = canonical(tap(&axes[0], d, |d| {
                tap(&axes[1], h, |h| {
                    tap(&axes[2], w, |w| x[(d * rows + h) * columns + w])
                })
            }));
        }
        Ok(())
    }
}

fn tap(axis: &Option<Axis>, output: usize, x: impl Fn(usize) -> f32) -> f32 {
    let Some(axis) = axis else {
        return x(output);
    };
    let taps = output * axis.taps..(output + 1) * axis.taps;
    let (inputs, weights) = (&axis.inputs[taps.clone()], &axis.weights[taps]);
    if axis.taps == 1 {
        return x(inputs[0]);
    }
    let mut y = weights[0] * x(inputs[0]);
    for i in 1..axis.taps {
        y = fma(weights[i], x(inputs[i]), y);
    }
    y
}
