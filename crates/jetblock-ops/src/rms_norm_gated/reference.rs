//! The meaning of the gated norm, in plain loops.

use jetblock_numerics::math::silu;

use super::RmsNormGated;
use crate::OpError;
use crate::rms_norm::normalize_reference;

impl RmsNormGated<'_> {
    /// The definition.
    pub fn reference(&self, out: &mut [f32]) -> Result<(), OpError> {
        self.check_out(out)?;
        let (inner, width) = (self.weight.len(), self.width());
        for (r, out) in out.chunks_mut(inner).enumerate() {
            let (y, z) = (&self.y[r * inner..], self.z.row(r));
            for i in 0..inner {
                out[i] = y[i] * silu(z[i]);
            }
            for (group, weight) in out.chunks_mut(width).zip(self.weight.chunks(width)) {
                normalize_reference(group, weight, self.eps);
            }
        }
        Ok(())
    }
}
