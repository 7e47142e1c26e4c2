//! The mixture-of-experts mixer (NUMERICS.md section 9).

use jetblock_ops::linear::Epilogue;
use jetblock_ops::moe::{Experts, Router, TieRule};
use jetblock_ops::{OpError, Segment};
use jetblock_simd::Cpu;

use crate::model::{Kernels, MoeWeights, add, linear};
use crate::state::SequenceError;
use crate::workspace::{Workspace, sized};
use crate::{ModelError, mlp};

/// What an MoE mixer works on.
pub(crate) struct Input<'a, K> {
    pub(crate) kernels: &'a K,
    pub(crate) cpu: &'a Cpu,
    pub(crate) hash_ties: bool,
    pub(crate) workspace: &'a mut Workspace,
    pub(crate) segments: &'a [Segment],
    /// Of each segment's sequence; set where the router refuses a row.
    pub(crate) failed: Vec<&'a mut Option<SequenceError>>,
    /// Index in the stack.
    pub(crate) layer: usize,
    /// Normalised rows `[M, D]`.
    pub(crate) u: &'a [f32],
}

/// `out = combine(experts(x)) + shared(u)`, where x is u or, in latent models, its projection.
pub(crate) fn forward<K: Kernels>(
    mut input: Input<'_, K>,
    weights: &MoeWeights,
    out: &mut [f32],
) -> Result<(), ModelError> {
    route(&mut input, weights)?;
    let Input {
        kernels,
        cpu,
        workspace,
        u,
        ..
    } = input;
    let width = weights.gate.weight.k();
    let rows = u.len() / width;
    let Workspace { prepared, moe, .. } = workspace;

    let expert_width = weights.down[0].n();
    let x = match &weights.latent {
        Some((fc1, _)) => {
            let latent = sized(&mut moe.latent, rows * expert_width);
            linear(kernels, cpu, prepared, u, fc1, Epilogue::None, latent)?;
            &*latent
        }
        None => u,
    };
    moe.expert_input.prepare_into(cpu, x, expert_width)?;
    let experts = Experts {
        x: &moe.expert_input,
        routes: &moe.routes,
        up: &weights.up,
        down: &weights.down,
        up_bias: &weights.up_bias,
        down_bias: &weights.down_bias,
    };
    let combined = sized(&mut moe.combined, rows * expert_width);
    experts.run(combined, &mut moe.experts, cpu, &|cpu, jobs| {
        kernels.grouped_linear(cpu, jobs)
    })?;
    match &weights.latent {
        Some((_, fc2)) => linear(kernels, cpu, prepared, combined, fc2, Epilogue::None, out)?,
        None => out.copy_from_slice(combined),
    }

    let mut shared = std::mem::take(&mut moe.shared);
    let part = sized(&mut shared, rows * width);
    let done = mlp::forward(kernels, cpu, workspace, u, &weights.shared, part);
    if done.is_ok() {
        add(cpu, out, part, width);
    }
    workspace.moe.shared = shared;
    done
}

/// Chooses each row's experts. A row whose scores are NaN fails its own sequence, and is routed as if they were zero so
/// that the step can go on for the others.
fn route<K: Kernels>(input: &mut Input<'_, K>, weights: &MoeWeights) -> Result<(), OpError> {
    let experts = weights.router.n_routed_experts;
    let rows = input.u.len() / weights.gate.weight.k();
    let moe = &mut input.workspace.moe;
    let logits = sized(&mut moe.logits, rows * experts);
    linear(
        input.kernels,
        input.cpu,
        &mut moe.router_input,
        input.u,
        &weights.gate,
        Epilogue::None,
        logits,
    )?;
    for (segment, failed) in input.segments.iter().zip(&mut input.failed) {
        for row in segment.rows.clone() {
            let scores = &mut logits[row * experts..][..experts];
            if scores.iter().any(|x| x.is_nan()) {
                scores.fill(0.0);
                let position = segment.start + row - segment.rows.start;
                let message = format!("the router's scores at position {position} are NaN");
                failed.get_or_insert(SequenceError {
                    layer: input.layer,
                    message,
                });
            }
        }
    }
    let router = Router {
        logits,
        e_score_correction_bias: &weights.correction_bias,
        segments: input.segments,
        config: &weights.router,
        tie: if input.hash_ties {
            TieRule::Hash {
                layer: input.layer as u32,
            }
        } else {
            TieRule::LowestId
        },
    };
    router.cpu(&mut moe.routes, input.cpu)
}
