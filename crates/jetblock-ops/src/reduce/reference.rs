//! The meaning of reductions, row by row.

use jetblock_numerics::{canonical, min, reduce};

use super::{Reduce, Reduction};
use crate::OpError;

impl Reduce<'_> {
    /// The definition.
    pub fn reference(&self, out: &mut [f32]) -> Result<(), OpError> {
        self.check(out)?;
        for (at, y) in out.iter_mut().enumerate() {
            let (o, i) = (at / self.inner, at % self.inner);
            let element = |e: usize| self.x[(o * self.len + e) * self.inner + i];
            let mut row: Vec<f32> = (0..self.len).map(element).collect();
            let reduced = match self.reduction {
                Reduction::Sum | Reduction::Mean => reduce::sum(&row),
                Reduction::SumOfSquares => reduce::sum_of_squares(&row),
                Reduction::Var { .. } => {
                    let mean = reduce::sum(&row) / self.len as f32;
                    row.iter_mut().for_each(|x| *x -= mean);
                    reduce::sum_of_squares(&row)
                }
                Reduction::Amax => reduce::max(&row),
                Reduction::Amin => row.iter().fold(f32::INFINITY, |m, &x| min(m, x)),
            };
            *y = canonical(self.reduction.divide(reduced, self.len));
        }
        Ok(())
    }
}
