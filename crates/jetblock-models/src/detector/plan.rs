//! How each kind of layer is run, and why.

use jetblock_ops::linear::OperandKind;
use jetblock_tensor::DType;
use serde::Serialize;

use super::{Part, operand_word};
use crate::checkpoint::Checkpoint;
use crate::config::{LayerKind, ModelConfig, Presence, TensorKind};

/// How a part of the model is run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The part.
    pub part: Part,
    /// What is done, in what order.
    pub strategy: String,
    /// In which precision.
    pub precision: String,
    /// Why.
    pub reason: String,
}

/// The operand kind that NUMERICS.md section 10 gives to a model. Without a checkpoint, linear weights are taken to be stored
/// in the configuration's dtype.
pub fn operand_kind(config: &ModelConfig, checkpoint: Option<&Checkpoint>) -> OperandKind {
    let is_bf16 = |dtype: Option<DType>| dtype.is_none_or(|dtype| dtype == DType::BF16);
    if !is_bf16(config.dtype) {
        return OperandKind::F32;
    }
    let Some(checkpoint) = checkpoint else {
        return OperandKind::Bf16;
    };
    let is_linear = |kind: TensorKind| {
        kind.is_linear() || kind == TensorKind::Embeddings && config.tie_word_embeddings
    };
    let all_bf16 = config
        .tensors()
        .iter()
        .filter(|tensor| is_linear(tensor.kind) && tensor.presence != Presence::Unused)
        // Codes of every format are bf16-exact.
        .filter(|tensor| checkpoint.weight_format(&tensor.name).is_none())
        .filter_map(|tensor| checkpoint.info(&tensor.name))
        .all(|info| info.dtype.is_bf16_exact());
    if all_bf16 {
        OperandKind::Bf16
    } else {
        OperandKind::F32
    }
}

pub(super) fn of(config: &ModelConfig, operands: OperandKind) -> Vec<Plan> {
    let kinds = LayerKind::ALL
        .into_iter()
        .filter(|kind| config.count(*kind) > 0);
    let layers = kinds.map(|kind| of_kind(config, kind, operand_word(operands)));
    layers
        .chain([of_head(config, operand_word(operands))])
        .collect()
}

fn of_kind(config: &ModelConfig, kind: LayerKind, operands: &str) -> Plan {
    let (strategy, precision, reason) = match kind {
        LayerKind::Mamba => (
            "recurrence, token by token, in prefill and decode alike".into(),
            format!("{operands} projections; f32 convolution, dt, state and gated norm"),
            "every split of a prompt is exact, and rounding the state at each token would accumulate",
        ),
        LayerKind::Attention => (
            attention_strategy(config),
            format!(
                "{operands} projections and scores; f32 softmax and weighted sum; f32, bf16, fp8 or nvfp4 cache"
            ),
            "the blocks of a row depend on its own position, not on the batch or the step",
        ),
        LayerKind::Mlp => (
            match config.gated_mlp() {
                true => "three matrices, silu(gate) * up between them".into(),
                false => "two matrices with squared ReLU between them, no gate".into(),
            },
            format!("{operands} projections; f32 activation"),
            "rows are independent: each output is one chain over its own inputs",
        ),
        LayerKind::Moe => (
            moe_strategy(config),
            format!("f32 router and combine; {operands} experts"),
            "a near-tie in the router flips experts, and an ascending sum does not depend on who else is routed",
        ),
    };
    Plan {
        part: Part::Layers(kind),
        strategy,
        precision,
        reason: reason.into(),
    }
}

fn attention_strategy(config: &ModelConfig) -> String {
    let rope = match &config.rope {
        Some(rope) => format!(
            "{} of {} elements of a head turned by position, keys before they are written",
            rope.rotary_dim, config.head_dim
        ),
        None => "no RoPE".into(),
    };
    format!(
        "keys in blocks of fixed size at absolute positions, written before they are read; {rope}"
    )
}

fn moe_strategy(config: &ModelConfig) -> String {
    let (k, experts) = (config.num_experts_per_tok, config.n_routed_experts);
    let latent = match config.moe_latent_size {
        Some(width) => format!(" in a latent space of {width}"),
        None => String::new(),
    };
    format!("{k} of {experts} experts{latent} combined in ascending order, then the shared expert")
}

fn of_head(config: &ModelConfig, operands: &str) -> Plan {
    let table = if config.tie_word_embeddings {
        "the embedding table"
    } else {
        "its own table"
    };
    Plan {
        part: Part::LmHead,
        strategy: format!("one product with {table}, for the rows whose logits are asked for"),
        precision: format!("{operands} projection of the f32 residual stream; f32 logits"),
        reason: "the residual stream stays f32 from the embeddings to the last norm".into(),
    }
}
