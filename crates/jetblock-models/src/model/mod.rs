//! The model: Mamba-2, attention, MLP and mixture-of-experts layers in any order. Every family comes down to such a stack.
//!
//! Every layer is one mixer behind one rms_norm with one residual addition. The arithmetic is NUMERICS.md sections 7-10.

mod embeddings;
mod forward;
mod kernels;
mod load;
mod weights;

use jetblock_ops::attention::{Attention, KvCache, KvCacheConfig, KvDtype};
use jetblock_ops::linear::OperandKind;
use jetblock_tensor::{Digest, digest};

pub use forward::{LayerRows, LogitRows, Observe, Piece, PieceResult};
pub use kernels::{Contract, Kernels};
pub use load::LoadProgress;

pub(crate) use forward::{add, linear};
pub(crate) use weights::{LinearWeights, MlpWeights, MoeWeights};

use crate::ModelError;
use crate::config::{LayerKind, ModelConfig};
use crate::state::{LayerState, MambaDims, SequenceState};
use crate::workspace::Workspace;
use embeddings::Embeddings;
use weights::{Layer, Mixer};

/// Choices that are part of every request's key: each combination has its own bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Operand kind of the linear layers; by the model's dtypes where `None`.
    pub operands: Option<OperandKind>,
    /// Dtype of the KV cache; f32 or bf16, as the operand kind, where `None`.
    pub kv_dtype: Option<KvDtype>,
    /// Keys in an attention block: 64, 128 or 256.
    pub split: usize,
    /// Whether equal router scores are ordered by a hash instead of by the lower expert.
    pub hash_ties: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            operands: None,
            kv_dtype: None,
            split: Attention::DEFAULT_SPLIT,
            hash_ties: false,
        }
    }
}

impl Options {
    /// The dtype of KV caches under operand kind `kind`.
    pub(crate) fn kv_dtype(&self, kind: OperandKind) -> KvDtype {
        self.kv_dtype.unwrap_or(match kind {
            OperandKind::Bf16 => KvDtype::Bf16,
            OperandKind::F32 => KvDtype::F32,
        })
    }
}

/// A loaded model. It is never changed by use; any number of sequences and threads share it.
#[derive(Debug)]
pub struct Model {
    config: ModelConfig,
    options: Options,
    kind: OperandKind,
    kv_dtype: KvDtype,
    fingerprint: Digest,
    embeddings: Embeddings,
    layers: Vec<Layer>,
    /// Radians per position of each pair that turns; empty without rotary embedding.
    inverse_frequencies: Vec<f64>,
    norm_f: Vec<f32>,
    /// `None` when tied to the embeddings.
    lm_head: Option<LinearWeights>,
}

impl Model {
    fn new(
        config: ModelConfig,
        options: Options,
        kind: OperandKind,
        embeddings: Embeddings,
        layers: Vec<Layer>,
        norm_f: Vec<f32>,
        lm_head: Option<LinearWeights>,
    ) -> Result<Model, ModelError> {
        let kv_dtype = options.kv_dtype(kind);
        if ![64, 128, 256].contains(&options.split) {
            return Err(ModelError::Option {
                field: "split",
                expected: "64, 128 or 256",
                got: options.split.to_string(),
            });
        }
        let Options {
            split, hash_ties, ..
        } = options;
        let key = format!("{config:?} {kind:?} {kv_dtype} {split} {hash_ties}");
        let fingerprint = digest::combine(&key, &[]);
        let inverse_frequencies = match &config.rope {
            Some(rope) => rope.inverse_frequencies()?,
            None => Vec::new(),
        };
        let model = Model {
            config,
            options,
            kind,
            kv_dtype,
            fingerprint,
            embeddings,
            layers,
            inverse_frequencies,
            norm_f,
            lm_head,
        };
        for layer in 0..model.layers.len() {
            if model.config.layers[layer] == LayerKind::Attention {
                model.kv_cache_config(layer).check()?;
            }
        }
        Ok(model)
    }

    /// The configuration it was loaded with.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The options it was loaded with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The operand kind of its linear layers.
    pub fn operand_kind(&self) -> OperandKind {
        self.kind
    }

    /// The dtype of its KV caches.
    pub fn kv_dtype(&self) -> KvDtype {
        self.kv_dtype
    }

    pub(crate) fn fingerprint(&self) -> &Digest {
        &self.fingerprint
    }

    /// Scratch memory for its steps.
    pub fn workspace(&self) -> Workspace {
        Workspace::new(self.kind)
    }

    /// The state of a sequence without tokens.
    pub fn new_state(&self) -> SequenceState {
        let config = &self.config;
        let layer = |(index, kind): (usize, &LayerKind)| match kind {
            LayerKind::Mamba => {
                let dims = self.mamba_dims();
                LayerState::Mamba {
                    conv: vec![0.0; dims.conv_len()],
                    ssm: vec![0.0; dims.ssm_len()],
                    dims,
                }
            }
            LayerKind::Attention => {
                let cache = KvCache::new(self.kv_cache_config(index));
                LayerState::Attention(cache.expect("the configuration was checked at load"))
            }
            LayerKind::Mlp | LayerKind::Moe => LayerState::None,
        };
        SequenceState {
            fingerprint: self.fingerprint,
            tokens: 0,
            layers: config.layers.iter().enumerate().map(layer).collect(),
            failed: None,
        }
    }

    /// The extents of its Mamba layers' states, where it has such layers.
    pub(crate) fn mamba_dims(&self) -> MambaDims {
        MambaDims {
            heads: self.config.mamba_num_heads,
            head_dim: self.config.mamba_head_dim,
            state: self.config.ssm_state_size,
            conv_dim: self.config.conv_dim(),
            taps: self.config.conv_kernel,
        }
    }

    /// Bytes of keys and values that a token adds to a sequence's state in a cache of `dtype`.
    pub fn kv_bytes_per_token(&self, dtype: KvDtype) -> usize {
        let layers = self.config.count(LayerKind::Attention);
        2 * layers * self.config.num_key_value_heads * dtype.row_bytes(self.config.head_dim)
    }

    /// What the cache of attention layer `layer` stores.
    pub(crate) fn kv_cache_config(&self, layer: usize) -> KvCacheConfig {
        let [k_scale, v_scale] = match &self.layers[layer].mixer {
            Mixer::Attention(weights) if self.kv_dtype.is_quantized() => weights.kv_scales,
            _ => [1.0; 2],
        };
        KvCacheConfig {
            num_key_value_heads: self.config.num_key_value_heads,
            head_dim: self.config.head_dim,
            kind: self.kind,
            dtype: self.kv_dtype,
            k_scale,
            v_scale,
        }
    }

    /// Bytes of memory that the packed weights take.
    pub fn bytes(&self) -> usize {
        let layers = self
            .layers
            .iter()
            .map(|layer| 4 * layer.norm.len() + layer.mixer.bytes());
        let head = self.lm_head.as_ref().map_or(0, LinearWeights::bytes);
        layers.fold(
            head + self.embeddings.bytes() + 4 * self.norm_f.len(),
            |sum, bytes| sum + bytes,
        )
    }
}

impl LinearWeights {
    fn bytes(&self) -> usize {
        self.weight.bytes() + 4 * self.bias.as_ref().map_or(0, Vec::len)
    }
}

impl Mixer {
    fn bytes(&self) -> usize {
        let mlp = |m: &MlpWeights| {
            let gate = m.gate.as_ref().map_or(0, LinearWeights::bytes);
            gate + m.up.bytes() + m.down.bytes()
        };
        match self {
            Mixer::Mamba(w) => {
                let small = [&w.conv_weight, &w.dt_bias, &w.a, &w.d, &w.norm].map(Vec::len);
                let vectors = small
                    .iter()
                    .fold(w.conv_bias.as_ref().map_or(0, Vec::len), |sum, len| {
                        sum + len
                    });
                w.in_proj.bytes() + w.out_proj.bytes() + 4 * vectors
            }
            Mixer::Attention(w) => {
                let linear = [&w.q_proj, &w.k_proj, &w.v_proj, &w.o_proj];
                let norms = w
                    .qk_norm
                    .as_ref()
                    .map_or(0, |(q, k)| 4 * (q.len() + k.len()));
                linear.iter().fold(norms, |sum, part| sum + part.bytes())
            }
            Mixer::Mlp(w) => mlp(w),
            Mixer::Moe(w) => {
                let experts =
                    w.up.iter()
                        .chain(&w.down)
                        .fold(0, |sum, expert| sum + expert.bytes());
                let biases = w
                    .up_bias
                    .iter()
                    .chain(&w.down_bias)
                    .fold(0, |sum, bias| sum + 4 * bias.len());
                let latent = w
                    .latent
                    .as_ref()
                    .map_or(0, |(fc1, fc2)| fc1.bytes() + fc2.bytes());
                w.gate.bytes()
                    + 4 * w.correction_bias.len()
                    + mlp(&w.shared)
                    + latent
                    + experts
                    + biases
            }
        }
    }
}
