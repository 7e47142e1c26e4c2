//! Counting parameters and bytes by part.

use std::collections::BTreeMap;

use super::{ActiveParameters, Amount, Part, PartProfile};
use crate::checkpoint::{Checkpoint, is_mtp, is_passed_over};
use crate::config::{
    ExpectedTensor, LayerKind, ModelConfig, Presence, TensorKind, TransformerConfig, canonical_name,
};

/// Parameters and bytes by part.
#[derive(Default)]
pub(super) struct Tally {
    parts: BTreeMap<Order, PartProfile>,
}

/// Parts in the order of the forward pass.
type Order = (u8, Part);

impl Tally {
    /// Counts the tensors that the configuration implies; `checkpoint` has been checked to have them, and adds the bytes.
    pub(super) fn of_model(
        config: &ModelConfig,
        expected: &[ExpectedTensor],
        checkpoint: Option<&Checkpoint>,
    ) -> Tally {
        let mut tally = Tally::default();
        let stored = checkpoint.is_some();
        tally.add_part(Part::Embeddings, 1, stored);
        for kind in LayerKind::ALL
            .into_iter()
            .filter(|kind| config.count(*kind) > 0)
        {
            tally.add_part(Part::Layers(kind), config.count(kind), stored);
        }
        tally.add_part(Part::FinalNorm, 1, stored);
        for tensor in expected
            .iter()
            .filter(|tensor| tensor.presence != Presence::Unused)
        {
            let bytes = checkpoint.and_then(|checkpoint| checkpoint.weight_bytes(&tensor.name));
            // Optional tensors count where they are stored, or may be.
            if checkpoint.is_some() && bytes.is_none() {
                continue;
            }
            let part = match (tensor.layer, tensor.kind) {
                (Some(layer), _) => Part::Layers(config.layers[layer]),
                (None, TensorKind::Embeddings) => Part::Embeddings,
                (None, TensorKind::LmHead) => Part::LmHead,
                (None, _) => Part::FinalNorm,
            };
            tally.add(
                part,
                tensor.elements(),
                tensor.kind == TensorKind::RoutedExpert,
                bytes,
            );
        }
        tally
    }

    /// Counts by formula.
    pub(super) fn of_transformer(config: &TransformerConfig) -> Tally {
        let mut tally = Tally::for_transformer(config, false);
        let table = (config.vocab_size * config.hidden_size) as u64;
        tally.add(Part::Embeddings, table, false, None);
        for kind in &config.feed_forward {
            tally.add(
                Part::Layers(LayerKind::Attention),
                config.attention_parameters(),
                false,
                None,
            );
            match kind {
                LayerKind::Moe => {
                    tally.add(
                        Part::Layers(LayerKind::Moe),
                        config.router_parameters(),
                        false,
                        None,
                    );
                    tally.add(
                        Part::Layers(LayerKind::Moe),
                        config.routed_parameters(),
                        true,
                        None,
                    );
                }
                _ => tally.add(
                    Part::Layers(LayerKind::Mlp),
                    config.mlp_parameters(),
                    false,
                    None,
                ),
            }
        }
        tally.add(Part::FinalNorm, config.hidden_size as u64, false, None);
        if !config.tie_word_embeddings {
            tally.add(Part::LmHead, table, false, None);
        }
        tally
    }

    /// Counts what the headers list.
    pub(super) fn of_transformer_headers(
        config: &TransformerConfig,
        checkpoint: &Checkpoint,
    ) -> Tally {
        let mut tally = Tally::for_transformer(config, true);
        for info in checkpoint.infos().filter(|info| !is_passed_over(info.name)) {
            let part = transformer_part(config, info.name);
            if part == Part::LmHead && config.tie_word_embeddings {
                continue;
            }
            tally.add(
                part,
                info.elements(),
                info.name.contains(".experts."),
                Some(info.bytes),
            );
        }
        tally
    }

    pub(super) fn total(&self) -> Amount {
        self.parts
            .values()
            .fold(Amount::default(), |sum, part| Amount {
                parameters: sum.parameters + part.amount.parameters,
                bytes_bf16: sum.bytes_bf16 + part.amount.bytes_bf16,
                bytes_stored: part
                    .amount
                    .bytes_stored
                    .map(|bytes| bytes + sum.bytes_stored.unwrap_or(0)),
            })
    }

    pub(super) fn active(&self, (k, experts): (usize, usize), tied: bool) -> ActiveParameters {
        let routed: u64 = self.parts.values().map(|part| part.routed_parameters).sum();
        // Every expert of a model has the same shape, so a share of k of E is a whole number.
        let chosen = match experts {
            0 => 0,
            _ => routed / experts as u64 * k as u64,
        };
        let of = |part| {
            self.parts
                .values()
                .find(|p| p.part == part)
                .map_or(0, |p| p.amount.parameters)
        };
        let with_both_tables = self.total().parameters - routed + chosen;
        let body = with_both_tables - of(Part::Embeddings) - of(Part::LmHead);
        let head = if tied {
            of(Part::Embeddings)
        } else {
            of(Part::LmHead)
        };
        ActiveParameters {
            experts_per_token: k,
            experts,
            body,
            body_and_head: body + head,
            with_both_tables,
        }
    }

    pub(super) fn into_parts(self) -> Vec<PartProfile> {
        self.parts.into_values().collect()
    }

    fn for_transformer(config: &TransformerConfig, stored: bool) -> Tally {
        let mut tally = Tally::default();
        tally.add_part(Part::Embeddings, 1, stored);
        tally.add_part(
            Part::Layers(LayerKind::Attention),
            config.feed_forward.len(),
            stored,
        );
        for kind in [LayerKind::Mlp, LayerKind::Moe] {
            let count = config.feed_forward.iter().filter(|k| **k == kind).count();
            if count > 0 {
                tally.add_part(Part::Layers(kind), count, stored);
            }
        }
        tally
    }

    fn add_part(&mut self, part: Part, count: usize, stored: bool) {
        let bytes_stored = stored.then_some(0);
        let amount = Amount {
            bytes_stored,
            ..Amount::default()
        };
        let profile = PartProfile {
            part,
            count,
            amount,
            routed_parameters: 0,
        };
        self.parts.entry(order(part)).or_insert(profile);
    }

    fn add(&mut self, part: Part, parameters: u64, is_routed: bool, bytes: Option<u64>) {
        self.add_part(part, 1, bytes.is_some());
        let Some(profile) = self.parts.get_mut(&order(part)) else {
            return;
        };
        profile.amount.parameters += parameters;
        profile.amount.bytes_bf16 += 2 * parameters;
        profile.routed_parameters += if is_routed { parameters } else { 0 };
        if let (Some(sum), Some(bytes)) = (&mut profile.amount.bytes_stored, bytes) {
            *sum += bytes;
        }
    }
}

/// The multi-token-prediction head: as stored, else as the configuration implies.
pub(super) fn mtp(config: &ModelConfig, checkpoint: Option<&Checkpoint>) -> Option<Amount> {
    let stored = checkpoint.map(|checkpoint| {
        let tensors = checkpoint
            .infos()
            .filter(|info| is_mtp(&canonical_name(info.name)));
        tensors.fold((0, 0), |(parameters, bytes), info| {
            (parameters + info.elements(), bytes + info.bytes)
        })
    });
    let (parameters, bytes_stored) = match stored {
        Some((parameters, bytes)) => (parameters, Some(bytes)),
        None => (
            config
                .mtp_tensors()
                .iter()
                .map(ExpectedTensor::elements)
                .sum(),
            None,
        ),
    };
    (parameters > 0).then_some(Amount {
        parameters,
        bytes_bf16: 2 * parameters,
        bytes_stored,
    })
}

fn order(part: Part) -> Order {
    let rank = match part {
        Part::Embeddings => 0,
        Part::Layers(_) => 1,
        Part::FinalNorm => 2,
        Part::LmHead => 3,
    };
    (rank, part)
}

/// The part that a tensor of a plain transformer belongs to, by the names that these families share.
fn transformer_part(config: &TransformerConfig, name: &str) -> Part {
    let Some((_, inside)) = name.split_once("layers.") else {
        return match name {
            _ if name.contains("embed_tokens") => Part::Embeddings,
            _ if name.contains("lm_head") => Part::LmHead,
            _ => Part::FinalNorm,
        };
    };
    if inside.contains(".self_attn.") || inside.contains(".input_layernorm.") {
        return Part::Layers(LayerKind::Attention);
    }
    let layer = inside
        .split_once('.')
        .and_then(|(index, _)| index.parse::<usize>().ok());
    Part::Layers(
        layer
            .and_then(|i| config.feed_forward.get(i).copied())
            .unwrap_or(LayerKind::Mlp),
    )
}
