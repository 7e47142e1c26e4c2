//! Pooling with windows as rows in a small buffer, threads over images.

use jetblock_numerics::canonical;
use jetblock_numerics::reduce::ROW_LANES;
use jetblock_simd::{Cpu, Kernel, Simd, fp_env};

use super::{Pool, Reach};
use crate::OpError;
use crate::row;

impl Pool<'_> {
    /// The same bits as [`Pool::reference`], faster.
    pub fn cpu(&self, out: &mut [f32], cpu: &Cpu) -> Result<(), OpError> {
        let output = self.check(out)?;
        let _guard = fp_env::Guard::new();
        let reaches = self.reaches(output);
        let from: usize = self.input_size.iter().product();
        let to: usize = output.iter().product();
        cpu.par_rows(out, to, 1, |first, out| {
            let images = self.x[first * from..].chunks(from);
            for (x, out) in images.zip(out.chunks_mut(to)) {
                cpu.run(Image {
                    op: self,
                    reaches: &reaches,
                    x,
                    out,
                });
            }
        });
        Ok(())
    }
}

struct Image<'a> {
    op: &'a Pool<'a>,
    reaches: &'a [Vec<Reach>; 3],
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Image<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let [_, height, width] = self.op.input_size;
        let largest = self.op.largest();
        let mut window = Vec::new();
        let mut at = 0;
        for d in &self.reaches[0] {
            for h in &self.reaches[1] {
                for w in &self.reaches[2] {
                    window.clear();
                    for d in d.inputs.clone().step_by(d.step) {
                        for h in h.inputs.clone().step_by(h.step) {
                            let line = &self.x[(d * height + h) * width..][..width];
                            let mut w_at = w.inputs.start;
                            while w_at < w.inputs.end {
                                window.push(line[w_at]);
                                w_at += w.step;
                            }
                        }
                    }
                    self.out[at] = canonical(if largest {
                        max(simd, &window)
                    } else {
                        sum(simd, &mut window) / self.op.divisor([d, h, w])
                    });
                    at += 1;
                }
            }
        }
    }
}

/// [`row::sum`]; few elements, each in a lane of its own, are folded as they are.
#[inline(always)]
fn sum<S: Simd>(simd: S, x: &mut Vec<f32>) -> f32 {
    if x.len() > ROW_LANES {
        return row::sum(simd, x);
    }
    let mut half = x.len().next_power_of_two();
    x.resize(half, 0.0);
    while half > 1 {
        half /= 2;
        for j in 0..half {
            x[j] += x[j + half];
        }
    }
    // Lanes start at +0, so that no sum is -0.
    x[0] + 0.0
}

#[inline(always)]
fn max<S: Simd>(simd: S, x: &[f32]) -> f32 {
    if x.len() > ROW_LANES {
        return row::max(simd, x);
    }
    let mut most = f32::NEG_INFINITY;
    for &x in x {
        most = jetblock_numerics::max(most, x);
    }
    most
}
