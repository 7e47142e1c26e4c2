//! The meaning of attention, query by query.

use jetblock_numerics::{canonical, fma, math, max, reduce};

use super::{Mask, SPLIT, Sdpa};
use crate::OpError;
use crate::linear::reference::dot;

impl Sdpa<'_> {
    /// The definition.
    pub fn reference(&self, out: &mut [f32]) -> Result<(), OpError> {
        self.check(out.len())?;
        if self.value_dim == 0 {
            return Ok(());
        }
        for (i, y) in out.chunks_mut(self.value_dim).enumerate() {
            let (t, h) = (i % self.queries, i / self.queries % self.heads);
            self.query([i / self.queries / self.heads, h, t], y);
        }
        Ok(())
    }

    fn query(&self, at: [usize; 3], y: &mut [f32]) {
        let [b, h, _] = at;
        let q = self.q.row(at, self.head_dim).to_vec();
        let kv = h / (self.heads / self.kv_heads);
        let key = |j: usize| self.k.row([b, kv, j], self.head_dim).to_vec();
        let values: Vec<Vec<f32>> = (0..self.keys)
            .map(|j| self.v.row([b, kv, j], self.value_dim).to_vec())
            .collect();
        let (mut m, mut l) = (f32::NEG_INFINITY, 0.0_f32);
        y.fill(0.0);
        let mut any = false;
        for start in (0..self.keys).step_by(SPLIT) {
            let all = start..self.keys.min(start + SPLIT);
            let admitted: Vec<usize> = all.clone().filter(|&j| self.admits(at, j)).collect();
            if admitted.is_empty() {
                continue;
            }
            any = true;
            let score = |&j: &usize| {
                let s = self.scale() * dot(self.kind, &q, &key(j));
                match &self.mask {
                    Mask::Bias(bias) => s + bias.row(at, self.keys)[j],
                    _ => s,
                }
            };
            let s: Vec<f32> = admitted.iter().map(score).collect();
            let m_b = reduce::max(&s);
            let p: Vec<f32> = s.iter().map(|s| math::exp(s - m_b)).collect();
            let mut slots = vec![0.0; all.len()];
            for (j, p) in admitted.iter().zip(&p) {
                slots[j - start] = *p;
            }
            let l_b = reduce::sum(&slots);
            let largest = max(m, m_b);
            let (old, new) = (math::exp(m - largest), math::exp(m_b - largest));
            l = fma(l, old, l_b * new);
            for (d, y) in y.iter_mut().enumerate() {
                let column = admitted.iter().map(|&j| values[j][d]);
                let o_b = reduce::dot_f32(&p, &column.collect::<Vec<_>>());
                *y = fma(*y, old, o_b * new);
            }
            m = largest;
        }
        if any {
            y.iter_mut().for_each(|y| *y = canonical(*y / l));
        }
    }

    fn admits(&self, at: [usize; 3], j: usize) -> bool {
        match &self.mask {
            Mask::None => true,
            Mask::Causal => j <= at[2],
            Mask::Admitted(mask) => mask.row(at, self.keys)[j],
            Mask::Bias(bias) => bias.row(at, self.keys)[j] != f32::NEG_INFINITY,
        }
    }
}
