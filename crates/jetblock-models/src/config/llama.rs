//! The configuration of Llama and its relatives that this version runs: dense layers of attention with rotary embedding and a
//! gated MLP.

use jetblock_ops::rope::{RopeConfig, RopeScaling};
use serde_json::{Map, Value};

use super::json::{Fields, float, missing, shown};
use super::{
    ConfigError, Family, LayerKind, ModelConfig, Presence, TransformerConfig, TransformerFamily,
};

impl ModelConfig {
    pub(super) fn from_transformer(map: &Map<String, Value>) -> Result<ModelConfig, ConfigError> {
        let shape = TransformerConfig::from_map(map)?;
        let fields = Fields(map);
        if shape.num_experts > 0 {
            return Err(ConfigError::Unsupported {
                what: format!("config.json: model_type {:?}", shape.family.name()),
                reason: "this version runs mixtures of experts of nemotron_h only".into(),
            });
        }
        refuse_windows(&fields)?;
        fields.only("hidden_act", "silu")?;
        let bias = |has: bool| has.then_some(Presence::Required);
        let qwen2 = shape.family == TransformerFamily::Qwen2;
        let stack = [LayerKind::Attention, LayerKind::Mlp];
        let layers = stack.repeat(shape.feed_forward.len());
        let config = ModelConfig {
            model_type: shape.family.name().into(),
            intermediate_sizes: [0, shape.intermediate_size].repeat(shape.feed_forward.len()),
            layers,
            vocab_size: shape.vocab_size,
            hidden_size: shape.hidden_size,
            norm_eps: fields.positive(&["rms_norm_eps"])?,
            tie_word_embeddings: shape.tie_word_embeddings,
            dtype: shape.dtype,
            max_position_embeddings: fields
                .optional_size(&["max_position_embeddings"], usize::MAX)?,
            num_attention_heads: shape.num_attention_heads,
            num_key_value_heads: shape.num_key_value_heads,
            head_dim: shape.head_dim,
            // Qwen 2 has these three in every release, without a field that says so.
            qkv_bias: bias(shape.attention_bias || qwen2),
            o_bias: bias(shape.attention_bias && !qwen2),
            qk_norm: shape.family == TransformerFamily::Qwen3,
            rope: Some(rope(&fields, shape.head_dim)?),
            mlp_bias: shape.mlp_bias,
            bos_token_id: fields.token("bos_token_id")?,
            eos_token_ids: fields.tokens("eos_token_id")?,
            pad_token_id: fields.token("pad_token_id")?,
            ..ModelConfig::empty(Family::Llama)
        };
        config.check_sizes()?;
        Ok(config)
    }
}

/// Attention sees all earlier tokens; a model trained with a window would be a different one beyond it.
fn refuse_windows(fields: &Fields<'_>) -> Result<(), ConfigError> {
    let window = fields.get(&["sliding_window"])?;
    // Qwen 2 and 3 write a window and switch it off beside it.
    let used = match fields.get(&["use_sliding_window"])? {
        Some((_, Value::Bool(false))) => None,
        _ => window,
    };
    match used {
        None => Ok(()),
        Some((name, value)) => Err(ConfigError::Unsupported {
            what: format!("config.json: {name} {}", shown(value)),
            reason: "attention reaches all earlier tokens".into(),
        }),
    }
}

/// The rotary embedding: `rope_theta` and `rope_scaling`, or both in `rope_parameters` as newer writers have it.
fn rope(fields: &Fields<'_>, head_dim: usize) -> Result<RopeConfig, ConfigError> {
    let nothing = Map::new();
    let object = |name| match fields.get(&[name])? {
        None => Ok(None),
        Some((_, Value::Object(map))) => Ok(Some(map)),
        Some((name, value)) => Err(ConfigError::value(name, "an object", shown(value))),
    };
    let (parameters, scaling) = (object("rope_parameters")?, object("rope_scaling")?);
    let inside = Fields(parameters.or(scaling).unwrap_or(&nothing));
    let theta = match inside.get(&["rope_theta"])? {
        Some(_) => number(&inside, &["rope_theta"])?,
        None => match fields.get(&["rope_theta"])? {
            Some(_) => number(fields, &["rope_theta"])?,
            None => 10_000.0,
        },
    };
    let partial = match fields.get(&["partial_rotary_factor"])? {
        Some(_) => number(fields, &["partial_rotary_factor"])?,
        None => 1.0,
    };
    let rotary_dim = (head_dim as f64 * partial) as usize;
    let kind = inside.text(&["rope_type", "type"])?.map(|(_, kind)| kind);
    let scaling = match kind {
        None | Some("default") => RopeScaling::None,
        Some("linear") => RopeScaling::Linear {
            factor: number(&inside, &["factor"])?,
        },
        Some("llama3") => RopeScaling::Llama3 {
            factor: number(&inside, &["factor"])?,
            low_freq_factor: number(&inside, &["low_freq_factor"])?,
            high_freq_factor: number(&inside, &["high_freq_factor"])?,
            original_max_position_embeddings: inside
                .size(&["original_max_position_embeddings"], 1 << 40)?,
        },
        Some(kind) => {
            return Err(ConfigError::Unsupported {
                what: format!("config.json: rope_type {}", shown(&kind.into())),
                reason: "this version has default, linear and llama3".into(),
            });
        }
    };
    let config = RopeConfig {
        theta,
        rotary_dim,
        scaling,
    };
    match config.check() {
        Ok(()) if rotary_dim <= head_dim => Ok(config),
        Ok(()) => Err(ConfigError::value(
            "partial_rotary_factor",
            "at most 1",
            partial,
        )),
        Err(e) => Err(ConfigError::value(
            "rope_theta or rope_scaling",
            "a rotary embedding",
            e,
        )),
    }
}

fn number(fields: &Fields<'_>, names: &[&'static str]) -> Result<f64, ConfigError> {
    let (name, value) = fields
        .get(names)?
        .ok_or_else(|| missing(names, "a number"))?;
    float(value).ok_or_else(|| ConfigError::value(name, "a number", shown(value)))
}
