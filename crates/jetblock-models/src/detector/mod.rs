//! The hybrid layer detector: what a model folder contains, what it costs, and how each kind of layer is run.
//!
//! Everything comes from `config.json` and, where weight files are there, from their headers: no weight is read.

mod count;
mod formats;
mod memory;
mod plan;
mod render;

use std::path::Path;

use jetblock_ops::linear::OperandKind;
use serde::{Serialize, Serializer};

pub use memory::{KvBytes, StateBytes};
pub use plan::{Plan, operand_kind};

use crate::ModelError;
use crate::checkpoint::{Checkpoint, INDEX_FILE, SINGLE_FILE, StoredDType};
use crate::config::{
    ConfigError, Family, LayerKind, ModelConfig, TransformerConfig, model_type, read_config,
};
use crate::gguf::Gguf;
use count::Tally;

/// What a model folder contains, what it costs, and how its layers are run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Profile {
    /// `model_type` of the configuration.
    pub model_type: String,
    /// Layers of the stack.
    pub layers: usize,
    /// The stack as a pattern string: M Mamba-2, `*` attention, `-` MLP, E mixture of experts. `None` for plain transformers,
    /// whose layers hold two of these each.
    pub pattern: Option<String>,
    /// How the linear weights of each layer are stored, a letter each: f F32, h F16, b BF16, 8 FP8, 4 NVFP4, + several.
    /// `None` without weight files and where no layer is quantized.
    pub precision: Option<String>,
    /// The linear weights by format; empty without weight files.
    pub formats: Vec<FormatAmount>,
    /// Parameters by part, in the order of the forward pass.
    pub parts: Vec<PartProfile>,
    /// All parts together, without a multi-token-prediction head.
    pub total: Amount,
    /// The multi-token-prediction head, which this version skips.
    pub mtp: Option<Amount>,
    /// Parameters that one token uses.
    pub active: ActiveParameters,
    /// Fixed memory of a sequence.
    pub state: StateBytes,
    /// Memory of a sequence per token.
    pub kv_per_token: KvBytes,
    /// The format of KV caches that the checkpoint names. It is shown and not taken: a dtype that changes bits is the request's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_named: Option<String>,
    /// How each part is run; empty for models that this version does not run.
    pub plan: Vec<Plan>,
    /// Why this version does not run it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_run: Option<String>,
    /// What an optimizer that knows attention only would reach.
    pub attention_only: Reach,
    /// The weight files, where the folder has them.
    pub stored: Option<StoredProfile>,
}

/// A part of a model; serialised as its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Token embedding table.
    Embeddings,
    /// Layers of one kind, with their norms.
    Layers(LayerKind),
    /// Norm after the last layer.
    FinalNorm,
    /// Output projection.
    LmHead,
}

impl Part {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Part::Embeddings => "embeddings",
            Part::Layers(kind) => kind.name(),
            Part::FinalNorm => "norm_f",
            Part::LmHead => "lm_head",
        }
    }
}

impl Serialize for Part {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}

/// Parameters and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// Parameters.
    pub parameters: u64,
    /// Bytes with all of them in BF16.
    pub bytes_bf16: u64,
    /// Bytes as stored, where weight files are there.
    pub bytes_stored: Option<u64>,
}

/// Linear weights of one format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FormatAmount {
    /// NVFP4, FP8, or the element type.
    pub format: String,
    /// Matrices.
    pub matrices: u64,
    /// Parameters.
    pub parameters: u64,
    /// Bytes with their scales.
    pub bytes: u64,
}

/// Parameters and bytes of a part.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PartProfile {
    /// The part.
    pub part: Part,
    /// Layers of this kind, 1 for the other parts.
    pub count: usize,
    /// What they hold.
    #[serde(flatten)]
    pub amount: Amount,
    /// Parameters in routed experts, of which a token uses k of E.
    pub routed_parameters: u64,
}

/// Parameters that one token uses: everything except the routed experts that are not chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ActiveParameters {
    /// k: experts chosen for a token; 0 without experts.
    pub experts_per_token: usize,
    /// E: routed experts of a layer; 0 without experts.
    pub experts: usize,
    /// Without both embedding tables.
    pub body: u64,
    /// With the output table, which every token multiplies.
    pub body_and_head: u64,
    /// With both tables, though a token reads one row of the first. A tied table counts once.
    pub with_both_tables: u64,
}

/// How many layers something reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Reach {
    /// Layers reached.
    pub layers: usize,
    /// Layers of the stack.
    pub of: usize,
}

/// The weight files of a model folder.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StoredProfile {
    /// Number of files.
    pub files: usize,
    /// Number of tensors.
    pub tensors: usize,
    /// Bytes of all tensors.
    pub bytes: u64,
    /// Tensors and bytes by element type.
    pub dtypes: Vec<StoredAmount>,
}

/// Tensors of one element type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct StoredAmount {
    /// The element type.
    pub dtype: StoredDType,
    /// Number of tensors.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl Profile {
    /// Profiles a model folder or a GGUF file. A folder's weight files are optional; where they are, they are checked and their
    /// headers are read.
    pub fn open(path: impl AsRef<Path>) -> Result<Profile, ModelError> {
        let path = path.as_ref();
        if Gguf::is_named(path) {
            let gguf = Gguf::open(path)?;
            let config = gguf.config()?;
            let checkpoint = gguf.checkpoint(&config)?;
            return Profile::of_model(&config, Some(&checkpoint));
        }
        let text = read_config(path)?;
        let has_weights = path.join(SINGLE_FILE).exists() || path.join(INDEX_FILE).exists();
        let checkpoint = if has_weights {
            Some(Checkpoint::open(path)?)
        } else {
            None
        };
        let mut profile = Profile::from_json(&text, checkpoint.as_ref())?;
        if profile.not_run.is_none() {
            // With the description that may stand in a file of its own.
            let config = ModelConfig::open(path)?;
            if let Some(checkpoint) = &checkpoint {
                checkpoint.check_declared(&config.tensors(), config.quantization.as_ref())?;
            }
            profile.kv_named = config.quantization.and_then(|q| q.kv_cache);
        }
        Ok(profile)
    }

    /// Profiles the text of a `config.json` of any family that the detector knows.
    pub fn from_json(text: &[u8], checkpoint: Option<&Checkpoint>) -> Result<Profile, ModelError> {
        let counted = match model_type(text)?.as_deref() {
            None | Some("nemotron_h") => None,
            Some(_) => Some(TransformerConfig::from_json(text)?),
        };
        match (ModelConfig::from_json(text), counted) {
            (Ok(config), _) => Profile::of_model(&config, checkpoint),
            (Err(reason), Some(counted)) => {
                Ok(Profile::of_transformer(&counted, &reason, checkpoint))
            }
            (Err(reason), None) => Err(reason.into()),
        }
    }

    /// Profiles a model that this version runs. Fails if a checkpoint is given that does not have the tensors of the configuration.
    pub fn of_model(
        config: &ModelConfig,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<Profile, ModelError> {
        let expected = config.tensors();
        if let Some(checkpoint) = checkpoint {
            checkpoint.check(&[expected.clone(), config.kv_scales()].concat())?;
        }
        let tally = Tally::of_model(config, &expected, checkpoint);
        let attention = config.count(LayerKind::Attention);
        let experts = (config.num_experts_per_tok, config.n_routed_experts);
        let operands = operand_kind(config, checkpoint);
        // The layers that its makers count: of Llama, each is two of the stack.
        let (layers, pattern) = match config.family {
            Family::NemotronH => (config.layers.len(), Some(config.pattern())),
            Family::Llama => (config.layers.len() / 2, None),
        };
        Ok(Profile {
            model_type: config.model_type.clone(),
            layers,
            pattern,
            precision: checkpoint
                .filter(|_| config.family == Family::NemotronH)
                .and_then(|c| formats::letters(config, &expected, c)),
            formats: checkpoint.map_or(Vec::new(), |c| formats::amounts(&expected, c)),
            total: tally.total(),
            mtp: count::mtp(config, checkpoint),
            active: tally.active(experts, config.tie_word_embeddings),
            parts: tally.into_parts(),
            state: StateBytes::of(config),
            kv_per_token: KvBytes::of(attention, config.num_key_value_heads, config.head_dim),
            kv_named: config
                .quantization
                .as_ref()
                .and_then(|q| q.kv_cache.clone()),
            plan: plan::of(config, operands),
            not_run: None,
            attention_only: Reach {
                layers: attention,
                of: layers,
            },
            stored: checkpoint.map(StoredProfile::of),
        })
    }

    /// Counts a plain transformer that this version does not run. With a checkpoint, parameters are those of its headers.
    fn of_transformer(
        config: &TransformerConfig,
        reason: &ConfigError,
        checkpoint: Option<&Checkpoint>,
    ) -> Profile {
        let tally = match checkpoint {
            Some(checkpoint) => Tally::of_transformer_headers(config, checkpoint),
            None => Tally::of_transformer(config),
        };
        let layers = config.feed_forward.len();
        let experts = (config.num_experts_per_tok, config.num_experts);
        Profile {
            model_type: config.family.name().into(),
            layers,
            pattern: None,
            precision: None,
            formats: Vec::new(),
            total: tally.total(),
            mtp: None,
            active: tally.active(experts, config.tie_word_embeddings),
            parts: tally.into_parts(),
            state: StateBytes::default(),
            kv_per_token: KvBytes::of(layers, config.num_key_value_heads, config.head_dim),
            kv_named: None,
            plan: Vec::new(),
            not_run: Some(reason.to_string()),
            attention_only: Reach { layers, of: layers },
            stored: checkpoint.map(StoredProfile::of),
        }
    }

    /// Parameters and bytes of a part, if the model has it.
    pub fn part(&self, part: Part) -> Option<&PartProfile> {
        self.parts.iter().find(|p| p.part == part)
    }
}

impl StoredProfile {
    fn of(checkpoint: &Checkpoint) -> StoredProfile {
        let mut dtypes: Vec<StoredAmount> = Vec::new();
        for info in checkpoint.infos() {
            let at = dtypes
                .iter()
                .position(|amount| amount.dtype == info.dtype)
                .unwrap_or_else(|| {
                    dtypes.push(StoredAmount {
                        dtype: info.dtype,
                        tensors: 0,
                        bytes: 0,
                    });
                    dtypes.len() - 1
                });
            dtypes[at].tensors += 1;
            dtypes[at].bytes += info.bytes;
        }
        dtypes.sort_by_key(|amount| std::cmp::Reverse(amount.bytes));
        StoredProfile {
            files: checkpoint.files().count(),
            tensors: checkpoint.len(),
            bytes: dtypes.iter().map(|amount| amount.bytes).sum(),
            dtypes,
        }
    }
}

/// The word for an operand kind in reports.
fn operand_word(kind: OperandKind) -> &'static str {
    match kind {
        OperandKind::Bf16 => "bf16",
        OperandKind::F32 => "f32",
    }
}
