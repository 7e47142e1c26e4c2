//! Reading the configuration of the Nemotron-H / Nemotron 3 family.

use serde_json::{Map, Value};

use super::domain::{dtype, mtp_layers, time_step_limit};
use super::json::{Fields, missing, size};
use super::model::{Family, MAX_EXPERTS, MAX_HEADS, MAX_ROWS, MAX_WIDTH, ModelConfig};
use super::pattern::stack;
use super::{ConfigError, LayerKind, Presence};

const MAX_CONV_KERNEL: usize = 64;

impl ModelConfig {
    pub(super) fn from_nemotron_h(map: &Map<String, Value>) -> Result<ModelConfig, ConfigError> {
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
        let mut config = ModelConfig {
            model_type: "nemotron_h".into(),
            vocab_size: fields.size(&["vocab_size"], MAX_ROWS)?,
            hidden_size: fields.size(&["hidden_size"], MAX_WIDTH)?,
            norm_eps: fields.positive(&["layer_norm_epsilon", "norm_eps"])?,
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
            ..ModelConfig::empty(Family::NemotronH)
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
        config.check_sizes()?;
        Ok(config)
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
        Ok(())
    }

    fn read_attention(&mut self, fields: &Fields<'_>) -> Result<(), ConfigError> {
        self.num_attention_heads = fields.size(&["num_attention_heads"], MAX_HEADS)?;
        self.num_key_value_heads = fields.size(&["num_key_value_heads"], MAX_HEADS)?;
        self.head_dim = fields.size(&["head_dim", "attention_head_dim"], MAX_HEADS)?;
        if fields.flag("attention_bias", false)? {
            self.qkv_bias = Some(Presence::Optional);
            self.o_bias = Some(Presence::Optional);
        }
        Ok(())
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
