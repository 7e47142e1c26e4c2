//! Resizing: nearest, linear in up to three dimensions, cubic.
//!
//! Each output position of an axis has taps: input positions with weights. The axes are taken one after another,
//! width first, then height, then depth: `y = w_0 * x_0`, then `y = fma(w_i, x_i, y)`, taps ascending. An axis whose length does
//! not change is left as it is. Source: `torch.nn.functional.interpolate` without antialiasing; NUMERICS.md section 13.7.
//!
//! | name | shape | dtype |
//! |---|---|---|
//! | x | `[B * C, D, H, W]` | f32 |
//! | y | `[B * C, D', H', W']` | f32 |
//!
//! Rounding points: positions and weights in binary64, then weights to f32; each product and fused step.

mod axis;
mod cpu;
mod reference;
#[cfg(test)]
mod tests;

use crate::OpError;
use axis::Axis;

/// How values between inputs are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The input at or before the position.
    Nearest,
    /// The input nearest to the centre of the output.
    NearestExact,
    /// Between two neighbours (bilinear, trilinear).
    Linear,
    /// Through four neighbours, Keys' kernel with a = -0.75 (bicubic).
    Cubic,
}

/// Arguments of resizing.
#[derive(Clone, Copy, Debug)]
pub struct Upsample<'a> {
    /// `[B * C, D, H, W]`.
    pub x: &'a [f32],
    /// D, H, W.
    pub input_size: [usize; 3],
    /// D', H', W'.
    pub output_size: [usize; 3],
    /// How.
    pub mode: Mode,
    /// The corners of input and output coincide (linear and cubic).
    pub align_corners: bool,
    /// Outputs per input where they were given as numbers; 0 where they follow from the sizes.
    pub scale_factor: [f64; 3],
}

impl Upsample<'_> {
    const NAME: &'static str = "upsample";

    fn check(&self, out: &[f32]) -> Result<(), OpError> {
        let extents = [self.input_size, self.output_size];
        let scales = self.scale_factor.iter();
        let fair = scales.into_iter().all(|s| s.is_finite() && *s >= 0.0);
        if extents.iter().any(|size| size.contains(&0)) || !fair {
            return Err(OpError::Value {
                op: Self::NAME,
                arg: "sizes and scale factors",
                expected: "positive".into(),
                got: format!(
                    "{:?} to {:?}, {:?}",
                    self.input_size, self.output_size, self.scale_factor
                ),
            });
        }
        let len = |size: [usize; 3]| size.iter().fold(1_usize, |a, &b| a.saturating_mul(b));
        let (from, to) = (len(self.input_size), len(self.output_size));
        OpError::check_rows(Self::NAME, "x [B * C, D, H, W]", self.x.len(), from)?;
        let expected = (self.x.len() / from).saturating_mul(to);
        OpError::check_len(Self::NAME, "out [B * C, D', H', W']", out.len(), expected)
    }

    /// Of each axis the taps, or nothing where it is left as it is.
    fn axes(&self) -> [Option<Axis>; 3] {
        [0, 1, 2].map(|i| {
            let (from, to) = (self.input_size[i], self.output_size[i]);
            (from != to).then(|| Axis::new(self, i))
        })
    }
}
