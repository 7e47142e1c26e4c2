//! The meaning of the convolution, in plain loops.

use jetblock_numerics::math::silu;
use jetblock_numerics::{canonical, fma};

use super::CausalConv1d;
use crate::OpError;

impl CausalConv1d<'_> {
    /// The definition; brings each state forward past its segment's rows.
    pub fn reference(&self, states: &mut [&mut [f32]], out: &mut [f32]) -> Result<(), OpError> {
        self.check_all(states, out)?;
        let (channels, history) = (self.channels(), self.history());
        for (segment, state) in self.segments.iter().zip(states) {
            // The rows of the sequence that matter here: the carried ones, then the new ones.
            let mut rows: Vec<Vec<f32>> = state.chunks(channels).map(<[f32]>::to_vec).collect();
            rows.extend(segment.rows.clone().map(|r| self.x.row(r).to_vec()));
            for (t, r) in segment.rows.clone().enumerate() {
                for c in 0..channels {
                    let mut acc = self.bias.map_or(0.0, |bias| bias[c]);
                    for k in 0..=history {
                        acc = fma(self.tap(r, k)[c], rows[t + k][c], acc);
                    }
                    out[r * channels + c] = silu(acc);
                }
            }
            let last = &rows[rows.len() - history..];
            for (old, new) in state.iter_mut().zip(last.iter().flatten()) {
                *old = canonical(*new);
            }
        }
        Ok(())
    }
}
