//! The meaning of cumsum, row by row.

use jetblock_numerics::reduce;

use super::Cumsum;
use crate::OpError;

impl Cumsum<'_> {
    /// The definition.
    pub fn reference(&self, out: &mut [f32]) -> Result<(), OpError> {
        self.check(out)?;
        let slab = self.len * self.inner;
        let mut sums = vec![0.0; self.len];
        for (x, out) in self.x.chunks(slab).zip(out.chunks_mut(slab)) {
            for i in 0..self.inner {
                let row: Vec<f32> = x[i..].iter().step_by(self.inner).copied().collect();
                reduce::cumsum(&row, &mut sums);
                for (e, sum) in sums.iter().enumerate() {
                    out[e * self.inner + i] = *sum;
                }
            }
        }
        Ok(())
    }
}
