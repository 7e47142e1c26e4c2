//! The meaning of argmax and argmin: one walk over each row.

use super::ArgMax;
use crate::OpError;

impl ArgMax<'_> {
    /// The definition.
    pub fn reference(&self, out: &mut [i64]) -> Result<(), OpError> {
        self.check(out)?;
        for (x, y) in self.x.chunks(self.row_len).zip(out) {
            let mut best = 0;
            for (i, &x_i) in x.iter().enumerate() {
                let better = match self.largest {
                    true => x_i > x[best],
                    false => x_i < x[best],
                };
                if !x[best].is_nan() && (better || x_i.is_nan()) {
                    best = i;
                }
            }
            *y = best as i64;
        }
        Ok(())
    }
}
