//! The meaning of rms_norm, in plain loops.

use jetblock_numerics::{canonical, reduce};

use super::RmsNorm;
use crate::OpError;

impl RmsNorm<'_> {
    /// The definition.
    pub fn reference(&self, out: &mut [f32]) -> Result<(), OpError> {
        self.check_out(out)?;
        let width = self.weight.len();
        for (x, y) in self.x.chunks(width).zip(out.chunks_mut(width)) {
            y.copy_from_slice(x);
            normalize_reference(y, self.weight, self.eps);
        }
        Ok(())
    }
}

/// Normalises one row in place.
pub(crate) fn normalize_reference(row: &mut [f32], weight: &[f32], eps: f32) {
    let mean_square = reduce::sum_of_squares(row) / row.len() as f32;
    let r = 1.0 / (mean_square + eps).sqrt();
    for (y, w) in row.iter_mut().zip(weight) {
        *y = canonical((*y * r) * w);
    }
}
