//! What a folder says about the quantization of its weights: ModelOpt's `hf_quant_config.json` or `quantization_config` in
//! `config.json`, or the `quantization_config` of compressed-tensors.
//!
//! A weight is read by the element types of its own tensors; this description must agree with them.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

use super::json::shown;
use super::{ConfigError, canonical_name};

/// The file beside `config.json` in which ModelOpt describes its work.
pub const HF_QUANT_CONFIG: &str = "hf_quant_config.json";

/// How the weights of a linear layer are quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WeightFormat {
    /// E4M3, with one f32 scale for the tensor or for each output.
    Fp8,
    /// E2M1, with an E4M3 scale for each 16 and an f32 scale for the tensor.
    Nvfp4,
}

impl WeightFormat {
    /// The name in files and reports.
    pub fn name(self) -> &'static str {
        match self {
            WeightFormat::Fp8 => "FP8",
            WeightFormat::Nvfp4 => "NVFP4",
        }
    }

    /// By the names that ModelOpt gives its algorithms. Those for activations as well are run with the weights' alone.
    fn from_algorithm(field: &str, name: &str) -> Result<WeightFormat, ConfigError> {
        match name {
            "FP8" | "FP8_PER_CHANNEL_PER_TOKEN" => Ok(WeightFormat::Fp8),
            "NVFP4" | "W4A16_NVFP4" => Ok(WeightFormat::Nvfp4),
            _ => Err(unsupported(field, name)),
        }
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The quantization of a folder's weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuantizationConfig {
    /// Where it is written.
    pub source: &'static str,
    /// The format of every quantized layer; `None` where they differ.
    pub format: Option<WeightFormat>,
    /// Formats of single layers, by canonical name.
    pub layers: BTreeMap<String, WeightFormat>,
    /// Layers that are not quantized: canonical names, in which `*` stands for any text.
    pub excluded: Vec<String>,
    /// The format of KV caches that the checkpoint was made for, as written.
    pub kv_cache: Option<String>,
}

fn unsupported(field: &str, name: &str) -> ConfigError {
    ConfigError::Unsupported {
        what: format!("{field} {}", shown(&name.into())),
        reason: "quantized weights are FP8 (E4M3) or NVFP4, from ModelOpt or compressed-tensors"
            .into(),
    }
}

impl QuantizationConfig {
    /// From the object of `hf_quant_config.json`.
    pub(crate) fn from_model_opt(
        file: &Map<String, Value>,
    ) -> Result<QuantizationConfig, ConfigError> {
        let what = "hf_quant_config.json: quantization";
        match file.get("quantization") {
            Some(Value::Object(map)) => model_opt(HF_QUANT_CONFIG, what, map),
            Some(other) => Err(wrong(what, "an object", other)),
            None => Err(wrong(what, "an object", &Value::Null)),
        }
    }

    /// From `quantization_config` in the object of `config.json`, if it is there.
    pub(crate) fn from_config(
        config: &Map<String, Value>,
    ) -> Result<Option<QuantizationConfig>, ConfigError> {
        let what = "config.json: quantization_config";
        let map = match config.get("quantization_config") {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Object(map)) => map,
            Some(other) => return Err(wrong(what, "an object", other)),
        };
        let method = text(what, map, "quant_method")?;
        match method {
            Some("compressed-tensors") => compressed_tensors(what, map).map(Some),
            Some("modelopt" | "modelopt_fp4" | "modelopt_mixed") | None => {
                // Older writers nest the description as the file beside does.
                let inner = match map.get("quantization") {
                    Some(Value::Object(inner)) => inner,
                    _ => map,
                };
                model_opt("config.json", what, inner).map(Some)
            }
            Some(other) => Err(unsupported(&format!("{what}.quant_method"), other)),
        }
    }

    /// The format declared for a layer; `None` where it is not quantized. Layers on no list have the common format.
    pub fn format_of(&self, layer: &str) -> Option<WeightFormat> {
        if self.excluded.iter().any(|pattern| matches(pattern, layer)) {
            return None;
        }
        self.layers.get(layer).copied().or(self.format)
    }
}

fn model_opt(
    source: &'static str,
    what: &str,
    map: &Map<String, Value>,
) -> Result<QuantizationConfig, ConfigError> {
    let mut layers = BTreeMap::new();
    match map.get("quantized_layers") {
        None | Some(Value::Null) => {}
        Some(Value::Object(list)) => {
            for (layer, told) in list {
                let field = format!("{what}.quantized_layers.{layer}.quant_algo");
                let name = told.get("quant_algo").and_then(Value::as_str);
                let name = name.ok_or_else(|| wrong(&field, "text", told))?;
                layers.insert(
                    canonical_name(layer).into_owned(),
                    WeightFormat::from_algorithm(&field, name)?,
                );
            }
        }
        Some(other) => {
            return Err(wrong(
                &format!("{what}.quantized_layers"),
                "an object",
                other,
            ));
        }
    }
    let format = match text(what, map, "quant_algo")? {
        Some("MIXED_PRECISION") => None,
        Some(name) => Some(WeightFormat::from_algorithm(
            &format!("{what}.quant_algo"),
            name,
        )?),
        None if layers.is_empty() => {
            return Err(wrong(
                &format!("{what}.quant_algo"),
                "FP8, NVFP4 or MIXED_PRECISION",
                &Value::Null,
            ));
        }
        None => None,
    };
    if format == Some(WeightFormat::Nvfp4) {
        check_group_size(&format!("{what}.group_size"), map.get("group_size"))?;
    }
    let excluded = match map.get("exclude_modules") {
        Some(Value::Array(_)) => patterns(what, map, "exclude_modules")?,
        _ => patterns(what, map, "ignore")?,
    };
    let kv_cache = text(what, map, "kv_cache_quant_algo")?.map(String::from);
    Ok(QuantizationConfig {
        source,
        format,
        layers,
        excluded,
        kv_cache,
    })
}

fn compressed_tensors(
    what: &str,
    map: &Map<String, Value>,
) -> Result<QuantizationConfig, ConfigError> {
    let format = match text(what, map, "format")? {
        Some("nvfp4-pack-quantized") => Some(WeightFormat::Nvfp4),
        Some("float-quantized") => Some(WeightFormat::Fp8),
        Some("mixed-precision") => None,
        Some(other) => return Err(unsupported(&format!("{what}.format"), other)),
        None => return Err(wrong(&format!("{what}.format"), "text", &Value::Null)),
    };
    Ok(QuantizationConfig {
        source: "config.json",
        format,
        layers: BTreeMap::new(),
        excluded: patterns(what, map, "ignore")?,
        kv_cache: kv_cache_scheme(&format!("{what}.kv_cache_scheme"), map)?,
    })
}

/// What compressed-tensors says of keys and values, 8-bit floats by ModelOpt's name.
fn kv_cache_scheme(what: &str, map: &Map<String, Value>) -> Result<Option<String>, ConfigError> {
    let scheme = match map.get("kv_cache_scheme") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Object(scheme)) => scheme,
        Some(other) => return Err(wrong(what, "an object", other)),
    };
    let (kind, bits) = (text(what, scheme, "type")?, scheme.get("num_bits"));
    Ok(Some(match (kind, bits.and_then(Value::as_u64)) {
        (Some("float"), Some(8)) => "FP8".into(),
        (kind, bits) => format!(
            "{} of {} bits",
            kind.unwrap_or("something"),
            bits.map_or("unknown".into(), |bits| bits.to_string())
        ),
    }))
}

fn check_group_size(field: &str, value: Option<&Value>) -> Result<(), ConfigError> {
    match value {
        None | Some(Value::Null) => Ok(()),
        Some(value) if value.as_u64() == Some(16) => Ok(()),
        Some(other) => Err(wrong(field, "16", other)),
    }
}

fn text<'a>(
    what: &str,
    map: &'a Map<String, Value>,
    name: &str,
) -> Result<Option<&'a str>, ConfigError> {
    match map.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(wrong(&format!("{what}.{name}"), "text", other)),
    }
}

fn patterns(what: &str, map: &Map<String, Value>, name: &str) -> Result<Vec<String>, ConfigError> {
    let list = match map.get(name) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong(&format!("{what}.{name}"), "a list of names", other)),
    };
    list.iter()
        .map(|entry| match entry {
            Value::String(name) => Ok(canonical_name(name).into_owned()),
            other => Err(wrong(&format!("{what}.{name}"), "a list of names", other)),
        })
        .collect()
}

fn wrong(field: &str, expected: &str, got: &Value) -> ConfigError {
    ConfigError::Quantization {
        field: super::abbreviated(field),
        expected: expected.into(),
        got: shown(got),
    }
}

/// Whether the pattern is the name of a layer or of a module that holds it; `*` stands for any text.
pub fn matches(pattern: &str, layer: &str) -> bool {
    let ends = layer.match_indices('.').map(|(end, _)| end);
    ends.chain([layer.len()])
        .any(|end| is_like(pattern, &layer[..end]))
}

fn is_like(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(mut name) = name
        .strip_prefix(first)
        .and_then(|name| name.strip_suffix(last))
    else {
        return false;
    };
    // The first place where a part fits leaves the most for those behind it.
    for part in middle.split('*') {
        match name.find(part) {
            Some(at) => name = &name[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_layers_and_modules() {
        let layer = "backbone.layers.12.mixer.q_proj";
        for pattern in [
            layer,
            "backbone.layers.12",
            "backbone.layers.12.mixer",
            "*",
            "*q_proj",
            "*layers.12*",
            "backbone.*.mixer.*_proj",
            "*.1*.q*",
        ] {
            assert!(matches(pattern, layer), "{pattern}");
        }
        for pattern in [
            "",
            "backbone.layers.1",
            "q_proj",
            "*k_proj",
            "*.13.*",
            "layers.12*",
            "*a*a*a*a*",
            "*q_proj.x*",
        ] {
            assert!(!matches(pattern, layer), "{pattern}");
        }
    }
}
