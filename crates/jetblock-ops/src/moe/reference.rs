//! The router by sorting, the combine by rows.

use std::cmp::Reverse;

use jetblock_numerics::{fma, math};

use super::{Dispatch, Router, Routes, group_score};
use crate::OpError;

impl Router<'_> {
    /// The meaning: plain loops and sorts.
    pub fn reference(&self, routes: &mut Routes) -> Result<(), OpError> {
        self.check()?;
        let config = self.config;
        *routes = Routes {
            per_row: config.num_experts_per_tok,
            ..Routes::default()
        };
        for segment in self.segments {
            for row in segment.rows.clone() {
                let position = segment.start + row - segment.rows.start;
                let logits =
                    &self.logits[row * config.n_routed_experts..][..config.n_routed_experts];
                let scores: Vec<f32> = logits.iter().map(|&x| math::sigmoid(x)).collect();
                let chosen = self.choose(&scores, position);
                let total = chosen.iter().fold(0.0, |total, &e| total + scores[e]);
                for e in chosen {
                    let normed = match config.norm_topk_prob {
                        true => scores[e] / (total + 1e-20),
                        false => scores[e],
                    };
                    routes.experts.push(e as u32);
                    routes.weights.push(normed * config.routed_scaling_factor);
                }
            }
        }
        Ok(())
    }

    fn choose(&self, scores: &[f32], position: usize) -> Vec<usize> {
        let config = self.config;
        let bias = self.e_score_correction_bias;
        let picks: Vec<f32> = scores.iter().zip(bias).map(|(s, b)| s + b).collect();
        let size = config.n_routed_experts / config.n_group;
        let mut groups: Vec<usize> = (0..config.n_group).collect();
        let score = |&g: &usize| Reverse(Pick(group_score(&picks[g * size..][..size])));
        groups.sort_by_key(|g| (score(g), *g));
        let mut candidates: Vec<usize> = Vec::new();
        for &g in &groups[..config.topk_group] {
            candidates.extend(g * size..(g + 1) * size);
        }
        candidates.sort_by_key(|&e| (Reverse(Pick(picks[e])), self.tie.key(position, e), e));
        candidates.truncate(config.num_experts_per_tok);
        candidates.sort_unstable();
        candidates
    }
}

/// A number in numeric order: `-0 = +0`.
#[derive(PartialEq)]
struct Pick(f32);

impl Eq for Pick {}

impl PartialOrd for Pick {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Pick {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0
            .partial_cmp(&other.0)
            .expect("the router checked for NaN")
    }
}

impl Dispatch {
    /// [`Dispatch::combine`] in plain loops.
    pub fn combine_reference(
        &self,
        slots: std::ops::Range<usize>,
        y: &[f32],
        width: usize,
        out: &mut [f32],
    ) {
        for (slot, y) in slots.zip(y.chunks_exact(width)) {
            let out = &mut out[self.rows()[slot] as usize * width..][..width];
            for d in 0..width {
                out[d] = jetblock_numerics::canonical(fma(self.weights()[slot], y[d], out[d]));
            }
        }
    }
}
