//! Reductions with the 32 lanes of a row in vectors, or, where rows lie side by side, with vectors over rows.

use jetblock_numerics::canonical;
use jetblock_simd::{Cpu, Kernel, Simd, fp_env};

use super::columns::{TILE, Tile};
use super::{Reduce, Reduction};
use crate::OpError;
use crate::row;

/// Elements that are worth a thread's while.
const GRAIN: usize = 32 * 1024;

impl Reduce<'_> {
    /// The same bits as [`Reduce::reference`], faster.
    pub fn cpu(&self, out: &mut [f32], cpu: &Cpu) -> Result<(), OpError> {
        self.check(out)?;
        let _guard = fp_env::Guard::new();
        let (len, inner) = (self.len, self.inner);
        if inner == 1 {
            cpu.par_rows(out, 1, GRAIN.div_ceil(len.max(1)), |first, out| {
                let x = &self.x[first * len..][..out.len() * len];
                cpu.run(Rows {
                    op: Reduce { x, ..*self },
                    out,
                });
            });
            return Ok(());
        }
        let mut tiles = Vec::new();
        for (o, out) in out.chunks_mut(inner).enumerate() {
            let x = &self.x[o * len * inner..][..len * inner];
            for (t, out) in out.chunks_mut(TILE).enumerate() {
                tiles.push(Tile {
                    reduction: self.reduction,
                    x: x.get(t * TILE..).unwrap_or_default(),
                    len,
                    stride: inner,
                    out,
                });
            }
        }
        cpu.par_items(tiles, |tile| cpu.run(tile));
        Ok(())
    }
}

struct Rows<'a> {
    op: Reduce<'a>,
    out: &'a mut [f32],
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (len, reduction) = (self.op.len, self.op.reduction);
        for (i, y) in self.out.iter_mut().enumerate() {
            let x = &self.op.x[i * len..][..len];
            let reduced = match reduction {
                Reduction::Sum | Reduction::Mean => row::sum(simd, x),
                Reduction::SumOfSquares => row::sum_of_squares(simd, x),
                Reduction::Var { .. } => {
                    let mean = row::sum(simd, x) / len as f32;
                    row::sum_of_deviations(simd, x, mean)
                }
                Reduction::Amax => row::max(simd, x),
                Reduction::Amin => row::min(simd, x),
            };
            *y = canonical(reduction.divide(reduced, len));
        }
    }
}
