//! cumsum with lanes over rows that lie side by side; a row by itself is a chain, which no vector shortens.

use jetblock_numerics::reduce::CUMSUM_BLOCK;
use jetblock_numerics::{Lanes, canonical, reduce};
use jetblock_simd::{Cpu, Kernel, Simd, fp_env};

use super::Cumsum;
use crate::OpError;
use crate::row::{load_part, store_part};

/// Elements that are worth a thread's while.
const GRAIN: usize = 16 * 1024;

impl Cumsum<'_> {
    /// The same bits as [`Cumsum::reference`], faster.
    pub fn cpu(&self, out: &mut [f32], cpu: &Cpu) -> Result<(), OpError> {
        self.check(out)?;
        let _guard = fp_env::Guard::new();
        let slab = self.len * self.inner;
        cpu.par_rows(out, slab, GRAIN.div_ceil(slab), |first, out| {
            let x = &self.x[first * slab..][..out.len()];
            for (x, out) in x.chunks(slab).zip(out.chunks_mut(slab)) {
                if self.inner == 1 {
                    reduce::cumsum(x, out);
                } else {
                    let inner = self.inner;
                    cpu.run(Columns { x, inner, out });
                }
            }
        });
        Ok(())
    }
}

/// Rows side by side.
struct Columns<'a> {
    x: &'a [f32],
    inner: usize,
    out: &'a mut [f32],
}

impl Kernel for Columns<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut at = 0;
        while at < self.inner {
            let end = self.inner.min(at + S::LANES);
            let zero = S::F::splat(0.0);
            let (mut offset, mut chain) = (zero, zero);
            for e in 0..self.x.len() / self.inner {
                if e > 0 && e % CUMSUM_BLOCK == 0 {
                    offset = offset.add(chain);
                    chain = zero;
                }
                let part = e * self.inner + at..e * self.inner + end;
                chain = chain.add(load_part(simd, &self.x[part.clone()]));
                store_part(simd, canonical(offset.add(chain)), &mut self.out[part]);
            }
            at = end;
        }
    }
}
