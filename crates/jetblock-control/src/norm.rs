//! Norms that sum in as many lanes as the vectors have.

use jetblock_numerics::Lanes;
use jetblock_numerics::math::silu;
use jetblock_ops::rms_norm::RmsNorm;
use jetblock_ops::rms_norm_gated::RmsNormGated;
use jetblock_simd::{Cpu, Kernel, Simd};

const GRAIN_ROWS: usize = 4;

pub(crate) fn rms_norm(cpu: &Cpu, args: &RmsNorm<'_>, out: &mut [f32]) {
    let width = args.weight.len();
    cpu.par_rows(out, width, GRAIN_ROWS, |first, rows| {
        for (i, row) in rows.chunks_exact_mut(width).enumerate() {
            row.copy_from_slice(&args.x[(first + i) * width..][..width]);
            cpu.run(Norm {
                row,
                weight: args.weight,
                eps: args.eps,
            });
        }
    });
}

pub(crate) fn rms_norm_gated(cpu: &Cpu, args: &RmsNormGated<'_>, out: &mut [f32]) {
    let inner = args.weight.len();
    let width = inner / args.groups;
    cpu.par_rows(out, inner, GRAIN_ROWS, |first, rows| {
        for (i, row) in rows.chunks_exact_mut(inner).enumerate() {
            cpu.run(Gate {
                y: &args.y[(first + i) * inner..][..inner],
                z: args.z.row(first + i),
                out: row,
            });
            for (group, weight) in row
                .chunks_exact_mut(width)
                .zip(args.weight.chunks_exact(width))
            {
                cpu.run(Norm {
                    row: group,
                    weight,
                    eps: args.eps,
                });
            }
        }
    });
}

struct Gate<'a> {
    y: &'a [f32],
    z: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Gate<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let whole = self.out.len() / S::LANES * S::LANES;
        for at in (0..whole).step_by(S::LANES) {
            let gated = simd.load(&self.y[at..]).mul(silu(simd.load(&self.z[at..])));
            simd.store(gated, &mut self.out[at..]);
        }
        for at in whole..self.out.len() {
            self.out[at] = self.y[at] * silu(self.z[at]);
        }
    }
}

struct Norm<'a> {
    row: &'a mut [f32],
    weight: &'a [f32],
    eps: f32,
}

impl Kernel for Norm<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Norm { row, weight, eps } = self;
        let width = row.len();
        let whole = width / S::LANES * S::LANES;
        let mut acc = S::F::splat(0.0);
        for at in (0..whole).step_by(S::LANES) {
            let x = simd.load(&row[at..]);
            acc = x.fma(x, acc);
        }
        let mut lanes = [0.0; 16];
        simd.store(acc, &mut lanes);
        let mut sum = lanes[..S::LANES].iter().fold(0.0, |sum, x| sum + x);
        sum = row[whole..].iter().fold(sum, |sum, x| sum + x * x);
        let r = 1.0 / (sum / width as f32 + eps).sqrt();
        for at in (0..whole).step_by(S::LANES) {
            let y = simd
                .load(&row[at..])
                .mul(S::F::splat(r))
                .mul(simd.load(&weight[at..]));
            simd.store(y, &mut row[at..]);
        }
        for at in whole..width {
            row[at] = row[at] * r * weight[at];
        }
    }
}
