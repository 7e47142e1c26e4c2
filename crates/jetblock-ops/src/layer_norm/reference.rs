//! The meaning of layer_norm, in plain loops.

use jetblock_numerics::{canonical, reduce};

use super::LayerNorm;
use crate::OpError;

impl LayerNorm<'_> {
    /// The definition.
    pub fn reference(&self, out: &mut [f32]) -> Result<(), OpError> {
        self.check_out(out)?;
        let rows = self.x.chunks(self.row_len);
        for (x, y) in rows.zip(out.chunks_mut(self.row_len)) {
            y.copy_from_slice(x);
            standardize(y, self.eps);
            for (i, y) in y.iter_mut().enumerate() {
                let scaled = self.weight.map_or(*y, |weight| *y * weight[i]);
                *y = canonical(self.bias.map_or(scaled, |bias| scaled + bias[i]));
            }
        }
        Ok(())
    }
}

/// Brings a row to mean 0 and variance 1.
pub(crate) fn standardize(row: &mut [f32], eps: f32) {
    let count = row.len() as f32;
    let mean = reduce::sum(row) / count;
    row.iter_mut().for_each(|x| *x -= mean);
    let variance = reduce::sum_of_squares(row) / count;
    let r = 1.0 / (variance + eps).sqrt();
    row.iter_mut().for_each(|d| *d *= r);
}
