//! Softmax with lanes over the elements of a row, threads over rows.

use jetblock_numerics::math::{exp, log};
use jetblock_numerics::{Lanes, canonical};
use jetblock_simd::{Cpu, Kernel, Simd, fp_env};

use super::{Scale, Softmax};
use crate::OpError;
use crate::row::{self, load_part, store_part};

/// Elements that are worth a thread's while.
const GRAIN: usize = 4 * 1024;

impl Softmax<'_> {
    /// The same bits as [`Softmax::reference`], faster.
    pub fn cpu(&self, out: &mut [f32], cpu: &Cpu) -> Result<(), OpError> {
        self.check_out(out)?;
        let _guard = fp_env::Guard::new();
        cpu.par_rows(
            out,
            self.row_len,
            GRAIN.div_ceil(self.row_len),
            |first, out| {
                let x = &self.x[first * self.row_len..][..out.len()];
                cpu.run(Rows {
                    x,
                    row_len: self.row_len,
                    scale: self.scale,
                    out,
                });
            },
        );
        Ok(())
    }
}

/// One element of a log softmax.
pub(super) fn log_prob(row: &[f32], index: usize, cpu: &Cpu) -> f32 {
    let _guard = fp_env::Guard::new();
    let (m, l) = cpu.run(Norm {
        x: row,
        p: &mut vec![0.0; row.len()],
    });
    canonical((row[index] - m) - log(l))
}

/// Fills `p = exp(x - m)`; returns m and the sum of p.
struct Norm<'a> {
    x: &'a [f32],
    p: &'a mut [f32],
}

impl Kernel for Norm<'_> {
    type Output = (f32, f32);

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> (f32, f32) {
        let m = row::max(simd, self.x);
        for (x, p) in self.x.chunks(S::LANES).zip(self.p.chunks_mut(S::LANES)) {
            store_part(simd, exp(load_part(simd, x).sub(S::F::splat(m))), p);
        }
        (m, row::sum(simd, self.p))
    }
}

struct Rows<'a> {
    x: &'a [f32],
    row_len: usize,
    scale: Scale,
    out: &'a mut [f32],
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (x, y) in self
            .x
            .chunks_exact(self.row_len)
            .zip(self.out.chunks_exact_mut(self.row_len))
        {
            let (m, l) = Norm { x, p: &mut *y }.run(simd);
            match self.scale {
                Scale::Linear => {
                    for y in y.chunks_mut(S::LANES) {
                        store_part(simd, canonical(load_part(simd, y).div(S::F::splat(l))), y);
                    }
                }
                Scale::Log => {
                    let log_l = S::F::splat(log(l));
                    for (x, y) in x.chunks(S::LANES).zip(y.chunks_mut(S::LANES)) {
                        store_part(
                            simd,
                            canonical(load_part(simd, x).sub(S::F::splat(m)).sub(log_l)),
                            y,
                        );
                    }
                }
            }
        }
    }
}
