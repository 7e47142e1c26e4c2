//! The meaning of similarity.

use jetblock_simd::fp_env;

use super::{Found, Similarity, WINDOW};
use crate::OpError;

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
