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

use jetblock_simd::fp_env;

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

/// Sums over a window: l, r, l l, r r, l r.
type Sums = [f64; 5];

impl Similarity<'_> {
    /// The definition.
    pub fn reference(&self) -> Result<Found, OpError> {
        self.check()?;
        let _guard = fp_env::Guard::new();
        let mut squares = 0.0;
        for (l, r) in self.left.iter().zip(self.right) {
            let difference = f64::from(*l) - f64::from(*r);
            squares += difference * difference;
        }
        let mut similarity = 0.0;
        for channel in 0..self.channels {
            self.add_windows(channel, &mut similarity);
        }
        let windows = (self.height - WINDOW + 1) * (self.width - WINDOW + 1) * self.channels;
        Ok(Found {
            mse: squares / self.left.len() as f64,
            ssim: similarity / windows as f64,
        })
    }

    /// Adds the similarity of each window of a channel.
    fn add_windows(&self, channel: usize, total: &mut f64) {
        let columns = self.width - WINDOW + 1;
        // Of the last seven rows, what each window has in that row; the oldest is overwritten.
        let mut rows = vec![[[0.0; 5]; WINDOW]; columns];
        for y in 0..self.height {
            for (x, parts) in rows.iter_mut().enumerate() {
                parts[y % WINDOW] = self.part(y, x, channel);
            }
            if y + 1 >= WINDOW {
                let first = y + 1 - WINDOW;
                for parts in &rows {
                    let mut sums = [0.0; 5];
                    for row in first..=y {
                        add(&mut sums, &parts[row % WINDOW]);
                    }
                    *total += of_window(&sums);
                }
            }
        }
    }

    /// The sums over the row y of the window whose first column is x.
    fn part(&self, y: usize, x: usize, channel: usize) -> Sums {
        let mut sums = [0.0; 5];
        for column in x..x + WINDOW {
            let at = (y * self.width + column) * self.channels + channel;
            let (l, r) = (f64::from(self.left[at]), f64::from(self.right[at]));
            add(&mut sums, &[l, r, l * l, r * r, l * r]);
        }
        sums
    }
}

fn add(sums: &mut Sums, more: &Sums) {
    for (sum, value) in sums.iter_mut().zip(more) {
        *sum += value;
    }
}

fn of_window(sums: &Sums) -> f64 {
    let pixels = (WINDOW * WINDOW) as f64;
    let [l, r, ll, rr, lr] = sums.map(|sum| sum / pixels);
    let sample = pixels / (pixels - 1.0);
    let (var_l, var_r) = (sample * (ll - l * l), sample * (rr - r * r));
    let covariance = sample * (lr - l * r);
    let (c1, c2) = (0.01 * 0.01, 0.03 * 0.03);
    let above = (2.0 * l * r + c1) * (2.0 * covariance + c2);
    above / ((l * l + r * r + c1) * (var_l + var_r + c2))
}

#[cfg(test)]
mod tests {
    use jetblock_testing::painted;

    use super::*;
    use crate::golden;

    /// Pixels that look like nothing in particular.
    fn image(height: usize, width: usize, channels: usize, seed: usize) -> Vec<f32> {
        (0..height * width * channels)
            .map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 1009.0)
            .collect()
    }

    fn found(left: &[f32], right: &[f32], height: usize, width: usize, channels: usize) -> Found {
        let op = Similarity {
            left,
            right,
            height,
            width,
            channels,
        };
        op.reference().expect("valid arguments")
    }

    /// The formula of the paper, window by window, from centred values.
    fn ssim_by_definition(
        left: &[f32],
        right: &[f32],
        height: usize,
        width: usize,
        channels: usize,
    ) -> f64 {
        let mut all = Vec::new();
        for c in 0..channels {
            for y in 0..=height - WINDOW {
                for x in 0..=width - WINDOW {
                    let window = |image: &[f32]| -> Vec<f64> {
                        (0..WINDOW * WINDOW)
                            .map(|i| {
                                let (row, column) = (y + i / WINDOW, x + i % WINDOW);
                                f64::from(image[(row * width + column) * channels + c])
                            })
                            .collect()
                    };
                    let (l, r) = (window(left), window(right));
                    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
                    let (mean_l, mean_r) = (mean(&l), mean(&r));
                    let covariance = |a: &[f64], b: &[f64]| {
                        let (mean_a, mean_b) = (mean(a), mean(b));
                        let sum: f64 = a
                            .iter()
                            .zip(b)
                            .map(|(a, b)| (a - mean_a) * (b - mean_b))
                            .sum();
                        sum / (a.len() - 1) as f64
                    };
                    let (c1, c2) = (1e-4, 9e-4);
                    all.push(
                        (2.0 * mean_l * mean_r + c1) * (2.0 * covariance(&l, &r) + c2)
                            / ((mean_l * mean_l + mean_r * mean_r + c1)
                                * (covariance(&l, &l) + covariance(&r, &r) + c2)),
                    );
                }
            }
        }
        all.iter().sum::<f64>() / all.len() as f64
    }

    #[test]
    fn equal_images_are_equal() {
        let x = image(9, 11, 3, 1);
        let same = found(&x, &x, 9, 11, 3);
        assert_eq!(
            same,
            Found {
                mse: 0.0,
                ssim: 1.0
            }
        );
        assert!(found(&x, &image(9, 11, 3, 2), 9, 11, 3).ssim < 0.5);
    }

    #[test]
    fn mse_of_a_shift_is_its_square() {
        let x = vec![0.25; 8 * 8];
        let y = vec![0.75; 8 * 8];
        assert_eq!(found(&x, &y, 8, 8, 1).mse, 0.25);
    }

    #[test]
    fn ssim_is_the_formula() {
        for (height, width, channels) in [(7, 7, 1), (9, 13, 3), (16, 8, 2)] {
            let left = image(height, width, channels, 3);
            let mut right = left.clone();
            for (i, value) in right.iter_mut().enumerate() {
                *value = 0.9 * *value + 0.1 * (i % 5) as f32 / 5.0;
            }
            let want = ssim_by_definition(&left, &right, height, width, channels);
            let got = found(&left, &right, height, width, channels).ssim;
            assert!((got - want).abs() < 1e-12, "{got} {want}");
            assert!((0.1..0.999).contains(&got), "{got} says nothing");
        }
    }

    /// Numbers of binary64 enter the digest as pairs of words, the low one first.
    #[test]
    fn golden_v1() {
        let entries = golden::entries("similarity");
        assert!(entries.len() >= 2, "{} entries", entries.len());
        for entry in &entries {
            let [height, width, channels] = entry.ints("size");
            let [left, right] =
                [0, 1].map(|i| painted(entry.seed() + i, height * width * channels));
            let found = found(&left, &right, height, width, channels);
            let bits = [found.mse, found.ssim].map(f64::to_bits);
            let words = bits.map(|bits| [bits as u32, (bits >> 32) as u32].map(f32::from_bits));
            entry.check(words.as_flattened());
        }
    }

    #[test]
    fn bad_arguments() {
        let x = image(9, 9, 1, 1);
        let message = |left: &[f32], right: &[f32], height, width, channels| {
            let op = Similarity {
                left,
                right,
                height,
                width,
                channels,
            };
            op.reference().expect_err("bad arguments").to_string()
        };
        assert_eq!(
            message(&x, &x, 6, 9, 1),
            "similarity: height is 6, expected at least 7 pixels"
        );
        assert_eq!(
            message(&x, &x[1..], 9, 9, 1),
            "similarity: right [H, W, C] has 80 elements, expected 81"
        );
        assert_eq!(
            message(&x, &x, 9, 9, 0),
            "similarity: channels is 0, expected at least 1"
        );
        let mut with_nan = x.clone();
        with_nan[5] = f32::NAN;
        assert_eq!(
            message(&x, &with_nan, 9, 9, 1),
            "similarity: right [H, W, C] is NaN at index 5"
        );
    }
}
