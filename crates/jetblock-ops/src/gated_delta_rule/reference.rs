//! The meaning of the rule, in plain loops.

use jetblock_numerics::math::{exp, rsqrt};
use jetblock_numerics::{canonical, fma, reduce};

use super::{GatedDeltaRule, L2_EPS};
use crate::OpError;

impl GatedDeltaRule<'_> {
    /// The definition; brings each state forward past its segment's rows.
    pub fn reference(&self, states: &mut [&mut [f32]], out: &mut [f32]) -> Result<(), OpError> {
        self.check_all(states, out)?;
        let (heads, size) = (self.heads(), self.key_dim() * self.value_dim());
        for (segment, state) in self.segments.iter().zip(states) {
            for r in segment.rows.clone() {
                for h in 0..heads {
                    let state = &mut state[h * size..(h + 1) * size];
                    let o = &mut out[(r * heads + h) * self.value_dim()..][..self.value_dim()];
                    self.step_reference(r, h, state, o);
                }
            }
        }
        Ok(())
    }

    /// One token of one head.
    fn step_reference(&self, r: usize, h: usize, state: &mut [f32], o: &mut [f32]) {
        let width = self.value_dim();
        let q: Vec<f32> = self.unit(&self.q.row(r)[self.key_columns(h)]);
        let q: Vec<f32> = q.iter().map(|q| q * self.scale).collect();
        let k = self.unit(&self.k.row(r)[self.key_columns(h)]);
        let v = &self.v.row(r)[h * width..][..width];
        let (decay, beta) = (exp(self.g.row(r)[h]), self.beta.row(r)[h]);
        for j in 0..width {
            let column = (0..k.len()).map(|i| decay * state[i * width + j]);
            let mut s: Vec<f32> = column.collect();
            let u = beta * (v[j] - reduce::dot_f32(&k, &s));
            for (i, s) in s.iter_mut().enumerate() {
                *s = canonical(fma(k[i], u, *s));
                state[i * width + j] = *s;
            }
            o[j] = canonical(reduce::dot_f32(&q, &s));
        }
    }

    fn unit(&self, x: &[f32]) -> Vec<f32> {
        if !self.qk_l2norm {
            return x.to_vec();
        }
        let factor = rsqrt(reduce::sum_of_squares(x) + L2_EPS);
        x.iter().map(|x| x * factor).collect()
    }
}
