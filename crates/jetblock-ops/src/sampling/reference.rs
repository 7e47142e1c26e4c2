//! The meaning of sampling, in plain loops and one full sort.

use std::cmp::Ordering;

use jetblock_numerics::math::exp;
use jetblock_numerics::{fma, reduce, rng};

use super::{Sampling, check_greatest, fixed_point, weight};
use crate::OpError;

impl Sampling<'_> {
    /// The definition.
    pub fn reference(&self) -> Result<u32, OpError> {
        self.check()?;
        let params = self.params;
        let l: Vec<f32> = (0..self.logits.len())
            .map(|id| self.adjusted_reference(id as u32))
            .collect();
        if params.temperature == 0.0 {
            let greatest = reduce::max(&l);
            check_greatest(greatest, "greatest logit")?;
            let first = l.iter().position(|l| *l == greatest);
            return Ok(first.expect("the maximum is an element") as u32);
        }
        let z: Vec<f32> = l.iter().map(|l| l / params.temperature).collect();
        let m = reduce::max(&z);
        check_greatest(m, "greatest logit over temperature")?;
        let w: Vec<u128> = z.iter().map(|z| u128::from(weight(exp(z - m)))).collect();
        let sum = |ids: &[usize]| ids.iter().map(|id| w[*id]).sum::<u128>();

        let mut kept: Vec<usize> = (0..z.len()).collect();
        kept.sort_by(|a, b| {
            z[*b]
                .partial_cmp(&z[*a])
                .unwrap_or(Ordering::Equal)
                .then(a.cmp(b))
        });
        if params.top_k > 0 {
            kept.truncate(params.top_k as usize);
        }
        if params.top_p < 1.0 {
            let needed = fixed_point(params.top_p) * sum(&kept);
            let reached = (1..=kept.len()).find(|n| sum(&kept[..*n]) << 32 >= needed);
            kept.truncate(reached.expect("all candidates reach any share of their sum"));
        }
        if params.min_p > 0.0 {
            let needed = fixed_point(params.min_p) * w[kept[0]];
            kept.retain(|id| w[*id] << 32 >= needed);
        }
        kept.sort_unstable();
        let t = u128::from(rng::mulhi64(self.random(), sum(&kept) as u64));
        let chosen = (0..kept.len()).find(|n| sum(&kept[..=*n]) > t);
        Ok(kept[chosen.expect("t is below the sum of all weights")] as u32)
    }

    /// A logit after penalties and bias.
    fn adjusted_reference(&self, id: u32) -> f32 {
        let (params, mut l) = (self.params, self.logits[id as usize]);
        let count = self
            .output_ids
            .iter()
            .filter(|output| **output == id)
            .count();
        if params.repetition_penalty != 1.0 && (count > 0 || self.prompt_ids.contains(&id)) {
            l = if l > 0.0 {
                l / params.repetition_penalty
            } else {
                l * params.repetition_penalty
            };
        }
        if count > 0 {
            l = fma(-params.frequency_penalty, count as f32, l);
            l -= params.presence_penalty;
        }
        params
            .logit_bias
            .iter()
            .filter(|bias| bias.0 == id)
            .fold(l, |l, bias| l + bias.1)
    }
}
