//! The configuration of a model of any family: a stack of layers, each one mixer behind one norm with one residual addition.

use std::path::Path;

use jetblock_ops::rope::RopeConfig;
use jetblock_tensor::DType;
use serde_json::{Map, Value};

use super::domain::{at_most, divides, fits};
use super::json::{Fields, missing, parse_object, shown};
use super::{
    ConfigError, LayerKind, Presence, QuantizationConfig, TransformerFamily, pattern, read_config,
    read_quantization,
};

/// The largest width (hidden, latent, intermediate).
pub const MAX_WIDTH: usize = 1 << 20;
/// The largest other dimension of a tensor (vocabulary, fused projections). With [`MAX_WIDTH`] and [`MAX_EXPERTS`] it keeps
/// every count and byte size of a model inside 63 bits.
pub const MAX_ROWS: usize = 1 << 22;
/// The most routed experts, over all layers together; the largest release has 24,576.
pub const MAX_EXPERTS: usize = 1 << 17;
/// The most heads of a layer, and the largest width of one.
pub(crate) const MAX_HEADS: usize = 1 << 16;

/// What the tensors of a family are called, and which MLP and attention it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Nemotron-H and Nemotron 3: one mixer a layer, squared ReLU, no position encoding.
    NemotronH,
    /// Llama and its relatives: attention with rotary embedding, then a gated MLP. Each half of their layers is a layer here.
    Llama,
}

/// A model. Sizes of layer kinds that the stack does not have are 0.
///
/// Absent on purpose, of Nemotron-H: `expand` (inner is heads x head_dim), `rope_theta` and `partial_rotary_factor` (its attention
/// has no rotary embedding), `time_step_min`, `time_step_max` and `time_step_floor` (they initialise dt_bias in training and never
/// clamp), `chunk_size` (the recurrence is the definition) and `mamba_ssm_cache_dtype` (the state is f32).
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// `model_type`, for reports.
    pub model_type: String,
    /// Names of tensors, kind of MLP.
    pub family: Family,
    /// Kind of each layer: `layers_block_type` or `hybrid_override_pattern`, or attention and MLP in turn.
    pub layers: Vec<LayerKind>,
    /// V: rows of the embedding tables.
    pub vocab_size: usize,
    /// D: width of the residual stream.
    pub hidden_size: usize,
    /// eps of every norm, the gated one included (`layer_norm_epsilon`, `rms_norm_eps`).
    pub norm_eps: f32,
    /// Whether logits come from the embedding table, without an `lm_head.weight`.
    pub tie_word_embeddings: bool,
    /// `dtype` or `torch_dtype`.
    pub dtype: Option<DType>,
    /// How the weights of linear layers are quantized, where they are.
    pub quantization: Option<QuantizationConfig>,
    /// Longest sequence in training; no tensor depends on it.
    pub max_position_embeddings: Option<usize>,

    /// QH: query heads.
    pub num_attention_heads: usize,
    /// KVH: key/value heads.
    pub num_key_value_heads: usize,
    /// Width of an attention head; independent of hidden_size / heads.
    pub head_dim: usize,
    /// Whether q, k and v have biases. Writers of Nemotron-H set it without storing any: optional there.
    pub qkv_bias: Option<Presence>,
    /// Whether o has a bias.
    pub o_bias: Option<Presence>,
    /// Whether each head of q and k passes an rms norm before it is turned.
    pub qk_norm: bool,
    /// The rotary embedding of q and k, where there is one.
    pub rope: Option<RopeConfig>,

    /// H: Mamba heads.
    pub mamba_num_heads: usize,
    /// P: width of a Mamba head.
    pub mamba_head_dim: usize,
    /// N: state per channel.
    pub ssm_state_size: usize,
    /// G: groups that share B and C, and of the gated norm.
    pub n_groups: usize,
    /// K: taps of the causal convolution.
    pub conv_kernel: usize,
    /// Bias of in_proj and out_proj.
    pub use_bias: bool,
    /// Bias of conv1d.
    pub use_conv_bias: bool,
    /// Whether the checkpoint has `A = -exp(A_log)` itself, as GGUF files do.
    pub decay_rates_stored: bool,
    /// Bounds of dt after softplus, (0, inf) when absent.
    pub time_step_limit: (f32, f32),

    /// Width of the dense MLP of each layer, 0 where the layer is another kind.
    pub intermediate_sizes: Vec<usize>,
    /// Bias of the MLPs and latent projections.
    pub mlp_bias: bool,

    /// E: routed experts of a layer.
    pub n_routed_experts: usize,
    /// k: experts chosen for a token.
    pub num_experts_per_tok: usize,
    /// Width of a routed expert.
    pub moe_intermediate_size: usize,
    /// Width of the one shared expert.
    pub moe_shared_expert_intermediate_size: usize,
    /// Width that routed experts read and write, where it is not hidden_size.
    pub moe_latent_size: Option<usize>,
    /// Factor on the routed weights.
    pub routed_scaling_factor: f32,
    /// Whether the chosen scores are renormalised.
    pub norm_topk_prob: bool,
    /// Groups of experts in routing.
    pub n_group: usize,
    /// Groups that stay candidates.
    pub topk_group: usize,

    /// Kinds of the layers of the multi-token-prediction head, empty without one.
    pub mtp_layers: Vec<LayerKind>,

    /// The token in front of every text.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a generation; `generation_config.json` names more of them.
    pub eos_token_ids: Vec<u32>,
    /// The token of padding.
    pub pad_token_id: Option<u32>,
}

/// The families that this version runs, for messages.
pub(super) const FAMILIES: &str = "nemotron_h, llama, mistral, qwen2, qwen3";

fn unknown_family(field: &str, name: &str) -> ConfigError {
    ConfigError::Unsupported {
        what: format!("config.json: {field} {}", shown(&name.into())),
        reason: format!("this version runs {FAMILIES}"),
    }
}

impl ModelConfig {
    /// Reads the `config.json` of a model folder.
    pub fn open(dir: &Path) -> Result<ModelConfig, ConfigError> {
        let map = parse_object(&read_config(dir)?)?;
        Ok(ModelConfig {
            quantization: read_quantization(dir, &map)?,
            ..ModelConfig::from_map(&map)?
        })
    }

    /// Reads the text of a `config.json`, with or without Python's bare `Infinity` tokens.
    pub fn from_json(bytes: &[u8]) -> Result<ModelConfig, ConfigError> {
        ModelConfig::from_map(&parse_object(bytes)?)
    }

    pub(crate) fn from_map(map: &Map<String, Value>) -> Result<ModelConfig, ConfigError> {
        let quantization = QuantizationConfig::from_config(map)?;
        let config = ModelConfig::of_family(map)?;
        Ok(ModelConfig {
            quantization,
            ..config
        })
    }

    fn of_family(map: &Map<String, Value>) -> Result<ModelConfig, ConfigError> {
        let fields = Fields(map);
        match fields.text(&["model_type"])? {
            Some((_, "nemotron_h")) => ModelConfig::from_nemotron_h(map),
            Some((_, name)) if TransformerFamily::from_name(name).is_some() => {
                ModelConfig::from_transformer(map)
            }
            Some((_, name)) => Err(unknown_family("model_type", name)),
            None => match map.get("architectures").and_then(|list| list.get(0)) {
                Some(name) if name == "NemotronHForCausalLM" => ModelConfig::from_nemotron_h(map),
                Some(name) => Err(unknown_family(
                    "architectures",
                    name.as_str().unwrap_or("?"),
                )),
                None => Err(missing(&["model_type"], format!("one of {FAMILIES}"))),
            },
        }
    }

    /// Width of the Mamba mixer: heads x head_dim, never `expand` x hidden_size.
    pub fn mamba_inner(&self) -> usize {
        self.mamba_num_heads * self.mamba_head_dim
    }

    /// Channels of the causal convolution: x, B and C.
    pub fn conv_dim(&self) -> usize {
        self.mamba_inner() + 2 * self.n_groups * self.ssm_state_size
    }

    /// Rows of in_proj: z, xBC and dt.
    pub fn in_proj_rows(&self) -> usize {
        self.mamba_inner() + self.conv_dim() + self.mamba_num_heads
    }

    /// Width of all query heads.
    pub fn q_width(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key or value heads.
    pub fn kv_width(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Width that routed experts read and write.
    pub fn expert_width(&self) -> usize {
        self.moe_latent_size.unwrap_or(self.hidden_size)
    }

    /// Checks what the sizes must have to do with each other, of the layer kinds that the model has.
    pub(crate) fn check_sizes(&self) -> Result<(), ConfigError> {
        let has = |kind| self.layers.contains(&kind) || self.mtp_layers.contains(&kind);
        if has(LayerKind::Attention) {
            self.check_attention()?;
        }
        if has(LayerKind::Mamba) {
            self.check_mamba()?;
        }
        if has(LayerKind::Moe) {
            self.check_moe()?;
        }
        Ok(())
    }

    fn check_mamba(&self) -> Result<(), ConfigError> {
        divides(
            "mamba_num_heads",
            self.mamba_num_heads,
            "n_groups",
            self.n_groups,
        )?;
        fits(
            "mamba_num_heads * mamba_head_dim",
            self.mamba_inner(),
            MAX_ROWS,
        )?;
        fits("rows of in_proj", self.in_proj_rows(), MAX_ROWS)
    }

    fn check_moe(&self) -> Result<(), ConfigError> {
        let mtp = self.mtp_layers.iter().filter(|k| **k == LayerKind::Moe);
        fits(
            "n_routed_experts * MoE layers",
            self.n_routed_experts * (self.count(LayerKind::Moe) + mtp.count()),
            MAX_EXPERTS,
        )?;
        divides(
            "n_routed_experts",
            self.n_routed_experts,
            "n_group",
            self.n_group,
        )?;
        at_most("topk_group", self.topk_group, "n_group", self.n_group)?;
        let candidates = self.n_routed_experts / self.n_group * self.topk_group;
        at_most(
            "num_experts_per_tok",
            self.num_experts_per_tok,
            "the routed experts of topk_group groups",
            candidates,
        )
    }

    fn check_attention(&self) -> Result<(), ConfigError> {
        divides(
            "num_attention_heads",
            self.num_attention_heads,
            "num_key_value_heads",
            self.num_key_value_heads,
        )?;
        fits("num_attention_heads * head_dim", self.q_width(), MAX_ROWS)
    }

    /// Whether an MLP has a gate beside its up projection: `silu(gate) * up`; else it is squared ReLU.
    pub fn gated_mlp(&self) -> bool {
        self.family == Family::Llama
    }

    /// Number of layers of a kind, the multi-token-prediction head not counted.
    pub fn count(&self, kind: LayerKind) -> usize {
        self.layers.iter().filter(|k| **k == kind).count()
    }

    /// The stack as a pattern string.
    pub fn pattern(&self) -> String {
        pattern(&self.layers)
    }

    pub(crate) fn empty(family: Family) -> ModelConfig {
        ModelConfig {
            model_type: String::new(),
            family,
            layers: Vec::new(),
            vocab_size: 0,
            hidden_size: 0,
            norm_eps: 0.0,
            tie_word_embeddings: false,
            dtype: None,
            quantization: None,
            max_position_embeddings: None,
            num_attention_heads: 0,
            num_key_value_heads: 0,
            head_dim: 0,
            qkv_bias: None,
            o_bias: None,
            qk_norm: false,
            rope: None,
            mamba_num_heads: 0,
            mamba_head_dim: 0,
            ssm_state_size: 0,
            n_groups: 0,
            conv_kernel: 0,
            use_bias: false,
            use_conv_bias: false,
            decay_rates_stored: false,
            time_step_limit: (0.0, f32::INFINITY),
            intermediate_sizes: Vec::new(),
            mlp_bias: false,
            n_routed_experts: 0,
            num_experts_per_tok: 0,
            moe_intermediate_size: 0,
            moe_shared_expert_intermediate_size: 0,
            moe_latent_size: None,
            routed_scaling_factor: 1.0,
            norm_topk_prob: true,
            n_group: 1,
            topk_group: 1,
            mtp_layers: Vec::new(),
            bos_token_id: None,
            eos_token_ids: Vec::new(),
            pad_token_id: None,
        }
    }
}
