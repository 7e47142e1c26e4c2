//! From llama.cpp's tensor names to those of the Hugging Face checkpoints, as its converter maps them, backwards.

use std::collections::HashMap;

use super::Tensor;
use crate::checkpoint::{CheckpointError, MappedTensor};
use crate::config::{ExpectedTensor, Family, ModelConfig, TensorKind};

/// Name in a block, and the name behind the mixer's prefix.
const NEMOTRON_H: [(&str, &str); 21] = [
    ("ssm_in", "in_proj"),
    ("ssm_out", "out_proj"),
    ("ssm_conv1d", "conv1d"),
    ("ssm_norm", "norm"),
    ("ssm_a", "A"),
    ("ssm_d", "D"),
    ("ssm_dt.bias", "dt_bias"),
    ("attn_q", "q_proj"),
    ("attn_k", "k_proj"),
    ("attn_v", "v_proj"),
    ("attn_output", "o_proj"),
    ("ffn_up", "up_proj"),
    ("ffn_down", "down_proj"),
    ("ffn_gate_inp", "gate"),
    ("exp_probs_b.bias", "gate.e_score_correction_bias"),
    ("exp_probs_b", "gate.e_score_correction_bias"),
    ("ffn_up_shexp", "shared_experts.up_proj"),
    ("ffn_down_shexp", "shared_experts.down_proj"),
    ("ffn_latent_down", "fc1_latent_proj"),
    ("ffn_latent_up", "fc2_latent_proj"),
    ("attn_norm", ""),
];
/// Model types whose rows of q and k the converter permutes: also Nemotron-H, which has no rotary embedding to need it.
const PERMUTED: [&str; 2] = ["llama", "nemotron_h"];
/// Tensors that hold all experts of a layer.
const STACKED_EXPERTS: [(&str, &str); 2] =
    [("ffn_up_exps", "up_proj"), ("ffn_down_exps", "down_proj")];
/// Name in a block, and the name behind `model.layers.N.`.
const LLAMA: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];
/// Frequency factors, which are part of the configuration here.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The tensors of a file as a checkpoint has them.
pub(super) fn entries(
    file: &str,
    config: &ModelConfig,
    tensors: &[Tensor],
) -> Result<Vec<(String, MappedTensor)>, CheckpointError> {
    let expected: HashMap<String, ExpectedTensor> = config
        .tensors()
        .into_iter()
        .map(|tensor| (tensor.name.clone(), tensor))
        .collect();
    let mut out = Vec::new();
    for tensor in tensors.iter().filter(|tensor| tensor.name != ROPE_FACTORS) {
        if let Some((scope, part)) = stacked_experts(config, &tensor.name) {
            let experts = tensor.shape.first().copied().unwrap_or(0);
            if tensor.shape.len() != 3 || experts != config.n_routed_experts {
                return Err(CheckpointError::MalformedTensor {
                    file: file.into(),
                    tensor: tensor.name.clone(),
                    message: format!(
                        "shape {:?}, expected {} matrices",
                        tensor.shape, config.n_routed_experts
                    ),
                });
            }
            let bytes = tensor.bytes.len() / experts;
            out.extend((0..experts).map(|e| {
                let start = tensor.bytes.start + e * bytes;
                let expert = MappedTensor {
                    dtype: tensor.dtype,
                    shape: tensor.shape[1..].to_vec(),
                    bytes: start..start + bytes,
                    pairs: None,
                };
                (format!("{scope}experts.{e}.{part}.weight"), expert)
            }));
            continue;
        }
        let name = canonical(config, &tensor.name);
        // The converter gives vectors and the convolution other shapes with the same elements in the same order.
        let elements: usize = tensor.shape.iter().product();
        let shape = match expected.get(&name) {
            Some(e) if is_small(e.kind) && e.elements() == elements as u64 => e.shape.clone(),
            _ => tensor.shape.clone(),
        };
        let turned = [".q_proj.", ".k_proj."]
            .iter()
            .any(|part| name.contains(part));
        let mapped = MappedTensor {
            dtype: tensor.dtype,
            shape,
            bytes: tensor.bytes.clone(),
            pairs: (turned && PERMUTED.contains(&config.model_type.as_str()))
                .then_some(config.head_dim),
        };
        out.push((name, mapped));
    }
    Ok(out)
}

fn is_small(kind: TensorKind) -> bool {
    matches!(
        kind,
        TensorKind::Norm | TensorKind::Conv1d | TensorKind::Ssm | TensorKind::Bias
    )
}

/// (number of the block, rest of the name)
fn in_block(name: &str) -> Option<(usize, &str)> {
    let (block, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    Some((block.parse().ok()?, rest))
}

fn stacked_experts(config: &ModelConfig, name: &str) -> Option<(String, &'static str)> {
    let (block, rest) = in_block(name).filter(|(block, _)| *block < config.layers.len())?;
    let (_, part) = STACKED_EXPERTS
        .iter()
        .find(|(own, _)| rest.strip_suffix(".weight") == Some(*own))?;
    Some((config.layer_names(block).mixer, part))
}

/// The name in the family's checkpoints; an unknown one stays, and is then refused as not belonging to the model.
fn canonical(config: &ModelConfig, name: &str) -> String {
    match name {
        "token_embd.weight" => return config.embeddings_name().into(),
        "output_norm.weight" => return config.final_norm_name().into(),
        "output.weight" => return "lm_head.weight".into(),
        _ => {}
    }
    let Some((block, rest)) = in_block(name) else {
        return name.into();
    };
    let of = |table: &[(&str, &'static str)]| {
        // A name stands for itself or carries `.weight` or `.bias`.
        table.iter().find_map(|(own, theirs)| {
            let end = rest.strip_prefix(own)?;
            ["", ".weight", ".bias"]
                .contains(&end)
                .then(|| (*theirs, end.to_string()))
        })
    };
    match config.family {
        Family::NemotronH if block < config.layers.len() => match of(&NEMOTRON_H) {
            Some(("", _)) => config.layer_names(block).norm,
            Some((theirs, end)) => config.layer_names(block).mixer + theirs + &end,
            None => name.into(),
        },
        Family::Llama if 2 * block < config.layers.len() => match of(&LLAMA) {
            Some((theirs, end)) => format!("model.layers.{block}.{theirs}{end}"),
            None => name.into(),
        },
        _ => name.into(),
    }
}
