//! Plain transformers (attention and MLP in every layer), as far as their parameters are concerned: what the detector counts. Those
//! that this version runs are completed in `llama.rs`.

use jetblock_tensor::DType;
use serde::Serialize;
use serde_json::{Map, Value};

use super::domain::{divides, dtype, dtype_name};
use super::json::{Fields, missing, parse_object, shown};
use super::model::MAX_HEADS;
use super::{ConfigError, LayerKind, MAX_EXPERTS, MAX_LAYERS, MAX_ROWS, MAX_WIDTH};

/// Model families that differ in where they have biases, norms and experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TransformerFamily {
    /// Llama.
    Llama,
    /// Mistral, dense.
    Mistral,
    /// Mixtral: experts in every layer.
    Mixtral,
    /// Qwen 2 and 2.5: biases of q, k and v.
    Qwen2,
    /// Qwen 3, dense: norms of q and k.
    Qwen3,
    /// Qwen 3 with experts in some or all layers.
    Qwen3Moe,
}

impl TransformerFamily {
    const ALL: [(TransformerFamily, &'static str); 6] = [
        (TransformerFamily::Llama, "llama"),
        (TransformerFamily::Mistral, "mistral"),
        (TransformerFamily::Mixtral, "mixtral"),
        (TransformerFamily::Qwen2, "qwen2"),
        (TransformerFamily::Qwen3, "qwen3"),
        (TransformerFamily::Qwen3Moe, "qwen3_moe"),
    ];

    /// The name in `model_type`.
    pub fn name(self) -> &'static str {
        TransformerFamily::ALL[self as usize].1
    }

    pub(super) fn from_name(name: &str) -> Option<TransformerFamily> {
        TransformerFamily::ALL
            .into_iter()
            .find(|(_, n)| *n == name)
            .map(|(family, _)| family)
    }
}

/// A plain transformer, as far as its parameters are concerned.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TransformerConfig {
    /// `model_type`.
    pub family: TransformerFamily,
    /// Second half of each layer: MLP or mixture of experts. The first half is attention.
    pub feed_forward: Vec<LayerKind>,
    /// Rows of the embedding tables.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key/value heads.
    pub num_key_value_heads: usize,
    /// Width of an attention head.
    pub head_dim: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Whether logits come from the embedding table.
    pub tie_word_embeddings: bool,
    /// Biases of q, k, v and o.
    pub attention_bias: bool,
    /// Biases of the MLP.
    pub mlp_bias: bool,
    /// Routed experts of a layer, 0 without.
    pub num_experts: usize,
    /// Experts chosen for a token.
    pub num_experts_per_tok: usize,
    /// Width of a routed expert.
    pub moe_intermediate_size: usize,
    /// `dtype` or `torch_dtype`.
    #[serde(serialize_with = "dtype_name")]
    pub dtype: Option<DType>,
}

impl TransformerConfig {
    /// The families that the detector knows, for messages.
    fn families() -> String {
        TransformerFamily::ALL.map(|(_, name)| name).join(", ")
    }

    /// Reads the text of a `config.json`.
    pub fn from_json(bytes: &[u8]) -> Result<TransformerConfig, ConfigError> {
        TransformerConfig::from_map(&parse_object(bytes)?)
    }

    pub(super) fn from_map(map: &Map<String, Value>) -> Result<TransformerConfig, ConfigError> {
        let fields = Fields(map);
        let (_, name) = fields
            .text(&["model_type"])?
            .ok_or_else(|| missing(&["model_type"], "a model family"))?;
        let family =
            TransformerFamily::from_name(name).ok_or_else(|| ConfigError::Unsupported {
                what: format!("config.json: model_type {}", shown(&name.into())),
                reason: format!(
                    "the detector knows nemotron_h, {}",
                    TransformerConfig::families()
                ),
            })?;
        let layers = fields.size(&["num_hidden_layers"], MAX_LAYERS)?;
        let hidden_size = fields.size(&["hidden_size"], MAX_WIDTH)?;
        let num_attention_heads = fields.size(&["num_attention_heads"], MAX_HEADS)?;
        let num_key_value_heads = fields
            .optional_size(&["num_key_value_heads"], MAX_HEADS)?
            .unwrap_or(num_attention_heads);
        divides(
            "num_attention_heads",
            num_attention_heads,
            "num_key_value_heads",
            num_key_value_heads,
        )?;
        let head_dim = match fields.optional_size(&["head_dim"], MAX_HEADS)? {
            Some(head_dim) => head_dim,
            None => {
                divides(
                    "hidden_size",
                    hidden_size,
                    "num_attention_heads",
                    num_attention_heads,
                )?;
                hidden_size / num_attention_heads
            }
        };
        let mut config = TransformerConfig {
            family,
            feed_forward: vec![LayerKind::Mlp; layers],
            vocab_size: fields.size(&["vocab_size"], MAX_ROWS)?,
            hidden_size,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            intermediate_size: fields.size(&["intermediate_size"], MAX_WIDTH)?,
            tie_word_embeddings: fields.flag("tie_word_embeddings", false)?,
            attention_bias: fields.flag("attention_bias", false)?,
            mlp_bias: fields.flag("mlp_bias", false)?,
            num_experts: 0,
            num_experts_per_tok: 0,
            moe_intermediate_size: 0,
            dtype: dtype(&fields)?,
        };
        config.read_experts(&fields)?;
        Ok(config)
    }

    /// Parameters of the attention of a layer, the norm in front of it included.
    pub fn attention_parameters(&self) -> u64 {
        let d = self.hidden_size as u64;
        let q = (self.num_attention_heads * self.head_dim) as u64;
        let kv = (self.num_key_value_heads * self.head_dim) as u64;
        let extra = match self.family {
            TransformerFamily::Qwen2 => q + 2 * kv,
            TransformerFamily::Qwen3 | TransformerFamily::Qwen3Moe => 2 * self.head_dim as u64,
            _ => 0,
        };
        let bias = if self.attention_bias && self.family != TransformerFamily::Qwen2 {
            q + 2 * kv + d
        } else {
            0
        };
        d * q + 2 * d * kv + q * d + extra + bias + d
    }

    /// Parameters of the MLP of a layer, the norm in front of it included.
    pub fn mlp_parameters(&self) -> u64 {
        let (d, i) = (self.hidden_size as u64, self.intermediate_size as u64);
        let bias = if self.mlp_bias { 2 * i + d } else { 0 };
        3 * d * i + bias + d
    }

    /// Parameters of the mixture of experts of a layer without its routed experts, the norm in front of it included.
    pub fn router_parameters(&self) -> u64 {
        (self.num_experts as u64 + 1) * self.hidden_size as u64
    }

    /// Parameters of the routed experts of a layer.
    pub fn routed_parameters(&self) -> u64 {
        3 * self.num_experts as u64 * self.hidden_size as u64 * self.moe_intermediate_size as u64
    }

    fn read_experts(&mut self, fields: &Fields<'_>) -> Result<(), ConfigError> {
        match self.family {
            TransformerFamily::Mixtral => {
                self.num_experts = fields.size(&["num_local_experts"], MAX_EXPERTS)?;
                self.moe_intermediate_size = self.intermediate_size;
                self.feed_forward.fill(LayerKind::Moe);
            }
            TransformerFamily::Qwen3Moe => {
                self.num_experts = fields.size(&["num_experts"], MAX_EXPERTS)?;
                self.moe_intermediate_size = fields.size(&["moe_intermediate_size"], MAX_WIDTH)?;
                let step = fields
                    .optional_size(&["decoder_sparse_step"], MAX_LAYERS)?
                    .unwrap_or(1);
                let sparse = self
                    .feed_forward
                    .iter_mut()
                    .enumerate()
                    .filter(|(i, _)| (i + 1).is_multiple_of(step));
                sparse.for_each(|(_, kind)| *kind = LayerKind::Moe);
                self.read_dense_layers(fields)?;
            }
            _ => return Ok(()),
        }
        self.num_experts_per_tok = fields.size(&["num_experts_per_tok"], self.num_experts)?;
        let instances = self.num_experts
            * self
                .feed_forward
                .iter()
                .filter(|k| **k == LayerKind::Moe)
                .count();
        if instances > MAX_EXPERTS {
            return Err(ConfigError::value(
                "num_experts * MoE layers",
                format!("at most {MAX_EXPERTS}"),
                instances,
            ));
        }
        Ok(())
    }

    fn read_dense_layers(&mut self, fields: &Fields<'_>) -> Result<(), ConfigError> {
        const NAME: &str = "mlp_only_layers";
        let Some((_, value)) = fields.get(&[NAME])? else {
            return Ok(());
        };
        let layers = self.feed_forward.len();
        let domain = || {
            ConfigError::value(
                NAME,
                format!("a list of layers below {layers}"),
                shown(value),
            )
        };
        for entry in value.as_array().ok_or_else(domain)? {
            let layer = entry
                .as_u64()
                .filter(|layer| *layer < layers as u64)
                .ok_or_else(domain)?;
            self.feed_forward[layer as usize] = LayerKind::Mlp;
        }
        Ok(())
    }
}
