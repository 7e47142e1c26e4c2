//! layer_norm with lanes over the elements of a row, threads over rows.

use jetblock_numerics::{Lanes, canonical};
use jetblock_simd::{Cpu, Kernel, Simd, fp_env};

use super::LayerNorm;
use crate::OpError;
use crate::row::{load_part, moments, store_part};

/// Elements that are worth a thread's while.
const GRAIN: usize = 16 * 1024;

impl LayerNorm<'_> {
    /// The same bits as [`LayerNorm::reference`], faster.
    pub fn cpu(&self, out: &mut [f32], cpu: &Cpu) -> Result<(), OpError> {
        self.check_out(out)?;
        let _guard = fp_env::Guard::new();
        let grain = GRAIN.div_ceil(self.row_len);
        cpu.par_rows(out, self.row_len, grain, |first, out| {
            let x = &self.x[first * self.row_len..][..out.len()];
            cpu.run(Rows {
                op: LayerNorm { x, ..*self },
                out,
            });
        });
        Ok(())
    }
}

struct Rows<'a> {
    op: LayerNorm<'a>,
    out: &'a mut [f32],
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let LayerNorm {
            x,
            row_len,
            weight,
            bias,
            eps,
        } = self.op;
        for (x, out) in x.chunks(row_len).zip(self.out.chunks_mut(row_len)) {
            let (mean, r) = moments(simd, x, eps);
            let mut at = 0;
            while at < row_len {
                let part = at..row_len.min(at + S::LANES);
                let d = load_part(simd, &x[part.clone()]).sub(S::F::splat(mean));
                let mut y = d.mul(S::F::splat(r));
                if let Some(weight) = weight {
                    y = y.mul(load_part(simd, &weight[part.clone()]));
                }
                if let Some(bias) = bias {
                    y = y.add(load_part(simd, &bias[part.clone()]));
                }
                store_part(simd, canonical(y), &mut out[part]);
                at += S::LANES;
            }
        }
    }
}
