//! The meaning of swiglu, in plain loops.

use jetblock_numerics::{canonical, math};

use super::SwiGlu;
use crate::OpError;

impl SwiGlu<'_> {
    /// The definition, in place of the gate.
    pub fn reference(&self, gate: &mut [f32]) -> Result<(), OpError> {
        self.check(gate)?;
        for (y, up) in gate.iter_mut().zip(self.up) {
            *y = canonical(math::silu(*y) * up);
        }
        Ok(())
    }
}
