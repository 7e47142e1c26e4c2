//! Standard normal variates, each a function of its seed, image, step and place.
//!
//! Box and Muller (1958) on Philox4x32-10; NUMERICS.md section 6. The places of an image are counted from its first row
//! and column, so an image of another size, batch or position in the batch has the same variate at the same place.
//!
//! | name   | shape             | dtype |
//! |--------|-------------------|-------|
//! | seeds  | `[B]`             | u64   |
//! | images | `[B]`             | u32   |
//! | y      | `[B, C, T, H, W]` | f32   |
//!
//! Rounding points: the word to f32, `u`, log, `* -2`, the root, the angle, its sine and cosine, their product with the
//! root.

mod cpu;
mod reference;
#[cfg(test)]
mod tests;

use crate::OpError;

/// Arguments of randn.
#[derive(Clone, Copy, Debug)]
pub struct Randn<'a> {
    /// Seed of each image, `[B]`.
    pub seeds: &'a [u64],
    /// Which image of its seed each is, `[B]`.
    pub images: &'a [u32],
    /// Which of an image's noises, below 2^24.
    pub step: u32,
    /// C, T, H, W: the first three at most 2^16, W at most 2^18.
    pub size: [usize; 4],
}

impl Randn<'_> {
    const NAME: &'static str = "randn";

    fn check(&self, out: &[f32]) -> Result<(), OpError> {
        OpError::check_len(
            Self::NAME,
            "images [B]",
            self.images.len(),
            self.seeds.len(),
        )?;
        let value = |arg, expected: String, got: String| {
            Err(OpError::Value {
                op: Self::NAME,
                arg,
                expected,
                got,
            })
        };
        if self.step >> 24 != 0 {
            return value("step", "below 2^24".into(), self.step.to_string());
        }
        let limits = [1 << 16, 1 << 16, 1 << 16, 1 << 18];
        if (0..4).any(|axis| self.size[axis] > limits[axis]) {
            let got = format!("{:?}", self.size);
            return value("size [C, T, H, W]", format!("at most {limits:?}"), got);
        }
        let elements = self
            .size
            .iter()
            .try_fold(self.seeds.len(), |all, &dim| all.checked_mul(dim));
        let elements = elements.unwrap_or(usize::MAX);
        OpError::check_len(Self::NAME, "out [B, C, T, H, W]", out.len(), elements)
    }

    /// The image, channel, frame and row of a row of W elements, counted over all images.
    fn row(&self, index: usize) -> Row {
        let [channels, frames, height, _] = self.size;
        let (index, y) = (index / height, index % height);
        let (index, frame) = (index / frames, index % frames);
        let (image, channel) = (index / channels, index % channels);
        Row {
            seed: self.seeds[image],
            image: self.images[image],
            step: self.step,
            // Each is below 2^16 by `check`.
            place: (channel as u64) << 48 | (frame as u64) << 32 | (y as u64) << 16,
        }
    }
}

/// A row of an image.
#[derive(Clone, Copy)]
struct Row {
    seed: u64,
    image: u32,
    step: u32,
    place: u64,
}

impl Row {
    /// The random words of elements `4 * block ..` of the row.
    fn words(self, block: usize) -> [u32; 4] {
        use jetblock_numerics::rng::{Draw, domain, words};
        let draw = Draw {
            position: self.place | block as u64,
            sample: self.image,
            domain: domain::NORMAL | self.step << 8,
        };
        words(self.seed, draw)
    }
}
