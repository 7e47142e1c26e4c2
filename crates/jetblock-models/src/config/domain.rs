//! Domains of fields: dtypes, bounds, divisibility.

use jetblock_tensor::DType;
use serde::Serialize as _;
use serde_json::Value;

use super::json::{Fields, float, shown};
use super::pattern::stack;
use super::{ConfigError, LayerKind, MAX_LAYERS, pattern};

pub(super) fn mtp_layers(fields: &Fields<'_>) -> Result<Vec<LayerKind>, ConfigError> {
    if fields.count_or("num_nextn_predict_layers", 0, MAX_LAYERS)? == 0 {
        return Ok(Vec::new());
    }
    let (field, layers) = stack(
        fields,
        "mtp_layers_block_type",
        "mtp_hybrid_override_pattern",
    )?;
    // intermediate_size speaks of the layers of the stack.
    if layers.contains(&LayerKind::Mlp) {
        return Err(ConfigError::value(
            field,
            "mamba, attention and moe layers",
            pattern(&layers),
        ));
    }
    Ok(layers)
}

pub(super) fn dtype(fields: &Fields<'_>) -> Result<Option<DType>, ConfigError> {
    let Some((name, text)) = fields.text(&["dtype", "torch_dtype"])? else {
        return Ok(None);
    };
    match text.strip_prefix("torch.").unwrap_or(text) {
        "bfloat16" => Ok(Some(DType::BF16)),
        "float16" => Ok(Some(DType::F16)),
        "float32" => Ok(Some(DType::F32)),
        _ => Err(ConfigError::value(
            name,
            "bfloat16, float16 or float32",
            format!("{text:?}"),
        )),
    }
}

pub(super) fn time_step_limit(fields: &Fields<'_>) -> Result<(f32, f32), ConfigError> {
    let Some((name, value)) = fields.get(&["time_step_limit", "mamba_dt_limit"])? else {
        return Ok((0.0, f32::INFINITY));
    };
    let bounds = match value {
        Value::Array(list) if list.len() == 2 => float(&list[0]).zip(float(&list[1])),
        _ => None,
    };
    // Through f64, as Python holds the bounds. A NaN fails the comparison.
    bounds
        .filter(|(lo, hi)| lo <= hi)
        .map(|(lo, hi)| (lo as f32, hi as f32))
        .ok_or_else(|| ConfigError::value(name, "two ascending numbers", shown(value)))
}

pub(super) fn divides(
    field: &str,
    value: usize,
    by_field: &str,
    by: usize,
) -> Result<(), ConfigError> {
    match by {
        0 => Err(ConfigError::value(by_field, "at least 1", 0)),
        _ if value.is_multiple_of(by) => Ok(()),
        _ => Err(ConfigError::value(
            field,
            format!("a multiple of {by_field} = {by}"),
            value,
        )),
    }
}

pub(super) fn at_most(
    field: &str,
    value: usize,
    bound_field: &str,
    bound: usize,
) -> Result<(), ConfigError> {
    if (1..=bound).contains(&value) {
        Ok(())
    } else {
        Err(ConfigError::value(
            field,
            format!("1 to {bound} ({bound_field})"),
            value,
        ))
    }
}

pub(super) fn fits(field: &str, value: usize, max: usize) -> Result<(), ConfigError> {
    if value <= max {
        Ok(())
    } else {
        Err(ConfigError::value(field, format!("at most {max}"), value))
    }
}

pub(super) fn dtype_name<S: serde::Serializer>(
    dtype: &Option<DType>,
    to: S,
) -> Result<S::Ok, S::Error> {
    dtype.map(DType::name).serialize(to)
}
