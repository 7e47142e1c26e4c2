//! The meaning of group_norm, in plain loops.

use jetblock_numerics::canonical;

use super::GroupNorm;
use crate::OpError;
use crate::layer_norm::standardize;

impl GroupNorm<'_> {
    /// The definition.
    pub fn reference(&self, out: &mut [f32]) -> Result<(), OpError> {
        self.check_out(out)?;
        out.copy_from_slice(self.x);
        for group in out.chunks_mut(self.row_len()) {
            standardize(group, self.eps);
        }
        for (i, y) in out.iter_mut().enumerate() {
            let channel = i / self.positions % self.channels;
            let scaled = self.weight.map_or(*y, |weight| *y * weight[channel]);
            *y = canonical(self.bias.map_or(scaled, |bias| scaled + bias[channel]));
        }
        Ok(())
    }
}
