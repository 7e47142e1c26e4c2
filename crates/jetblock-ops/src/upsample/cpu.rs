//! Resizing axis by axis: along the width a line at a time, then whole lines are mixed.

use jetblock_numerics::{Lanes, canonical};
use jetblock_simd::{Cpu, Kernel, Level, Simd, fp_env};

use super::Upsample;
use super::axis::Axis;
use crate::OpError;
use crate::row::{load_part, store_part};

impl Upsample<'_> {
    /// The same bits as [`Upsample::reference`], faster.
    pub fn cpu(&self, out: &mut [f32], cpu: &Cpu) -> Result<(), OpError> {
        self.check(out)?;
        let _guard = fp_env::Guard::new();
        let axes = self.axes();
        let from: usize = self.input_size.iter().product();
        let to: usize = self.output_size.iter().product();
        cpu.par_rows(out, to, 1, |first, out| {
            let mut scratch = [Vec::new(), Vec::new()];
            let images = self.x[first * from..].chunks(from);
            for (x, out) in images.zip(out.chunks_mut(to)) {
                self.image(cpu.level(), &axes, x, &mut scratch, out);
            }
        });
        Ok(())
    }

    fn image(
        &self,
        level: Level,
        axes: &[Option<Axis>; 3],
        x: &[f32],
        scratch: &mut [Vec<f32>; 2],
        out: &mut [f32],
    ) {
        let [lines, rows] = scratch;
        let [depth, height, _] = self.input_size;
        let [_, to_height, to_width] = self.output_size;
        let mut x = x;
        if let Some(axis) = &axes[2] {
            lines.resize(depth * height * to_width, 0.0);
            let pairs = x.chunks(self.input_size[2]).zip(lines.chunks_mut(to_width));
            for (x, out) in pairs {
                level.run(Line { axis, x, out });
            }
            x = &lines[..];
        }
        let plane = to_height * to_width;
        let mix = |axis: &Axis, x: &[f32], out: &mut [f32]| {
            for (x, out) in x.chunks(height * to_width).zip(out.chunks_mut(plane)) {
                let len = to_width;
                level.run(Mix { axis, x, len, out });
            }
        };
        match (&axes[0], &axes[1]) {
            (None, None) => {
                for (y, &x) in out.iter_mut().zip(x) {
                    *y = canonical(x);
                }
            }
            (None, Some(height)) => mix(height, x, out),
            (Some(depth), None) => {
                let (axis, len) = (depth, plane);
                level.run(Mix { axis, x, len, out });
            }
            (Some(axis), Some(height)) => {
                rows.resize(depth * plane, 0.0);
                mix(height, x, rows);
                let (x, len) = (&rows[..], plane);
                level.run(Mix { axis, x, len, out });
            }
        }
    }
}

/// Outputs of one line from its inputs. Another axis, or a copy, makes NaN canonical.
struct Line<'a> {
    axis: &'a Axis,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Line<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let taps = self.axis.taps;
        if taps == 1 {
            for (y, &input) in self.out.iter_mut().zip(&self.axis.inputs) {
                *y = self.x[input];
            }
            return;
        }
        let (mut values, mut weights) = ([0.0_f32; 32], [0.0_f32; 32]);
        let mut at = 0;
        while at < self.out.len() {
            let end = self.out.len().min(at + S::LANES);
            let mut y = S::F::splat(0.0);
            for tap in 0..taps {
                for o in at..end {
                    values[o - at] = self.x[self.axis.inputs[o * taps + tap]];
                    weights[o - at] = self.axis.weights[o * taps + tap];
                }
                let (x, w) = (simd.load(&values), simd.load(&weights));
                y = if tap == 0 { w.mul(x) } else { w.fma(x, y) };
            }
            store_part(simd, y, &mut self.out[at..end]);
            at = end;
        }
    }
}

/// Runs of `len` values, each a mixture of runs of x.
struct Mix<'a> {
    axis: &'a Axis,
    x: &'a [f32],
    len: usize,
    out: &'a mut [f32],
}

impl Kernel for Mix<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (taps, len) = (self.axis.taps, self.len);
        for (o, out) in self.out.chunks_mut(len).enumerate() {
            let mut at = 0;
            while at < len {
                let end = len.min(at + S::LANES);
                let mut y = S::F::splat(0.0);
                for tap in 0..taps {
                    let start = self.axis.inputs[o * taps + tap] * len;
                    let x = load_part(simd, &self.x[start + at..start + end]);
                    let w = S::F::splat(self.axis.weights[o * taps + tap]);
                    y = match (tap, taps) {
                        (0, 1) => x,
                        (0, _) => w.mul(x),
                        _ => w.fma(x, y),
                    };
                }
                store_part(simd, canonical(y), &mut out[at..end]);
                at = end;
            }
        }
    }
}
