//! Mixture of experts: the router's choice, who goes to which expert, and the weighted sum of their answers.
//!
//! ```text
//! s_e = sigmoid(logit_e);   pick_e = s_e + e_score_correction_bias[e]
//! n_group > 1: score_g = a + b, the two largest pick of the group (a alone if it has one); keep topk_group groups by
//!              (score descending, group ascending); only their experts are candidates
//! chosen = the first num_experts_per_tok candidates by (pick descending, tie, expert ascending)
//! norm_topk_prob: tot = +0; chosen ascending: tot = tot + s_e;   w_e = s_e / (tot + 1e-20)     else w_e = s_e
//! w_e = w_e * routed_scaling_factor
//! out = +0; chosen ascending: out = fma(w_e, MLP_e(u), out)
//! ```
//!
//! Source: NUMERICS.md section 9; DeepSeek-AI, "DeepSeek-V3", 2024, for the router.
//!
//! | name    | shape  | dtype |
//! |---------|--------|-------|
//! | logits  | `[R, E]`, the f32-kind product of the normalised rows with the gate | f32 |
//! | e_score_correction_bias | `[E]` | f32 |
//! | experts | `[R, num_experts_per_tok]`, ascending in each row | u32 |
//! | weights | `[R, num_experts_per_tok]` | f32 |
//! | out     | `[R, D]` | f32 |
//!
//! Rounding points: every operation above. A row's choice depends on its logits alone, and with [`TieRule::Hash`] on
//! its position; its sum runs over its own experts in ascending order, however rows and experts are scheduled.

mod cpu;
mod dispatch;
mod experts;
mod reference;
#[cfg(test)]
mod tests;

pub use dispatch::Dispatch;
pub use experts::{ExpertWorkspace, Experts, GroupedLinear};

use jetblock_numerics::rng::philox4x32;

use crate::{OpError, Segment};

/// Parameters of the router, named as in the checkpoint's config.
#[derive(Clone, Debug, PartialEq)]
pub struct RouterConfig {
    /// Experts.
    pub n_routed_experts: usize,
    /// Experts chosen for a row.
    pub num_experts_per_tok: usize,
    /// Groups of consecutive experts.
    pub n_group: usize,
    /// Groups kept for a row.
    pub topk_group: usize,
    /// Whether weights are divided by their sum.
    pub norm_topk_prob: bool,
    /// Multiplies every weight.
    pub routed_scaling_factor: f32,
}

/// Who goes first among equal picks. Part of the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TieRule {
    /// The lower expert.
    #[default]
    LowestId,
    /// The lower hash of (layer, position, expert): no expert is favoured.
    Hash {
        /// Index of the layer in the stack.
        layer: u32,
    },
}

impl TieRule {
    /// What equal picks are ordered by, before the expert.
    fn key(self, position: usize, expert: usize) -> u32 {
        match self {
            TieRule::LowestId => 0,
            TieRule::Hash { layer } => {
                philox4x32([expert as u32, position as u32, layer, 0], [0x4A42_4D45, 0])[0]
            }
        }
    }
}

/// Arguments of the router.
#[derive(Clone, Copy, Debug)]
pub struct Router<'a> {
    /// `[R, E]`.
    pub logits: &'a [f32],
    /// `[E]`.
    pub e_score_correction_bias: &'a [f32],
    /// The positions of the rows.
    pub segments: &'a [Segment],
    /// Parameters.
    pub config: &'a RouterConfig,
    /// Order among equal picks.
    pub tie: TieRule,
}

/// The experts chosen for each row, ascending, with their weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routes {
    /// Experts of a row.
    pub per_row: usize,
    /// `[R, per_row]`.
    pub experts: Vec<u32>,
    /// `[R, per_row]`.
    pub weights: Vec<f32>,
}

impl RouterConfig {
    /// Whether a router can have these parameters.
    pub fn check(&self) -> Result<(), OpError> {
        let value = |arg, expected: String, got: String| Err(Router::value(arg, expected, got));
        let experts = self.n_routed_experts;
        if experts == 0 || experts > u32::MAX as usize {
            return value(
                "n_routed_experts",
                "1 to 2^32 - 1".into(),
                experts.to_string(),
            );
        }
        if self.n_group == 0 || !experts.is_multiple_of(self.n_group) {
            let expected = format!("a divisor of {experts} experts");
            return value("n_group", expected, self.n_group.to_string());
        }
        if self.topk_group == 0 || self.topk_group > self.n_group {
            let expected = format!("1 to n_group = {}", self.n_group);
            return value("topk_group", expected, self.topk_group.to_string());
        }
        let candidates = self.topk_group * (experts / self.n_group);
        if self.num_experts_per_tok == 0 || self.num_experts_per_tok > candidates {
            let expected = format!("1 to {candidates} candidates");
            return value(
                "num_experts_per_tok",
                expected,
                self.num_experts_per_tok.to_string(),
            );
        }
        if !self.routed_scaling_factor.is_finite() {
            let got = self.routed_scaling_factor.to_string();
            return value("routed_scaling_factor", "finite".into(), got);
        }
        Ok(())
    }
}

impl Router<'_> {
    const NAME: &'static str = "router";

    fn value(arg: &'static str, expected: String, got: String) -> OpError {
        OpError::Value {
            op: Self::NAME,
            arg,
            expected,
            got,
        }
    }

    fn rows(&self) -> usize {
        self.logits.len() / self.config.n_routed_experts
    }

    /// Whether the arguments fit together and hold no NaN.
    pub fn check(&self) -> Result<(), OpError> {
        self.config.check()?;
        let experts = self.config.n_routed_experts;
        let rows = self.rows();
        OpError::check_len(
            Self::NAME,
            "logits [R, E]",
            self.logits.len(),
            rows * experts,
        )?;
        let bias = self.e_score_correction_bias;
        OpError::check_len(
            Self::NAME,
            "e_score_correction_bias [E]",
            bias.len(),
            experts,
        )?;
        Segment::check_cover(Self::NAME, self.segments, rows)?;
        let nan = |arg, index| {
            Err(OpError::Nan {
                op: Self::NAME,
                arg,
                index,
            })
        };
        if let Some(index) = self.logits.iter().position(|x| x.is_nan()) {
            return nan("logits [R, E]", index);
        }
        if let Some(index) = bias.iter().position(|x| x.is_nan()) {
            return nan("e_score_correction_bias [E]", index);
        }
        // Scores lie in [0, 1], so a group's score is NaN for the bias's sake or never.
        let mut groups = bias.chunks(experts / self.config.n_group);
        let infinities = groups.position(|group| group_score(group).is_nan());
        match infinities.filter(|_| self.config.n_group > 1) {
            Some(group) => nan("the score of a group", group),
            None => Ok(()),
        }
    }
}

/// The sum of the two largest picks, larger first; one pick is its own sum.
fn group_score(picks: &[f32]) -> f32 {
    let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for &pick in picks {
        if pick > first {
            (first, second) = (pick, first);
        } else if pick > second {
            second = pick;
        }
    }
    if picks.len() == 1 {
        first
    } else {
        first + second
    }
}
