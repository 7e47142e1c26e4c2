//! The meaning of rope, in plain loops.

use jetblock_numerics::{Lanes, canonical};

use super::Rope;
use crate::OpError;

impl Rope<'_> {
    /// The definition, in place.
    pub fn reference(&self, x: &mut [f32]) -> Result<(), OpError> {
        let width = self.check(x)?;
        let half = self.table.rotary_dim() / 2;
        for row in 0..self.table.rows() {
            let (cos, sin) = self.table.row(row);
            for head in x[row * width..][..width].chunks_mut(self.head_dim) {
                for i in 0..half {
                    let (a, b) = (head[i], head[i + half]);
                    head[i] = canonical(a.fma(cos[i], -(b * sin[i])));
                    head[i + half] = canonical(b.fma(cos[i], a * sin[i]));
                }
            }
        }
        Ok(())
    }
}
