//! argmax at vector speed: the maximum first, then the first element that equals it.

use jetblock_simd::{Cpu, Kernel, Simd, fp_env};

use super::ArgMax;
use crate::OpError;
use crate::row;

/// Elements that are worth a thread's while.
const GRAIN: usize = 32 * 1024;

impl ArgMax<'_> {
    /// The same indices as [`ArgMax::reference`], faster.
    pub fn cpu(&self, out: &mut [i64], cpu: &Cpu) -> Result<(), OpError> {
        self.check(out)?;
        let _guard = fp_env::Guard::new();
        cpu.par_rows(out, 1, GRAIN.div_ceil(self.row_len), |first, out| {
            let x = &self.x[first * self.row_len..][..out.len() * self.row_len];
            for (x, y) in x.chunks(self.row_len).zip(out) {
                let extreme = cpu.run(Extreme {
                    x,
                    largest: self.largest,
                });
                let place = match extreme.is_nan() {
                    true => x.iter().position(|x| x.is_nan()),
                    false => x.iter().position(|&x| x == extreme),
                };
                *y = place.expect("the extreme is an element") as i64;
            }
        });
        Ok(())
    }
}

struct Extreme<'a> {
    x: &'a [f32],
    largest: bool,
}

impl Kernel for Extreme<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        if self.largest {
            row::max(simd, self.x)
        } else {
            row::min(simd, self.x)
        }
    }
}
