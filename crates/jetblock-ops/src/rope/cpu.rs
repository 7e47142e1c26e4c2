//! rope with lanes over pairs, threads over rows.

use jetblock_numerics::{Lanes, canonical};
use jetblock_simd::{Cpu, Kernel, Simd, fp_env};

use super::Rope;
use crate::OpError;
use crate::row::{load_part, store_part};

/// Elements that are worth a thread's while.
const GRAIN: usize = 16 * 1024;

impl Rope<'_> {
    /// The same bits as [`Rope::reference`], faster.
    pub fn cpu(&self, x: &mut [f32], cpu: &Cpu) -> Result<(), OpError> {
        let width = self.check(x)?;
        if width == 0 {
            return Ok(());
        }
        let _guard = fp_env::Guard::new();
        cpu.par_rows(x, width, GRAIN.div_ceil(width), |first, x| {
            cpu.run(Rows {
                op: *self,
                first,
                width,
                x,
            });
        });
        Ok(())
    }
}

struct Rows<'a> {
    op: Rope<'a>,
    /// Row of the table of the first row of `x`.
    first: usize,
    width: usize,
    x: &'a mut [f32],
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let half = self.op.table.rotary_dim() / 2;
        for (row, x) in self.x.chunks_exact_mut(self.width).enumerate() {
            let (cos, sin) = self.op.table.row(self.first + row);
            for head in x.chunks_exact_mut(self.op.head_dim) {
                let (low, high) = head.split_at_mut(half);
                turn(simd, low, &mut high[..half], cos, sin);
            }
        }
    }
}

/// Turns the pairs (a[i], b[i]).
#[inline(always)]
fn turn<S: Simd>(simd: S, a: &mut [f32], b: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = a.len();
    let mut i = 0;
    while i < half {
        let end = half.min(i + S::LANES);
        let (x, y) = (load_part(simd, &a[i..end]), load_part(simd, &b[i..end]));
        let (c, s) = (load_part(simd, &cos[i..end]), load_part(simd, &sin[i..end]));
        store_part(simd, canonical(x.fma(c, y.mul(s).neg())), &mut a[i..end]);
        store_part(simd, canonical(y.fma(c, x.mul(s))), &mut b[i..end]);
        i = end;
    }
}
