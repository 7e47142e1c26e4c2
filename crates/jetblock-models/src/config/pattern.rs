//! The stack of layers: pattern letters and block-type names.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::ConfigError;
use super::json::{Fields, missing, shown};

/// The most layers a stack may have; the largest release has 108.
pub const MAX_LAYERS: usize = 4096;

/// What the one mixer of a layer is. `Display` is the pattern letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerKind {
    /// Mamba-2 mixer, `M`.
    Mamba,
    /// Causal attention with grouped queries and no position encoding, `*`.
    Attention,
    /// Dense squared-ReLU MLP, `-`.
    Mlp,
    /// Mixture of experts with a shared expert, `E`.
    Moe,
}

impl LayerKind {
    /// Every kind, in the order reports list them.
    pub const ALL: [LayerKind; 4] = [
        LayerKind::Mamba,
        LayerKind::Attention,
        LayerKind::Mlp,
        LayerKind::Moe,
    ];

    /// The letter in `hybrid_override_pattern`.
    pub fn letter(self) -> char {
        match self {
            LayerKind::Mamba => 'M',
            LayerKind::Attention => '*',
            LayerKind::Mlp => '-',
            LayerKind::Moe => 'E',
        }
    }

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            LayerKind::Mamba => "mamba",
            LayerKind::Attention => "attention",
            LayerKind::Mlp => "mlp",
            LayerKind::Moe => "moe",
        }
    }

    fn from_letter(letter: char) -> Option<LayerKind> {
        LayerKind::ALL
            .into_iter()
            .find(|kind| kind.letter() == letter)
    }

    /// The names of `layers_block_type`: the original ones, and those that newer writers use for the same mixers.
    fn from_name(name: &str) -> Option<LayerKind> {
        match name {
            "mamba" | "linear_attention" => Some(LayerKind::Mamba),
            "attention" | "full_attention" => Some(LayerKind::Attention),
            "mlp" => Some(LayerKind::Mlp),
            "moe" => Some(LayerKind::Moe),
            _ => None,
        }
    }
}

impl fmt::Display for LayerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.letter())
    }
}

/// The stack as a pattern string.
pub fn pattern(layers: &[LayerKind]) -> String {
    layers.iter().map(|kind| kind.letter()).collect()
}

/// The stack under a list or a pattern field, with the name of the field it came from. The list wins: savers that write it
/// keep stale copies of the string.
pub(crate) fn stack(
    fields: &Fields<'_>,
    list: &'static str,
    letters: &'static str,
) -> Result<(&'static str, Vec<LayerKind>), ConfigError> {
    if let Some((name, value)) = fields.get(&[list])? {
        return Ok((name, from_list(name, value)?));
    }
    match fields.text(&[letters])? {
        Some((name, text)) => Ok((name, from_letters(name, text)?)),
        None => Err(missing(&[list, letters], "the layer kinds")),
    }
}

fn from_letters(field: &str, text: &str) -> Result<Vec<LayerKind>, ConfigError> {
    check_length(field, text.chars().count())?;
    text.chars()
        .enumerate()
        .map(|(i, letter)| {
            LayerKind::from_letter(letter).ok_or_else(|| {
                ConfigError::value(
                    format!("{field}, layer {i},"),
                    "one of M, *, - and E",
                    format!("{letter:?}"),
                )
            })
        })
        .collect()
}

fn from_list(field: &str, value: &Value) -> Result<Vec<LayerKind>, ConfigError> {
    let Value::Array(list) = value else {
        return Err(ConfigError::value(
            field,
            "a list of layer kinds",
            shown(value),
        ));
    };
    check_length(field, list.len())?;
    list.iter()
        .enumerate()
        .map(|(i, entry)| {
            entry
                .as_str()
                .and_then(LayerKind::from_name)
                .ok_or_else(|| {
                    let expected =
                        "one of mamba (linear_attention), attention (full_attention), mlp and moe";
                    ConfigError::value(format!("{field}, layer {i},"), expected, shown(entry))
                })
        })
        .collect()
}

fn check_length(field: &str, layers: usize) -> Result<(), ConfigError> {
    if (1..=MAX_LAYERS).contains(&layers) {
        Ok(())
    } else {
        Err(ConfigError::value(
            field,
            format!("1 to {MAX_LAYERS} layers"),
            format!("{layers} layers"),
        ))
    }
}
