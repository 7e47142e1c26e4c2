//! The meaning of the activations, in plain loops.

use jetblock_numerics::math;

use super::Activation;
use crate::OpError;

impl Activation {
    /// The definition, of one value.
    pub fn scalar(self, x: f32) -> f32 {
        match self {
            Activation::Relu2 => math::relu2(x),
            Activation::Silu => math::silu(x),
            Activation::Sigmoid => math::sigmoid(x),
            Activation::Softplus => math::softplus(x),
            Activation::GeluTanh => math::gelu_tanh(x),
            Activation::GeluErf => math::gelu_erf(x),
            Activation::Exp => math::exp(x),
            Activation::Exp2 => math::exp2(x),
            Activation::Log => math::log(x),
            Activation::Log1p => math::log1p(x),
            Activation::Tanh => math::tanh(x),
            Activation::Erf => math::erf(x),
            Activation::Sin => math::sin(x),
            Activation::Cos => math::cos(x),
            Activation::Rsqrt => math::rsqrt(x),
        }
    }

    /// The definition.
    pub fn reference(self, x: &[f32], out: &mut [f32]) -> Result<(), OpError> {
        Activation::check(x, out)?;
        for (x, y) in x.iter().zip(out) {
            *y = self.scalar(*x);
        }
        Ok(())
    }
}
