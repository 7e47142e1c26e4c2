//! The configuration of the Nemotron-H / Nemotron 3 family.

use std::path::Path;

use jetblock_tensor::DType;
use serde::Serialize;
use serde_json::{Map, Value};

use super::domain::{
    at_most, check_family, divides, dtype, dtype_name, fits, mtp_layers, time_step_limit,
};
use super::json::{Fields, missing, parse_object, size};
use super::pattern::stack;
use super::{ConfigError, LayerKind, pattern, read_config};

/// The largest width (hidden, latent, intermediate).
pub const MAX_WIDTH: usize = 1 << 20;
/// The largest other dimension of a tensor (vocabulary, fused projections). With [`MAX_WIDTH`] and [`MAX_EXPERTS`] it keeps
/// every count and byte size of a model inside 63 bits.
pub const MAX_ROWS: usize = 1 << 22;
/// The most routed experts, over all layers together; the largest release has 24,576.
pub const MAX_EXPERTS: usize = 1 << 17;

const MAX_HEADS: usize = 1 << 16;
const MAX_CONV_KERNEL: usize = 64;

/// A Nemotron-H model. Sizes of layer kinds that the stack does not have are 0.
///
/// Absent on purpose: `expand` (inner is heads x head_dim), `rope_theta` and `partial_rotary_factor` (attention has no rotary
/// embedding), `time_step_min`, `time_step_max` and `time_step_floor` (they initialise dt_bias in training and never clamp),
/// `chunk_size` (the recurrence is the definition) and `mamba_ssm_cache_dtype` (the state is f32).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NemotronHConfig {
    /// Kind of each layer, from `layers_block_type` or `hybrid_override_pattern`.
    pub layers: Vec<LayerKind>,
    /// V: rows of the embedding tables.
    pub vocab_size: usize,
    /// D: width of the residual stream.
    pub hidden_size: usize,
    /// eps of every norm, the gated one included.
    pub layer_norm_epsilon: f32,
    /// Whether logits come from the embedding table, without an `lm_head.weight`.
    pub tie_word_embeddings: bool,
    /// `dtype` or `torch_dtype`.
    #[serde(serialize_with = "dtype_name")]
    pub dtype: Option<DType>,
    /// Longest sequence in training; no tensor depends on it.
    pub max_position_embeddings: Option<usize>,

    /// QH: query heads.
    pub num_attention_heads: usize,
    /// KVH: key/value heads.
    pub num_key_value_heads: usize,
    /// Width of an attention head; independent of hidden_size / heads.
    pub head_dim: usize,
    /// Whether q, k, v and o may have biases. Writers set it without storing any, so they stay optional.
    pub attention_bias: bool,

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

impl NemotronHConfig {
    /// Reads the `config.json` of a model folder.
    pub fn open(dir: &Path) -> Result<NemotronHConfig, ConfigError> {
        NemotronHConfig::from_json(&read_config(dir)?)
    }

    /// Reads the text of a `config.json`, with or without Python's bare `Infinity` tokens.
    pub fn from_json(bytes: &[u8]) -> Result<NemotronHConfig, ConfigError> {
        NemotronHConfig::from_map(&parse_object(bytes)?)
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

    /// Number of layers of a kind, the multi-token-prediction head not counted.
    pub fn count(&self, kind: LayerKind) -> usize {
        self.layers.iter().filter(|k| **k == kind).count()
    }

    /// The stack as a pattern string.
    pub fn pattern(&self) -> String {
        pattern(&self.layers)
    }

    pub(crate) fn from_map(map: &Map<String, Value>) -> Result<NemotronHConfig, ConfigError> {
        check_family(map)?;
        let fields = Fields(map);
        let (stack_field, layers) = stack(&fields, "layers_block_type", "hybrid_override_pattern")?;
        if let Some(stated) = fields.optional_size(&["num_hidden_layers"], usize::MAX)?
            && stated != layers.len()
        {
            return Err(ConfigError::Conflict {
                first: "num_hidden_layers".into(),
                first_value: format!("{stated} layers"),
                second: stack_field.into(),
                second_value: format!("{} layers", layers.len()),
            });
        }
        let mtp_layers = mtp_layers(&fields)?;
        let mut config = NemotronHConfig {
            vocab_size: fields.size(&["vocab_size"], MAX_ROWS)?,
            hidden_size: fields.size(&["hidden_size"], MAX_WIDTH)?,
            layer_norm_epsilon: fields.positive(&["layer_norm_epsilon", "norm_eps"])?,
            tie_word_embeddings: fields.flag("tie_word_embeddings", false)?,
            dtype: dtype(&fields)?,
            max_position_embeddings: fields
                .optional_size(&["max_position_embeddings"], usize::MAX)?,
            bos_token_id: fields.token("bos_token_id")?,
            eos_token_ids: fields.tokens("eos_token_id")?,
            pad_token_id: fields.token("pad_token_id")?,
            intermediate_sizes: vec![0; layers.len()],
            layers,
            mtp_layers,
            ..NemotronHConfig::empty()
        };
        let has = |kind| config.layers.contains(&kind) || config.mtp_layers.contains(&kind);
        let (mamba, attention) = (has(LayerKind::Mamba), has(LayerKind::Attention));
        let (mlp, moe) = (config.layers.contains(&LayerKind::Mlp), has(LayerKind::Moe));
        if mamba {
            config.read_mamba(&fields)?;
        }
        if attention {
            config.read_attention(&fields)?;
        }
        if mlp {
            config.read_mlp(&fields)?;
        }
        if moe {
            config.read_moe(&fields)?;
        }
        if mlp || moe {
            fields.only("mlp_hidden_act", "relu2")?;
            config.mlp_bias = fields.flag("mlp_bias", false)?;
        }
        Ok(config)
    }

    fn empty() -> NemotronHConfig {
        NemotronHConfig {
            layers: Vec::new(),
            vocab_size: 0,
            hidden_size: 0,
            layer_norm_epsilon: 0.0,
            tie_word_embeddings: false,
            dtype: None,
            max_position_embeddings: None,
            num_attention_heads: 0,
            num_key_value_heads: 0,
            head_dim: 0,
            attention_bias: false,
            mamba_num_heads: 0,
            mamba_head_dim: 0,
            ssm_state_size: 0,
            n_groups: 0,
            conv_kernel: 0,
            use_bias: false,
            use_conv_bias: false,
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

    fn read_mamba(&mut self, fields: &Fields<'_>) -> Result<(), ConfigError> {
        self.mamba_num_heads = fields.size(&["mamba_num_heads"], MAX_HEADS)?;
        self.mamba_head_dim = fields.size(&["mamba_head_dim"], MAX_HEADS)?;
        self.ssm_state_size = fields.size(&["ssm_state_size", "mamba_d_state"], MAX_HEADS)?;
        self.n_groups = fields.size(&["n_groups", "mamba_n_groups"], MAX_HEADS)?;
        self.conv_kernel = fields.size(&["conv_kernel", "mamba_d_conv"], MAX_CONV_KERNEL)?;
        self.use_bias = fields.flag("use_bias", false)?;
        self.use_conv_bias = fields.flag("use_conv_bias", true)?;
        self.time_step_limit = time_step_limit(fields)?;
        fields.only("mamba_hidden_act", "silu")?;
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

    fn read_attention(&mut self, fields: &Fields<'_>) -> Result<(), ConfigError> {
        self.num_attention_heads = fields.size(&["num_attention_heads"], MAX_HEADS)?;
        self.num_key_value_heads = fields.size(&["num_key_value_heads"], MAX_HEADS)?;
        self.head_dim = fields.size(&["head_dim", "attention_head_dim"], MAX_HEADS)?;
        self.attention_bias = fields.flag("attention_bias", false)?;
        divides(
            "num_attention_heads",
            self.num_attention_heads,
            "num_key_value_heads",
            self.num_key_value_heads,
        )?;
        fits("num_attention_heads * head_dim", self.q_width(), MAX_ROWS)
    }

    /// The width is one number, or a list in pruned models: of one entry, one a dense layer, or one a layer of the stack.
    fn read_mlp(&mut self, fields: &Fields<'_>) -> Result<(), ConfigError> {
        const NAME: &str = "intermediate_size";
        let dense = self.count(LayerKind::Mlp);
        let one = |value| size(NAME, value, MAX_WIDTH);
        let (_, value) = fields
            .get(&[NAME])?
            .ok_or_else(|| missing(&[NAME], "the width of the dense MLP"))?;
        let widths: Vec<usize> = match value {
            Value::Array(list) if list.len() == 1 => vec![one(&list[0])?; dense],
            Value::Array(list) if list.len() == dense => {
                list.iter().map(one).collect::<Result<_, _>>()?
            }
            Value::Array(list) if list.len() == self.layers.len() => {
                let of_dense = list
                    .iter()
                    .zip(&self.layers)
                    .filter(|(_, kind)| **kind == LayerKind::Mlp);
                of_dense
                    .map(|(value, _)| one(value))
                    .collect::<Result<_, _>>()?
            }
            Value::Array(list) => {
                let expected = format!(
                    "1, {dense} (dense layers) or {} (layers) entries",
                    self.layers.len()
                );
                return Err(ConfigError::value(
                    NAME,
                    expected,
                    format!("a list of {}", list.len()),
                ));
            }
            value => vec![one(value)?; dense],
        };
        let at = (0..self.layers.len()).filter(|i| self.layers[*i] == LayerKind::Mlp);
        at.zip(widths)
            .for_each(|(i, width)| self.intermediate_sizes[i] = width);
        Ok(())
    }

    fn read_moe(&mut self, fields: &Fields<'_>) -> Result<(), ConfigError> {
        self.n_routed_experts = fields.size(&["n_routed_experts"], MAX_EXPERTS)?;
        self.num_experts_per_tok = fields.size(&["num_experts_per_tok"], MAX_EXPERTS)?;
        self.moe_intermediate_size = fields.size(&["moe_intermediate_size"], MAX_WIDTH)?;
        self.moe_shared_expert_intermediate_size =
            fields.size(&["moe_shared_expert_intermediate_size"], MAX_WIDTH)?;
        self.moe_latent_size = fields.optional_size(&["moe_latent_size"], MAX_WIDTH)?;
        self.routed_scaling_factor = fields.positive(&["routed_scaling_factor"])?;
        self.norm_topk_prob = fields.flag("norm_topk_prob", true)?;
        self.n_group = fields.count_or("n_group", 1, MAX_EXPERTS)?;
        self.topk_group = fields.count_or("topk_group", 1, MAX_EXPERTS)?;
        let layers = self.count(LayerKind::Moe)
            + self
                .mtp_layers
                .iter()
                .filter(|k| **k == LayerKind::Moe)
                .count();
        fits(
            "n_routed_experts * MoE layers",
            self.n_routed_experts * layers,
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
        )?;
        // Readers disagree whether a count multiplies the width or is ignored; with 1 they agree.
        match fields.count_or("n_shared_experts", 1, MAX_EXPERTS)? {
            1 => Ok(()),
            n => Err(ConfigError::Unsupported {
                what: format!("config.json: n_shared_experts {n}"),
                reason:
                    "a layer has one shared expert of width moe_shared_expert_intermediate_size"
                        .into(),
            }),
        }
    }
}
