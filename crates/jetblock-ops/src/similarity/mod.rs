//! How alike two images are: the mean squared difference, of which PSNR is a logarithm, and SSIM.
//!
//! NUMERICS.md section 13.9 has the formula. Source of SSIM: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment"
//! (2004), with the windows that `skimage.metrics.structural_similarity` takes unless told otherwise: 7 x 7, all of equal
//! weight, wholly inside the image, and sample (co)variances.
//!
//! | name | shape | dtype |
//! |---|---|---|
//! | left, right | `[H, W, C]`, values from 0 to 1 | f32 |
//! | mse, ssim | numbers | f64 |
//!
//! Rounding points: every operation, in binary64. It measures results and is not part of a model, so this scalar code is
//! the only one; its seven sums at a time are short beside a step of any diffusion model.

mod reference;
#[cfg(test)]
mod tests;

use crate::OpError;

/// Pixels a side of a window.
pub const WINDOW: usize = 7;

/// Arguments of similarity.
#[derive(Clone, Copy, Debug)]
pub struct Similarity<'a> {
    /// `[H, W, C]`.
    pub left: &'a [f32],
    /// `[H, W, C]`.
    pub right: &'a [f32],
    /// H.
    pub height: usize,
    /// W.
    pub width: usize,
    /// C.
    pub channels: usize,
}

/// What similarity finds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// Mean squared difference.
    pub mse: f64,
    /// Mean structural similarity: 1 for equal images.
    pub ssim: f64,
}

impl Similarity<'_> {
    const NAME: &'static str = "similarity";

    fn check(&self) -> Result<(), OpError> {
        for (arg, side) in [("height", self.height), ("width", self.width)] {
            if side < WINDOW {
                return Err(OpError::Value {
                    op: Self::NAME,
                    arg,
                    expected: format!("at least {WINDOW} pixels"),
                    got: side.to_string(),
                });
            }
        }
        if self.channels == 0 {
            return Err(OpError::Value {
                op: Self::NAME,
                arg: "channels",
                expected: "at least 1".into(),
                got: "0".into(),
            });
        }
        let elements = self
            .height
            .saturating_mul(self.width)
            .saturating_mul(self.channels);
        for (arg, image) in [
            ("left [H, W, C]", self.left),
            ("right [H, W, C]", self.right),
        ] {
            OpError::check_len(Self::NAME, arg, image.len(), elements)?;
            if let Some(index) = image.iter().position(|value| value.is_nan()) {
                return Err(OpError::Nan {
                    op: Self::NAME,
                    arg,
                    index,
                });
            }
        }
        Ok(())
    }
}
