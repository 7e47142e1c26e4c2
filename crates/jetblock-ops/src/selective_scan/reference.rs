//! The meaning of the scan, in plain loops.

use jetblock_numerics::math::{exp, softplus};
use jetblock_numerics::{canonical, fma, max, min, reduce};

use super::SelectiveScan;
use crate::OpError;

impl SelectiveScan<'_> {
    /// The definition; brings each state forward past its segment's rows.
    pub fn reference(&self, states: &mut [&mut [f32]], out: &mut [f32]) -> Result<(), OpError> {
        self.check_all(states, out)?;
        let (heads, head_dim, state_len) = (self.heads(), self.head_dim(), self.state_len());
        for (segment, state) in self.segments.iter().zip(states) {
            for r in segment.rows.clone() {
                for h in 0..heads {
                    let y = &mut out[(r * heads + h) * head_dim..][..head_dim];
                    let state = &mut state[h * state_len * head_dim..][..state_len * head_dim];
                    self.step_reference(r, h, state, y);
                }
            }
        }
        Ok(())
    }

    /// One token of one head.
    fn step_reference(&self, r: usize, h: usize, state: &mut [f32], y: &mut [f32]) {
        let (head_dim, state_len) = (self.head_dim(), self.state_len());
        let x = &self.x.row(r)[h * head_dim..][..head_dim];
        let b = &self.b.row(r)[self.group_columns(h)];
        let c = &self.c.row(r)[self.group_columns(h)];

        let (lo, hi) = self.dt_limit;
        let dt = min(
            max(softplus(self.dt_raw.row(r)[h] + self.dt_bias[h]), lo),
            hi,
        );
        let decay = exp(dt * self.a[h]);
        let mut s = vec![0.0; state_len];
        for p in 0..head_dim {
            let v = dt * x[p];
            for n in 0..state_len {
                s[n] = canonical(fma(decay, state[n * head_dim + p], v * b[n]));
                state[n * head_dim + p] = s[n];
            }
            y[p] = canonical(fma(self.d[h], x[p], reduce::dot32(&s, c)));
        }
    }
}
