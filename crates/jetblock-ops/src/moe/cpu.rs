//! The router with lanes over experts and threads over rows; the combine with lanes over the hidden dimension.

use std::ops::Range;

use jetblock_numerics::{Lanes, canonical, math};
use jetblock_simd::{Cpu, Kernel, Simd, fp_env};

use super::{Dispatch, Router, Routes, group_score};
use crate::OpError;
use crate::row::{load_part, store_part};

/// Logits worth a thread's while.
const GRAIN: usize = 1 << 13;
/// Multiply-adds of the combine worth a thread's while.
const COMBINE_GRAIN: usize = 1 << 14;

impl Router<'_> {
    /// The same bits as [`Router::reference`], faster; `routes` is reused.
    pub fn cpu(&self, routes: &mut Routes, cpu: &Cpu) -> Result<(), OpError> {
        self.check()?;
        let _guard = fp_env::Guard::new();
        let (rows, k) = (self.rows(), self.config.num_experts_per_tok);
        routes.per_row = k;
        routes.experts.clear();
        routes.experts.resize(rows * k, 0);
        routes.weights.clear();
        routes.weights.resize(rows * k, 0.0);
        let step = GRAIN.div_ceil(self.config.n_routed_experts);
        let mut pieces = Vec::new();
        let experts = routes.experts.chunks_mut(step * k);
        for (i, (experts, weights)) in experts.zip(routes.weights.chunks_mut(step * k)).enumerate()
        {
            pieces.push(Piece {
                router: self,
                first: i * step,
                experts,
                weights,
            });
        }
        cpu.par_items(pieces, |piece| cpu.run(piece));
        Ok(())
    }

    /// Absolute position of a row.
    fn position(&self, row: usize) -> usize {
        let i = self
            .segments
            .partition_point(|segment| segment.rows.end <= row);
        let segment = &self.segments[i];
        segment.start + row - segment.rows.start
    }
}

/// Consecutive rows of the router.
struct Piece<'a> {
    router: &'a Router<'a>,
    first: usize,
    experts: &'a mut [u32],
    weights: &'a mut [f32],
}

impl Kernel for Piece<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let router = self.router;
        let (n, k) = (
            router.config.n_routed_experts,
            router.config.num_experts_per_tok,
        );
        let (mut scores, mut picks) = (vec![0.0_f32; n], vec![0.0_f32; n]);
        let mut choice = Choice::new(router);
        let chosen = self
            .experts
            .chunks_exact_mut(k)
            .zip(self.weights.chunks_exact_mut(k));
        for (i, (experts, weights)) in chosen.enumerate() {
            let row = self.first + i;
            for at in (0..n).step_by(S::LANES) {
                let end = n.min(at + S::LANES);
                let s = math::sigmoid(load_part(simd, &router.logits[row * n + at..row * n + end]));
                let bias = load_part(simd, &router.e_score_correction_bias[at..end]);
                store_part(simd, s, &mut scores[at..end]);
                store_part(simd, s.add(bias), &mut picks[at..end]);
            }
            choice.choose(router.position(row), &picks, experts);
            weigh(router, &scores, experts, weights);
        }
    }
}

/// A candidate: its pick, its place among equal picks, its expert.
type Candidate = (f32, u32, u32);

/// Chooses the experts of one row after the other, with space that is reused.
struct Choice<'a> {
    router: &'a Router<'a>,
    groups: Vec<Candidate>,
    best: Vec<Candidate>,
}

impl<'a> Choice<'a> {
    fn new(router: &'a Router<'a>) -> Choice<'a> {
        Choice {
            router,
            groups: Vec::new(),
            best: Vec::new(),
        }
    }

    fn choose(&mut self, position: usize, picks: &[f32], experts: &mut [u32]) {
        let config = self.router.config;
        let size = config.n_routed_experts / config.n_group;
        self.groups.clear();
        for (g, picks) in picks.chunks_exact(size).enumerate() {
            let score = if config.n_group > 1 {
                group_score(picks)
            } else {
                0.0
            };
            insert(&mut self.groups, config.topk_group, score, g as u32, || 0);
        }
        // Ascending, so that among equal keys the lower expert is met first.
        self.groups.sort_unstable_by_key(|&(_, _, g)| g);
        self.best.clear();
        for &(_, _, g) in &self.groups {
            let first = g as usize * size;
            for (e, &pick) in (first..).zip(&picks[first..first + size]) {
                let key = || self.router.tie.key(position, e);
                insert(&mut self.best, experts.len(), pick, e as u32, key);
            }
        }
        for (expert, best) in experts.iter_mut().zip(&self.best) {
            *expert = best.2;
        }
        experts.sort_unstable();
    }
}

/// Keeps the first `most` candidates by (pick descending, key ascending), earlier ones first among equals. The key is
/// only asked for where a candidate is kept or ties.
#[inline(always)]
fn insert(best: &mut Vec<Candidate>, most: usize, pick: f32, id: u32, key: impl Fn() -> u32) {
    if best.len() == most && best[most - 1].0 > pick {
        return;
    }
    let key = key();
    let after = |&&(p, k, _): &&Candidate| p > pick || (p == pick && k <= key);
    let at = best.iter().take_while(after).count();
    if at < most {
        best.truncate(most - 1);
        best.insert(at, (pick, key, id));
    }
}

/// The weights of the chosen experts.
fn weigh(router: &Router, scores: &[f32], experts: &[u32], weights: &mut [f32]) {
    let config = router.config;
    let total = experts
        .iter()
        .fold(0.0, |total, &e| total + scores[e as usize]);
    for (weight, &e) in weights.iter_mut().zip(experts) {
        let score = scores[e as usize];
        let normed = if config.norm_topk_prob {
            score / (total + 1e-20)
        } else {
            score
        };
        *weight = normed * config.routed_scaling_factor;
    }
}

impl Dispatch {
    /// `out[row] = fma(w, y[slot], out[row])` for `slots` in order, where `y` `[slots.len(), width]` holds the answers.
    ///
    /// `out` starts at +0. Calls over ascending runs of slots together give each row its experts in ascending order.
    pub fn combine(
        &self,
        slots: Range<usize>,
        y: &[f32],
        width: usize,
        out: &mut [f32],
        cpu: &Cpu,
    ) -> Result<(), OpError> {
        self.check_combine(&slots, y, width, out)?;
        let _guard = fp_env::Guard::new();
        let (rows, weights) = (&self.rows()[slots.clone()], &self.weights()[slots]);
        // Each thread looks through all slots for those of its rows.
        let grain = COMBINE_GRAIN.div_ceil(width * self.per_row().max(1));
        cpu.par_rows(out, width, grain, |first, out| {
            cpu.run(Combine {
                rows,
                weights,
                y,
                width,
                first,
                out,
            });
        });
        Ok(())
    }
}

struct Combine<'a> {
    /// Row and weight of each slot.
    rows: &'a [u32],
    weights: &'a [f32],
    y: &'a [f32],
    width: usize,
    /// First row of `out`.
    first: usize,
    out: &'a mut [f32],
}

impl Kernel for Combine<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Combine {
            rows,
            weights,
            y,
            width,
            first,
            out,
        } = self;
        for ((&row, &weight), y) in rows.iter().zip(weights).zip(y.chunks_exact(width)) {
            let Some(row) = (row as usize).checked_sub(first) else {
                continue;
            };
            let Some(out) = out.get_mut(row * width..(row + 1) * width) else {
                continue;
            };
            let weight = S::F::splat(weight);
            for (out, y) in out.chunks_mut(S::LANES).zip(y.chunks(S::LANES)) {
                let sum = weight.fma(load_part(simd, y), load_part(simd, out));
                store_part(simd, canonical(sum), out);
            }
        }
    }
}
