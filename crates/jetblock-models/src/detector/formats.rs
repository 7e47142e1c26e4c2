//! How the linear weights of a checkpoint are stored, by layer and in all.

use std::collections::BTreeMap;

use super::FormatAmount;
use crate::checkpoint::Checkpoint;
use crate::config::{ExpectedTensor, ModelConfig, WeightFormat};

/// Name and letter of a linear weight's format; `None` if it is absent.
fn format_of(checkpoint: &Checkpoint, name: &str) -> Option<(&'static str, char)> {
    match checkpoint.weight_format(name) {
        Some(WeightFormat::Fp8) => Some(("FP8", '8')),
        Some(WeightFormat::Nvfp4) => Some(("NVFP4", '4')),
        None => match checkpoint.info(name)?.dtype.name() {
            name @ "F32" => Some((name, 'f')),
            name @ "F16" => Some((name, 'h')),
            name @ "BF16" => Some((name, 'b')),
            name => Some((name, 'q')),
        },
    }
}

/// The linear weights by format, the largest first.
pub(super) fn amounts(expected: &[ExpectedTensor], checkpoint: &Checkpoint) -> Vec<FormatAmount> {
    let mut amounts: BTreeMap<&str, FormatAmount> = BTreeMap::new();
    for tensor in expected.iter().filter(|tensor| tensor.kind.is_linear()) {
        let (Some((format, _)), Some(bytes)) = (
            format_of(checkpoint, &tensor.name),
            checkpoint.weight_bytes(&tensor.name),
        ) else {
            continue;
        };
        let amount = amounts.entry(format).or_insert_with(|| FormatAmount {
            format: format.into(),
            matrices: 0,
            parameters: 0,
            bytes: 0,
        });
        amount.matrices += 1;
        amount.parameters += tensor.elements();
        amount.bytes += bytes;
    }
    let mut amounts: Vec<_> = amounts.into_values().collect();
    amounts.sort_by_key(|amount| std::cmp::Reverse(amount.bytes));
    amounts
}

/// A letter for each layer of the stack; `None` where no layer is quantized.
pub(super) fn letters(
    config: &ModelConfig,
    expected: &[ExpectedTensor],
    checkpoint: &Checkpoint,
) -> Option<String> {
    let mut letters: Vec<Option<char>> = vec![None; config.layers.len()];
    for tensor in expected.iter().filter(|tensor| tensor.kind.is_linear()) {
        let (Some(layer), Some((_, letter))) = (tensor.layer, format_of(checkpoint, &tensor.name))
        else {
            continue;
        };
        letters[layer] = match letters[layer] {
            Some(other) if other != letter => Some('+'),
            _ => Some(letter),
        };
    }
    let letters: String = letters.into_iter().map(|l| l.unwrap_or(' ')).collect();
    letters.contains(['8', '4', '+']).then_some(letters)
}
