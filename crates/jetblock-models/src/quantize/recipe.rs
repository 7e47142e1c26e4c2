//! Which linear layers a release leaves in BF16.

use std::str::FromStr;

use crate::config::{ExpectedTensor, LayerKind, ModelConfig, TensorKind, WeightFormat};

/// A choice of layers that are not quantized. Router, convolution, norms and embeddings never are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recipe {
    /// As Nemotron 3 Nano was released: the output table, the Mamba layer before each attention layer, and of attention
    /// q, k and v (NVFP4) or everything (FP8) stay.
    Nano,
    /// Only the output table stays.
    All,
    /// Only routed experts are quantized.
    Experts,
}

impl Recipe {
    /// All of them, with their names.
    pub const NAMES: [(&'static str, Recipe); 3] = [
        ("nano", Recipe::Nano),
        ("all", Recipe::All),
        ("experts", Recipe::Experts),
    ];

    /// Whether a linear weight stays as it is.
    pub(super) fn keeps(
        self,
        config: &ModelConfig,
        format: WeightFormat,
        tensor: &ExpectedTensor,
    ) -> bool {
        let Some(layer) = tensor.layer else {
            return true;
        };
        match (self, config.layers[layer]) {
            (Recipe::All, _) => false,
            (Recipe::Experts, _) => tensor.kind != TensorKind::RoutedExpert,
            (Recipe::Nano, LayerKind::Attention) => {
                format == WeightFormat::Fp8 || !tensor.name.ends_with("o_proj.weight")
            }
            (Recipe::Nano, LayerKind::Mamba) => precedes_attention(&config.layers, layer),
            (Recipe::Nano, _) => false,
        }
    }
}

/// Whether a Mamba layer is the last one before an attention layer.
fn precedes_attention(layers: &[LayerKind], layer: usize) -> bool {
    layers[layer + 1..]
        .iter()
        .find(|kind| matches!(kind, LayerKind::Mamba | LayerKind::Attention))
        == Some(&LayerKind::Attention)
}

impl FromStr for Recipe {
    type Err = String;

    fn from_str(name: &str) -> Result<Recipe, String> {
        let found = Recipe::NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, recipe)| *recipe).ok_or_else(|| {
            let names = Recipe::NAMES.map(|(name, _)| name);
            format!(
                "unknown recipe {name:?}, expected one of {}",
                names.join(", ")
            )
        })
    }
}
