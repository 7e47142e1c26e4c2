//! rms_norm with lanes over the elements of a row, threads over rows.

use jetblock_numerics::{Lanes, canonical};
use jetblock_simd::{Cpu, Kernel, Simd, fp_env};

use super::RmsNorm;
use crate::OpError;
use crate::row::{load_part, store_part, sum_of_squares};

/// Elements that are worth a thread's while.
const GRAIN: usize = 16 * 1024;

impl RmsNorm<'_> {
    /// The same bits as [`RmsNorm::reference`], faster.
    pub fn cpu(&self, out: &mut [f32], cpu: &Cpu) -> Result<(), OpError> {
        self.check_out(out)?;
        let _guard = fp_env::Guard::new();
        let width = self.weight.len();
        cpu.par_rows(out, width, GRAIN.div_ceil(width), |first, out| {
            let x = &self.x[first * width..][..out.len()];
            cpu.run(Rows {
                x,
                weight: self.weight,
                eps: self.eps,
                out,
            });
        });
        Ok(())
    }
}

struct Rows<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let width = self.weight.len();
        for (x, y) in self
            .x
            .chunks_exact(width)
            .zip(self.out.chunks_exact_mut(width))
        {
            normalize(simd, x, self.weight, self.eps, y);
        }
    }
}

/// Normalises one row.
#[inline(always)]
fn normalize<S: Simd>(simd: S, x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    let r = S::F::splat(reciprocal_rms(simd, x, eps));
    for ((x, w), y) in x
        .chunks(S::LANES)
        .zip(weight.chunks(S::LANES))
        .zip(y.chunks_mut(S::LANES))
    {
        store_part(simd, scale(load_part(simd, x), r, load_part(simd, w)), y);
    }
}

/// Normalises one row in place.
#[inline(always)]
pub(crate) fn normalize_in_place<S: Simd>(simd: S, row: &mut [f32], weight: &[f32], eps: f32) {
    let r = S::F::splat(reciprocal_rms(simd, row, eps));
    for (y, w) in row.chunks_mut(S::LANES).zip(weight.chunks(S::LANES)) {
        store_part(simd, scale(load_part(simd, y), r, load_part(simd, w)), y);
    }
}

#[inline(always)]
fn reciprocal_rms<S: Simd>(simd: S, x: &[f32], eps: f32) -> f32 {
    let mean_square = sum_of_squares(simd, x) / x.len() as f32;
    1.0 / (mean_square + eps).sqrt()
}

#[inline(always)]
fn scale<V: Lanes>(x: V, r: V, weight: V) -> V {
    canonical(x.mul(r).mul(weight))
}
