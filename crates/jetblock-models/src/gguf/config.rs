//! The configuration of the model in a GGUF file, from its metadata.

use jetblock_ops::rope::{RopeConfig, RopeScaling};

use super::{Metadata, Tensor};
use crate::checkpoint::CheckpointError;
use crate::config::{
    Family, LayerKind, MAX_EXPERTS, MAX_HEADS, MAX_LAYERS, MAX_ROWS, MAX_WIDTH, ModelConfig,
    Presence,
};

const ARCHITECTURE: &str = "general.architecture";
const KNOWN: &str = "llama, qwen2, qwen3, nemotron_h or nemotron_h_moe";

struct Source<'a> {
    metadata: Metadata<'a>,
    architecture: &'a str,
    tensors: &'a [Tensor],
    /// Divisors of the rotary frequencies.
    rope_factors: Option<Vec<f32>>,
}

/// The configuration. `dtype` stays open: the stored types of the weights decide.
pub(super) fn read(
    metadata: Metadata<'_>,
    tensors: &[Tensor],
    rope_factors: Option<Vec<f32>>,
) -> Result<ModelConfig, CheckpointError> {
    let architecture = metadata
        .text(ARCHITECTURE)?
        .ok_or_else(|| metadata.wrong(ARCHITECTURE, KNOWN))?;
    let source = Source {
        metadata,
        architecture,
        tensors,
        rope_factors,
    };
    let mut config = match architecture {
        "llama" | "qwen2" | "qwen3" => source.llama()?,
        "nemotron_h" | "nemotron_h_moe" => source.nemotron_h()?,
        _ => return Err(metadata.wrong(ARCHITECTURE, KNOWN)),
    };
    config.hidden_size = source.size("embedding_length", MAX_WIDTH)?;
    config.max_position_embeddings = metadata.size(&source.key("context_length"), 1, usize::MAX)?;
    config.tie_word_embeddings = !source.has("output.weight");
    config.vocab_size = source.vocabulary()?;
    config.bos_token_id = metadata.token("tokenizer.ggml.bos_token_id")?;
    config.eos_token_ids = metadata
        .token("tokenizer.ggml.eos_token_id")?
        .into_iter()
        .collect();
    config.pad_token_id = metadata.token("tokenizer.ggml.padding_token_id")?;
    config
        .check_sizes()
        .map_err(|e| source.malformed(e.to_string().replace("config.json: ", "metadata: ")))?;
    Ok(config)
}

impl Source<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn size(&self, name: &str, most: usize) -> Result<usize, CheckpointError> {
        self.metadata.required_size(&self.key(name), most)
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.iter().any(|tensor| tensor.name == name)
    }

    /// Whether any block has the tensor.
    fn has_in_block(&self, name: &str) -> bool {
        self.tensors.iter().any(|tensor| {
            let rest = tensor.name.strip_prefix("blk.");
            rest.and_then(|rest| rest.split_once('.'))
                .is_some_and(|(_, rest)| rest == name)
        })
    }

    fn malformed(&self, message: String) -> CheckpointError {
        CheckpointError::Malformed {
            file: self.metadata.file.into(),
            message,
        }
    }

    /// Rows of the embedding table, which is what the tokens index.
    fn vocabulary(&self) -> Result<usize, CheckpointError> {
        let table = self.tensors.iter().find(|t| t.name == "token_embd.weight");
        match table.map(|table| table.shape.as_slice()) {
            Some(&[rows, _]) if (1..=MAX_ROWS).contains(&rows) => Ok(rows),
            Some(shape) => Err(self.malformed(format!(
                "tensor token_embd.weight has shape {shape:?}, expected [1 to {MAX_ROWS}, width]"
            ))),
            None => Err(self.malformed("tensor token_embd.weight is missing".into())),
        }
    }

    fn eps(&self) -> Result<f32, CheckpointError> {
        let keys = [
            "attention.layer_norm_rms_epsilon",
            "attention.layer_norm_epsilon",
        ];
        for key in keys.map(|key| self.key(key)) {
            if let Some(eps) = self.metadata.number(&key)? {
                let eps = eps as f32;
                return match eps > 0.0 && eps.is_finite() {
                    true => Ok(eps),
                    false => Err(self.metadata.wrong(&key, "a positive number")),
                };
            }
        }
        Err(self.metadata.wrong(&self.key(keys[0]), "a positive number"))
    }

    fn llama(&self) -> Result<ModelConfig, CheckpointError> {
        let blocks = self.size("block_count", MAX_LAYERS / 2)?;
        if self
            .metadata
            .get(&self.key("expert_count"))
            .and_then(|n| n.as_u64())
            > Some(0)
        {
            let reason = "this version runs mixtures of experts of nemotron_h_moe only";
            return Err(self
                .metadata
                .wrong(&self.key("expert_count"), &format!("0: {reason}")));
        }
        let heads = self.size("attention.head_count", MAX_HEADS)?;
        let width = self.size("embedding_length", MAX_WIDTH)?;
        let head_dim = match self
            .metadata
            .size(&self.key("attention.key_length"), 1, MAX_HEADS)?
        {
            Some(head_dim) => head_dim,
            None if width.is_multiple_of(heads) => width / heads,
            None => {
                return Err(self.metadata.wrong(
                    &self.key("attention.head_count"),
                    "a divisor of embedding_length",
                ));
            }
        };
        if self
            .metadata
            .get(&self.key("attention.sliding_window"))
            .is_some()
        {
            let key = self.key("attention.sliding_window");
            return Err(self
                .metadata
                .wrong(&key, "none: attention reaches all earlier tokens"));
        }
        let inner = self.size("feed_forward_length", MAX_WIDTH)?;
        Ok(ModelConfig {
            model_type: self.architecture.into(),
            layers: [LayerKind::Attention, LayerKind::Mlp].repeat(blocks),
            intermediate_sizes: [0, inner].repeat(blocks),
            norm_eps: self.eps()?,
            num_attention_heads: heads,
            num_key_value_heads: self
                .metadata
                .size(&self.key("attention.head_count_kv"), 1, MAX_HEADS)?
                .unwrap_or(heads),
            head_dim,
            qkv_bias: self
                .has_in_block("attn_q.bias")
                .then_some(Presence::Required),
            o_bias: self
                .has_in_block("attn_output.bias")
                .then_some(Presence::Required),
            mlp_bias: self.has_in_block("ffn_up.bias"),
            qk_norm: self.architecture == "qwen3",
            rope: Some(self.rope(head_dim)?),
            ..ModelConfig::empty(Family::Llama)
        })
    }

    fn rope(&self, head_dim: usize) -> Result<RopeConfig, CheckpointError> {
        let rotary = self.key("rope.dimension_count");
        let rotary_dim = self
            .metadata
            .size(&rotary, 1, MAX_HEADS)?
            .unwrap_or(head_dim);
        if rotary_dim != head_dim {
            return Err(self
                .metadata
                .wrong(&rotary, &format!("the head's width, {head_dim}")));
        }
        let theta = self.metadata.number(&self.key("rope.freq_base"))?;
        let kind = self.metadata.text(&self.key("rope.scaling.type"))?;
        let scaling = match (&self.rope_factors, kind) {
            (Some(factors), _) => RopeScaling::Factors(factors.clone()),
            (None, None | Some("none")) => RopeScaling::None,
            (None, Some("linear")) => {
                let key = self.key("rope.scaling.factor");
                let factor = self.metadata.number(&key)?;
                RopeScaling::Linear {
                    factor: factor.ok_or_else(|| self.metadata.wrong(&key, "a number"))?,
                }
            }
            (None, Some(_)) => {
                let key = self.key("rope.scaling.type");
                return Err(self.metadata.wrong(&key, "none or linear"));
            }
        };
        let config = RopeConfig {
            theta: theta.unwrap_or(10_000.0),
            rotary_dim,
            scaling,
        };
        config.check().map_err(|e| self.malformed(e.to_string()))?;
        Ok(config)
    }

    fn nemotron_h(&self) -> Result<ModelConfig, CheckpointError> {
        let blocks = self.size("block_count", MAX_LAYERS)?;
        if self
            .metadata
            .size(&self.key("nextn_predict_layers"), 0, MAX_LAYERS)?
            > Some(0)
        {
            let key = self.key("nextn_predict_layers");
            return Err(self
                .metadata
                .wrong(&key, "0: convert the model without its prediction head"));
        }
        let per_layer = |name| self.metadata.per_layer(&self.key(name), blocks, MAX_WIDTH);
        let (kv_heads, widths) = (
            per_layer("attention.head_count_kv")?,
            per_layer("feed_forward_length")?,
        );
        let moe = self.architecture == "nemotron_h_moe";
        let layers: Vec<LayerKind> = kv_heads
            .iter()
            .zip(&widths)
            .map(|(kv_heads, width)| match (kv_heads, width) {
                (0, 0) => LayerKind::Mamba,
                (0, _) if moe => LayerKind::Moe,
                (0, _) => LayerKind::Mlp,
                _ => LayerKind::Attention,
            })
            .collect();
        let has = |kind| layers.contains(&kind);
        let mut config = ModelConfig {
            model_type: "nemotron_h".into(),
            norm_eps: self.eps()?,
            mlp_bias: self.has_in_block("ffn_up.bias"),
            use_bias: self.has_in_block("ssm_in.bias"),
            use_conv_bias: self.has_in_block("ssm_conv1d.bias"),
            decay_rates_stored: true,
            ..ModelConfig::empty(Family::NemotronH)
        };
        if has(LayerKind::Attention) {
            config.num_attention_heads = self.size("attention.head_count", MAX_HEADS)?;
            config.num_key_value_heads = kv_heads.iter().copied().max().unwrap_or(0);
            config.head_dim = self.size("attention.key_length", MAX_HEADS)?;
            config.qkv_bias = Some(Presence::Optional);
            config.o_bias = Some(Presence::Optional);
        }
        if has(LayerKind::Mamba) {
            let inner = self.size("ssm.inner_size", MAX_ROWS)?;
            config.mamba_num_heads = self.size("ssm.time_step_rank", MAX_HEADS)?;
            config.mamba_head_dim = inner / config.mamba_num_heads;
            if config.mamba_inner() != inner {
                let key = self.key("ssm.inner_size");
                return Err(self
                    .metadata
                    .wrong(&key, "a multiple of ssm.time_step_rank"));
            }
            config.ssm_state_size = self.size("ssm.state_size", MAX_HEADS)?;
            config.n_groups = self.size("ssm.group_count", MAX_HEADS)?;
            config.conv_kernel = self.size("ssm.conv_kernel", 64)?;
        }
        if has(LayerKind::Moe) {
            self.experts(&mut config)?;
        } else {
            config.intermediate_sizes = widths;
        }
        config.intermediate_sizes.resize(blocks, 0);
        config.layers = layers;
        Ok(config)
    }

    fn experts(&self, config: &mut ModelConfig) -> Result<(), CheckpointError> {
        let optional = |name, most| self.metadata.size(&self.key(name), 0, most);
        config.n_routed_experts = self.size("expert_count", MAX_EXPERTS)?;
        config.num_experts_per_tok = self.size("expert_used_count", MAX_EXPERTS)?;
        config.moe_intermediate_size = self.size("expert_feed_forward_length", MAX_WIDTH)?;
        config.moe_shared_expert_intermediate_size =
            self.size("expert_shared_feed_forward_length", MAX_WIDTH)?;
        config.moe_latent_size = optional("moe_latent_size", MAX_WIDTH)?.filter(|width| *width > 0);
        config.n_group = optional("expert_group_count", MAX_EXPERTS)?
            .unwrap_or(1)
            .max(1);
        config.topk_group = optional("expert_group_used_count", MAX_EXPERTS)?
            .unwrap_or(1)
            .max(1);
        let norm = self.metadata.flag(&self.key("expert_weights_norm"))?;
        config.norm_topk_prob = norm.unwrap_or(false);
        let scale = self.metadata.number(&self.key("expert_weights_scale"))?;
        config.routed_scaling_factor = scale.unwrap_or(1.0) as f32;
        Ok(())
    }
}
