//! The meaning of softmax, in plain loops.

use jetblock_numerics::math::{exp, log};
use jetblock_numerics::{canonical, reduce};

use super::{Scale, Softmax};
use crate::OpError;

impl Softmax<'_> {
    /// The definition.
    pub fn reference(&self, out: &mut [f32]) -> Result<(), OpError> {
        self.check_out(out)?;
        for (x, y) in self
            .x
            .chunks(self.row_len)
            .zip(out.chunks_mut(self.row_len))
        {
            let m = reduce::max(x);
            let p: Vec<f32> = x.iter().map(|x| exp(x - m)).collect();
            let l = reduce::sum(&p);
            for i in 0..x.len() {
                y[i] = canonical(match self.scale {
                    Scale::Linear => p[i] / l,
                    Scale::Log => (x[i] - m) - log(l),
                });
            }
        }
        Ok(())
    }
}
