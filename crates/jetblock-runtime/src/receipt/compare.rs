//! What differs between two receipts, and which recorded fact explains it.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::{Receipt, Step};

/// Two receipts side by side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Whether every recorded bit of the answer is the same.
    pub identical: bool,
    /// The first difference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<Difference>,
    /// Steps that were compared.
    pub steps: usize,
    /// Recorded facts that differ and are part of what was asked: each of them may change bits.
    pub causes: Vec<Fact>,
    /// Facts of the environment that differ: none of them may change a bit.
    pub environment: Vec<Fact>,
}

/// Where two answers part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Index of the token.
    pub step: usize,
    /// Its position in the sequence.
    pub position: usize,
    /// What is the first to differ there.
    #[serde(flatten)]
    pub place: Place,
    /// What the first receipt says.
    pub left: String,
    /// What the second receipt says.
    pub right: String,
}

/// What is compared, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "place", rename_all = "snake_case")]
pub enum Place {
    /// The hidden state after a layer.
    Layer {
        /// Its index.
        layer: usize,
        /// Its kind: `M`, `*`, `-` or `E`.
        kind: char,
    },
    /// The logits; where layers were compared, after the last of them: the final norm or the output table.
    Logits {
        /// Whether the hidden states after all layers were compared, and equal.
        layers_equal: bool,
    },
    /// The token drawn from equal logits.
    Token,
    /// One answer ends where the other goes on.
    Length,
    /// The text of equal tokens.
    Text,
    /// Why equal answers ended.
    FinishReason,
}

/// A recorded fact with two values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// Its place in the receipt: `contract.kv`.
    pub name: String,
    /// What the first receipt says.
    pub left: String,
    /// What the second receipt says.
    pub right: String,
}

/// Compares two receipts.
pub fn compare(left: &Receipt, right: &Receipt) -> Comparison {
    let first = first_difference(left, right);
    let (left_facts, right_facts) = (facts(left), facts(right));
    let mut causes = Vec::new();
    for section in ["contract", "model", "request"] {
        differing(
            section,
            &left_facts[section],
            &right_facts[section],
            &mut causes,
        );
    }
    let mut environment = Vec::new();
    let of = |facts: &Value| facts["environment"].clone();
    differing(
        "environment",
        &of(&left_facts),
        &of(&right_facts),
        &mut environment,
    );
    Comparison {
        identical: first.is_none(),
        first,
        steps: left.steps.len().min(right.steps.len()),
        causes,
        environment,
    }
}

fn facts(receipt: &Receipt) -> Value {
    let Receipt {
        contract,
        model,
        request,
        environment,
        ..
    } = receipt;
    serde_json::json!({
        "contract": contract, "model": model, "request": request, "environment": environment,
    })
}

fn first_difference(left: &Receipt, right: &Receipt) -> Option<Difference> {
    let prompt = left.request.prompt_tokens.len();
    let at = |step: usize, place, left: String, right: String| Difference {
        step,
        position: prompt + step,
        place,
        left,
        right,
    };
    let (left_tokens, right_tokens) = (&left.output.tokens, &right.output.tokens);
    for (index, (l, r)) in left.steps.iter().zip(&right.steps).enumerate() {
        if let Some((place, l, r)) = step_difference(&left.model.layers, l, r) {
            return Some(at(index, place, l, r));
        }
        let tokens = (left_tokens[index], right_tokens[index]);
        if tokens.0 != tokens.1 {
            let (l, r) = (tokens.0.to_string(), tokens.1.to_string());
            return Some(at(index, Place::Token, l, r));
        }
    }
    let (l, r) = (left_tokens.len(), right_tokens.len());
    if l != r {
        let text = |len: usize| format!("{len} tokens");
        return Some(at(l.min(r), Place::Length, text(l), text(r)));
    }
    if left.output.text != right.output.text {
        let text = |receipt: &Receipt| receipt.output.text.to_string();
        return Some(at(l - 1, Place::Text, text(left), text(right)));
    }
    if left.output.finish_reason != right.output.finish_reason {
        let reason = |receipt: &Receipt| receipt.output.finish_reason.clone();
        return Some(at(l - 1, Place::FinishReason, reason(left), reason(right)));
    }
    None
}

fn step_difference(kinds: &str, left: &Step, right: &Step) -> Option<(Place, String, String)> {
    let layers = || left.layers.iter().zip(&right.layers);
    if let Some((layer, (l, r))) = layers().enumerate().find(|(_, (l, r))| l != r) {
        let kind = kinds.chars().nth(layer).unwrap_or('?');
        return Some((Place::Layer { layer, kind }, l.to_string(), r.to_string()));
    }
    (left.logits != right.logits).then(|| {
        let layers_equal = layers().len() > 0 && left.layers.len() == right.layers.len();
        let (l, r) = (left.logits.to_string(), right.logits.to_string());
        (Place::Logits { layers_equal }, l, r)
    })
}

/// Adds every leaf that differs. A list is a leaf.
fn differing(name: &str, left: &Value, right: &Value, out: &mut Vec<Fact>) {
    match (left, right) {
        (Value::Object(l), Value::Object(r)) => {
            let keys = l.keys().chain(r.keys().filter(|key| !l.contains_key(*key)));
            for key in keys {
                let of = |map: &serde_json::Map<String, Value>| {
                    map.get(key).cloned().unwrap_or(Value::Null)
                };
                differing(&format!("{name}.{key}"), &of(l), &of(r), out);
            }
        }
        _ if left == right => {}
        _ => out.push(Fact {
            name: name.into(),
            left: shown(left),
            right: shown(right),
        }),
    }
}

/// A value for people; long ones are cut.
fn shown(value: &Value) -> String {
    const MOST: usize = 72;
    let text = match value {
        Value::Null => "nothing".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match text.char_indices().nth(MOST) {
        None => text,
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference {
            step,
            position,
            left,
            right,
            ..
        } = self;
        write!(f, "step {step} (position {position}): ")?;
        match &self.place {
            Place::Layer { layer, kind } => {
                let kind = match kind {
                    'M' => "Mamba",
                    '*' => "attention",
                    '-' => "MLP",
                    'E' => "mixture of experts",
                    _ => "of an unknown kind",
                };
                write!(f, "the hidden state after layer {layer} ({kind})")?;
            }
            Place::Logits { layers_equal: true } => {
                write!(
                    f,
                    "the logits, after equal layers: final norm or output table"
                )?;
            }
            Place::Logits {
                layers_equal: false,
            } => write!(f, "the logits")?,
            Place::Token => write!(f, "the token drawn from equal logits")?,
            Place::Length => write!(f, "the length")?,
            Place::Text => write!(f, "the text of equal tokens")?,
            Place::FinishReason => write!(f, "why it ended")?,
        }
        write!(f, ": {left}, {right}")
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}, {}", self.name, self.left, self.right)
    }
}
