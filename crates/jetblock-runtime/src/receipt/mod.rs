//! Receipts: what was asked, of which model, under which contract, and the digest of every logit behind the answer.
//!
//! The format is described in `docs/receipt.md`. A receipt is not a signature: it says what a run gave, and lets anyone who
//! has the model find out whether it is so.

mod compare;
mod hex;
mod replay;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use jetblock_models::config::pattern;
use jetblock_models::{Model, ModelDigests};
use jetblock_numerics::NUMERICS_VERSION;
use jetblock_ops::sampling::SamplingParams;
use jetblock_simd::Cpu;
use jetblock_tensor::{Digest, digest};
use serde::{Deserialize, Serialize};

use crate::{
    Completion, EngineOptions, Session, SessionError, SkipSpecialTokens, TextRequest, Tokenizer,
};

pub use compare::{Comparison, Difference, Fact, Place, compare};
pub use hex::Hex;
pub use replay::{Replay, ReplayError, fast_levels, replay, schedules};

/// The version of the format.
pub const FORMAT: u32 = 1;

/// The largest receipt that is read.
pub const MAX_BYTES: u64 = 1 << 30;

/// A receipt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// [`FORMAT`].
    pub receipt: u32,
    /// Which arithmetic.
    pub contract: ContractFacts,
    /// Which model.
    pub model: ModelFacts,
    /// What was asked.
    pub request: RequestFacts,
    /// What was answered.
    pub output: OutputFacts,
    /// How each token came about.
    pub steps: Vec<Step>,
    /// Where and how it ran. Nothing in it may change a bit.
    pub environment: Environment,
}

/// Which arithmetic: the choices of NUMERICS.md that are part of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContractFacts {
    /// The version of NUMERICS.md.
    pub numerics_version: u32,
    /// The guarantee that held: `portable`.
    pub level: String,
    /// Operand kind of matrix products: `bf16` or `f32`.
    pub operands: String,
    /// Dtype of the KV cache: `f32`, `bf16`, `fp8` or `nvfp4`.
    pub kv: String,
    /// Keys in an attention block.
    pub split: usize,
    /// Whether equal router scores are ordered by a hash.
    pub hash_ties: bool,
}

/// Which model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFacts {
    /// Its layers: `M`, `*`, `-`, `E`.
    pub layers: String,
    /// Digest of `config.json`, or of all that is not weights in a GGUF file.
    pub config: Hex<32>,
    /// Digest of all weights.
    pub weights: Hex<32>,
    /// Digest of each stored tensor.
    pub tensors: BTreeMap<String, Hex<32>>,
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestFacts {
    /// The prompt.
    pub prompt_tokens: Vec<u32>,
    /// How tokens were drawn.
    pub sampling: SamplingFacts,
    /// Key of the random generator.
    pub seed: u64,
    /// Part of the generator's counter.
    pub sample_index: u32,
    /// Most tokens.
    pub max_tokens: usize,
    /// Tokens that end the output.
    pub stop_tokens: Vec<u32>,
    /// Texts that end the output.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// How long the model might think.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thinking_budget: Option<BudgetFacts>,
}

/// [`SamplingParams`] in a receipt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields are those of SamplingParams")]
pub struct SamplingFacts {
    pub temperature: f32,
    pub top_k: u32,
    pub top_p: f32,
    pub min_p: f32,
    pub repetition_penalty: f32,
    pub presence_penalty: f32,
    pub frequency_penalty: f32,
    pub logit_bias: Vec<(u32, f32)>,
}

/// [`crate::ThinkingBudget`] in a receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields are those of ThinkingBudget")]
pub struct BudgetFacts {
    pub tokens: usize,
    pub grace: usize,
    pub closing: Option<String>,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputFacts {
    /// The tokens, the stop token included.
    pub tokens: Vec<u32>,
    /// Indices of tokens that a rule chose (a thinking budget) and not the draw.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forced: Vec<usize>,
    /// SHA-256 of the text of all tokens but a stop token, special tokens shown.
    pub text: Hex<32>,
    /// Why it ended.
    pub finish_reason: String,
}

/// How one token came about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Digest of the logits that it was drawn from.
    pub logits: Hex<32>,
    /// Short digest of the row's hidden state after each layer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Hex<8>>,
}

/// Where and how a run happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// Version of JetBlock.
    pub jetblock: String,
    /// What the model was called.
    pub model: String,
    /// Operating system.
    pub os: String,
    /// Processor architecture.
    pub arch: String,
    /// Instruction-set level.
    pub isa: String,
    /// Threads.
    pub threads: usize,
    /// Rows in a step of the engine.
    pub step_rows: usize,
    /// Most tokens guessed ahead.
    pub speculate: usize,
}

impl Environment {
    /// This machine.
    pub fn here(model: String, cpu: &Cpu, options: EngineOptions) -> Environment {
        Environment {
            jetblock: env!("CARGO_PKG_VERSION").into(),
            model,
            os: std::env::consts::OS.into(),
            arch: std::env::consts::ARCH.into(),
            isa: cpu.level().name().into(),
            threads: cpu.threads(),
            step_rows: options.step_rows,
            speculate: options.speculate,
        }
    }
}

impl ContractFacts {
    /// The arithmetic of a loaded model.
    pub fn of(model: &Model) -> ContractFacts {
        let options = model.options();
        ContractFacts {
            numerics_version: NUMERICS_VERSION,
            level: "portable".into(),
            operands: model.operand_kind().name().into(),
            kv: model.kv_dtype().name().into(),
            split: options.split,
            hash_ties: options.hash_ties,
        }
    }
}

impl ModelFacts {
    /// A model and its digests.
    pub fn of(model: &Model, digests: &ModelDigests) -> ModelFacts {
        let tensors = digests.tensors.iter();
        ModelFacts {
            layers: pattern(&model.config().layers),
            config: digests.config.into(),
            weights: digests.weights.into(),
            tensors: tensors.map(|(n, d)| (n.clone(), (*d).into())).collect(),
        }
    }
}

impl From<Digest> for Hex<32> {
    fn from(digest: Digest) -> Hex<32> {
        Hex(digest.0)
    }
}

impl From<&SamplingParams> for SamplingFacts {
    fn from(params: &SamplingParams) -> SamplingFacts {
        SamplingFacts {
            temperature: params.temperature,
            top_k: params.top_k,
            top_p: params.top_p,
            min_p: params.min_p,
            repetition_penalty: params.repetition_penalty,
            presence_penalty: params.presence_penalty,
            frequency_penalty: params.frequency_penalty,
            logit_bias: params.logit_bias.clone(),
        }
    }
}

impl From<&SamplingFacts> for SamplingParams {
    fn from(facts: &SamplingFacts) -> SamplingParams {
        SamplingParams {
            temperature: facts.temperature,
            top_k: facts.top_k,
            top_p: facts.top_p,
            min_p: facts.min_p,
            repetition_penalty: facts.repetition_penalty,
            presence_penalty: facts.presence_penalty,
            frequency_penalty: facts.frequency_penalty,
            logit_bias: facts.logit_bias.clone(),
        }
    }
}

/// Why a file is not a receipt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiptError {
    /// The file.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// More than any receipt.
    #[error("more than {MAX_BYTES} bytes, expected a receipt")]
    TooLarge,
    /// Not JSON, or a field that is missing, unknown or of another type.
    #[error("not a receipt: {0}")]
    Json(#[from] serde_json::Error),
    /// Another version of the format.
    #[error("a receipt of format {got}, expected format {FORMAT}")]
    Format {
        /// The version it says.
        got: u64,
    },
    /// Fields that contradict each other.
    #[error("{field} is {got}, expected {expected}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is allowed.
        expected: String,
        /// What was found.
        got: String,
    },
}

impl Receipt {
    /// The receipt of a sample that was generated with [`crate::Record::Logits`] or [`crate::Record::Layers`].
    pub fn new(
        session: &Session,
        model: ModelFacts,
        request: &TextRequest,
        prompt_tokens: &[u32],
        sample_index: u32,
        completion: &Completion,
        environment: Environment,
    ) -> Result<Receipt, SessionError> {
        let stop_tokens = session.generation_config.eos_token_id.ids().to_vec();
        let stop = request.stop.iter();
        let step = |record: &crate::TokenRecord| Step {
            logits: record.logits.into(),
            layers: record.layers.iter().copied().map(Hex).collect(),
        };
        Ok(Receipt {
            receipt: FORMAT,
            contract: ContractFacts::of(&session.model),
            model,
            output: OutputFacts {
                text: text_digest(&session.tokenizer, &completion.tokens, &stop_tokens)?,
                tokens: completion.tokens.clone(),
                forced: completion.forced.clone(),
                finish_reason: completion.finish_reason.clone(),
            },
            request: RequestFacts {
                prompt_tokens: prompt_tokens.to_vec(),
                sampling: (&request.sampling).into(),
                seed: request.seed,
                sample_index,
                max_tokens: request.max_tokens,
                stop_tokens,
                stop: stop
                    .chain(&session.generation_config.stop_strings)
                    .cloned()
                    .collect(),
                thinking_budget: request.thinking_budget.as_ref().map(|budget| BudgetFacts {
                    tokens: budget.tokens,
                    grace: budget.grace,
                    closing: budget.closing.clone(),
                }),
            },
            steps: completion.records.iter().map(step).collect(),
            environment,
        })
    }

    /// Reads a receipt and checks it in itself.
    pub fn open(path: &Path) -> Result<Receipt, ReceiptError> {
        let mut bytes = Vec::new();
        File::open(path)?
            .take(MAX_BYTES + 1)
            .read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(ReceiptError::TooLarge);
        }
        Receipt::from_json(&bytes)
    }

    /// Reads the text of a receipt and checks it in itself.
    pub fn from_json(bytes: &[u8]) -> Result<Receipt, ReceiptError> {
        #[derive(Deserialize)]
        struct Version {
            receipt: u64,
        }
        // The version first: another one has other fields.
        let Version { receipt: got } = serde_json::from_slice(bytes)?;
        if got != u64::from(FORMAT) {
            return Err(ReceiptError::Format { got });
        }
        let receipt: Receipt = serde_json::from_slice(bytes)?;
        receipt.check()?;
        Ok(receipt)
    }

    /// The receipt as text: a field a line, one step a line.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a receipt has string keys and finite numbers")
            + "\n"
    }

    /// Whether its steps have layer digests.
    pub fn has_layers(&self) -> bool {
        self.steps.iter().any(|step| !step.layers.is_empty())
    }

    fn check(&self) -> Result<(), ReceiptError> {
        let field = |field, expected: String, got: String| {
            Err(ReceiptError::Field {
                field,
                expected,
                got,
            })
        };
        let (tokens, steps) = (&self.output.tokens, &self.steps);
        if self.request.prompt_tokens.is_empty() || tokens.is_empty() {
            let got = "without tokens".into();
            return field(
                "request.prompt_tokens or output.tokens",
                "tokens".into(),
                got,
            );
        }
        if steps.len() != tokens.len() {
            let got = format!("of {} elements", steps.len());
            return field(
                "steps",
                format!("one for each of {} tokens", tokens.len()),
                got,
            );
        }
        if tokens.len() > self.request.max_tokens {
            let most = format!("at most max_tokens, {}", self.request.max_tokens);
            return field(
                "output.tokens",
                most,
                format!("of {} elements", tokens.len()),
            );
        }
        if let Some(index) = self.output.forced.iter().find(|&&i| i >= tokens.len()) {
            let expected = format!("indices below {}", tokens.len());
            return field("output.forced", expected, index.to_string());
        }
        let layers = self.model.layers.len();
        let bad = |step: &&Step| step.layers.len() != if self.has_layers() { layers } else { 0 };
        if let Some(step) = steps.iter().find(bad) {
            let expected = format!("{layers} in every step, or none in all");
            return field("steps.layers", expected, step.layers.len().to_string());
        }
        if let Err(error) = SamplingParams::from(&self.request.sampling).check() {
            return field(
                "request.sampling",
                "valid parameters".into(),
                error.to_string(),
            );
        }
        Ok(())
    }
}

/// SHA-256 of the text of an output: all tokens but a stop token at the end, special tokens shown.
pub(crate) fn text_digest(
    tokenizer: &Tokenizer,
    tokens: &[u32],
    stop_tokens: &[u32],
) -> Result<Hex<32>, SessionError> {
    let shown = match tokens.split_last() {
        Some((last, before)) if stop_tokens.contains(last) => before,
        _ => tokens,
    };
    let text = tokenizer.decode(shown, SkipSpecialTokens::No)?;
    Ok(digest::sha256(text.as_bytes()).into())
}
