//! From a model folder or file to packed weights, tensor by tensor.

use std::path::Path;

use jetblock_ops::attention::KvCacheConfig;
use jetblock_ops::causal_conv1d;
use jetblock_ops::linear::quantized::{QuantizedRow, QuantizedRows};
use jetblock_ops::linear::{OperandKind, PackedMatrix, WeightRows};
use jetblock_ops::moe::RouterConfig;
use jetblock_ops::selective_scan;

use super::weights::{
    AttentionWeights, Layer, LinearWeights, MambaWeights, Mixer, MlpWeights, MoeWeights,
};
use super::{Model, Options, embeddings::Embeddings};
use crate::ModelError;
use crate::checkpoint::{Checkpoint, QuantizedView, StoredDType};
use crate::config::{LayerKind, ModelConfig};
use crate::detector;
use crate::gguf::{self, Gguf};

/// How far loading has come, in bytes of the checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct LoadProgress {
    /// Bytes packed.
    pub done: u64,
    /// Bytes to pack.
    pub total: u64,
}

impl Model {
    /// Loads a model folder or a GGUF file; `progress` hears after each tensor.
    pub fn load(
        path: &Path,
        options: Options,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Model, ModelError> {
        let (config, checkpoint) = if Gguf::is_named(path) {
            let gguf = Gguf::open(path)?;
            let config = gguf.config()?;
            let checkpoint = gguf.checkpoint(&config)?;
            (config, checkpoint)
        } else {
            (ModelConfig::open(path)?, Checkpoint::open(path)?)
        };
        Model::from_checkpoint(config, &checkpoint, options, progress)
    }

    /// Packs the weights of an open checkpoint.
    pub fn from_checkpoint(
        config: ModelConfig,
        checkpoint: &Checkpoint,
        options: Options,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Model, ModelError> {
        let tensors = [config.tensors(), config.kv_scales()].concat();
        checkpoint.check(&tensors)?;
        checkpoint.check_declared(&tensors, config.quantization.as_ref())?;
        let kind = options
            .operands
            .unwrap_or_else(|| detector::operand_kind(&config, Some(checkpoint)));
        if config.count(LayerKind::Attention) > 0 {
            // Before anything is read: a dtype that does not fit the head.
            KvCacheConfig {
                num_key_value_heads: config.num_key_value_heads,
                head_dim: config.head_dim,
                kind,
                dtype: options.kv_dtype(kind),
                k_scale: 1.0,
                v_scale: 1.0,
            }
            .check()?;
        }
        let total = checkpoint.infos().map(|info| info.bytes).sum();
        let mut loader = Loader {
            checkpoint,
            kind,
            progress,
            state: LoadProgress { done: 0, total },
        };
        // The large tables first: what is packed later then finds their file pages already released.
        let lm_head = if config.tie_word_embeddings {
            None
        } else {
            Some(LinearWeights {
                weight: loader.matrix(kind, "lm_head.weight")?,
                bias: None,
            })
        };
        let embeddings = if config.tie_word_embeddings {
            let weight = loader.matrix(kind, config.embeddings_name())?;
            Embeddings::Packed(LinearWeights { weight, bias: None })
        } else {
            loader.table(config.embeddings_name())?
        };
        let mut layers = Vec::with_capacity(config.layers.len());
        for (index, layer_kind) in config.layers.iter().enumerate() {
            let names = config.layer_names(index);
            let norm = loader.vector(&names.norm)?;
            let mixer = loader.mixer(&config, *layer_kind, &names.mixer)?;
            layers.push(Layer { norm, mixer });
        }
        let norm_f = loader.vector(config.final_norm_name())?;
        Model::new(config, options, kind, embeddings, layers, norm_f, lm_head)
    }
}

struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    kind: OperandKind,
    progress: &'a mut dyn FnMut(LoadProgress),
    state: LoadProgress,
}

/// Bytes after which pages of a tensor that is being packed are released.
const RELEASE_BYTES: usize = 4 << 20;

impl Loader<'_> {
    fn read(&mut self, bytes: &[u8]) {
        self.checkpoint.release(bytes);
        self.state.done += bytes.len() as u64;
        (self.progress)(self.state);
    }

    fn vector(&mut self, name: &str) -> Result<Vec<f32>, ModelError> {
        let stored = self.checkpoint.stored(name)?;
        let values = stored.to_f32();
        self.read(stored.bytes);
        Ok(values)
    }

    fn optional_vector(&mut self, name: &str) -> Result<Option<Vec<f32>>, ModelError> {
        if self.checkpoint.contains(name) {
            self.vector(name).map(Some)
        } else {
            Ok(None)
        }
    }

    /// A matrix packed for an operand kind.
    fn matrix(&mut self, kind: OperandKind, name: &str) -> Result<PackedMatrix, ModelError> {
        let checkpoint = self.checkpoint;
        if let Some(view) = checkpoint.quantized(name)? {
            return self.quantized_matrix(kind, name, &view);
        }
        let stored = checkpoint.stored(name)?;
        let (rows, k) = (stored.shape[0], stored.shape[1]);
        let row_bytes = stored.bytes.len() / rows;
        let mut released = 0;
        let mut release = |_: usize, rows: usize| {
            let end = rows * row_bytes;
            // Rows that stand in another order are read again later.
            if stored.pairs.is_none() && end - released >= RELEASE_BYTES {
                checkpoint.release(&stored.bytes[released..end]);
                released = end;
            }
        };
        let packed = if let StoredDType::Block(block) = stored.dtype {
            let part = QuantizedRows {
                rows,
                factor: 1.0,
                read: &|index, row| block.spread(stored.row(index), row),
            };
            PackedMatrix::pack_quantized(kind, block.format(), &[part], k, &mut release)?
        } else {
            let dtype = stored.dtype.dtype().expect("the check refused other types");
            let part = |rows, bytes| WeightRows { dtype, rows, bytes };
            let parts: Vec<WeightRows<'_>> = match stored.pairs {
                None => vec![part(rows, stored.bytes)],
                Some(_) => (0..rows).map(|row| part(1, stored.row(row))).collect(),
            };
            PackedMatrix::pack(kind, &parts, k, &mut release)?
        };
        self.read(stored.bytes);
        Ok(packed)
    }

    fn quantized_matrix(
        &mut self,
        kind: OperandKind,
        name: &str,
        view: &QuantizedView<'_>,
    ) -> Result<PackedMatrix, ModelError> {
        // One part, or one for each row where each has a factor.
        let rows = view.rows / view.factors.len().max(1);
        let readers: Vec<_> = (0..view.factors.len())
            .map(|part| {
                move |row: usize, out: QuantizedRow<'_>| view.read_row(part * rows + row, out)
            })
            .collect();
        let parts: Vec<_> = view
            .factors
            .iter()
            .zip(&readers)
            .map(|(&factor, read)| QuantizedRows { rows, factor, read })
            .collect();
        let checkpoint = self.checkpoint;
        let (row_bytes, mut released) = (view.codes.len() / view.rows.max(1), 0);
        let packed = PackedMatrix::pack_quantized(
            kind,
            view.op_format(),
            &parts,
            view.k,
            &mut |part, done| {
                let end = (part * rows + done) * row_bytes;
                if end - released >= RELEASE_BYTES {
                    checkpoint.release(&view.codes[released..end]);
                    released = end;
                }
            },
        )?;
        checkpoint.release(view.codes);
        checkpoint.release(view.scales);
        self.state.done += checkpoint.weight_bytes(name).unwrap_or_default();
        (self.progress)(self.state);
        Ok(packed)
    }

    fn linear(&mut self, name: &str) -> Result<LinearWeights, ModelError> {
        let weight = self.matrix(self.kind, &format!("{name}.weight"))?;
        let bias = self.optional_vector(&format!("{name}.bias"))?;
        Ok(LinearWeights { weight, bias })
    }

    /// The embedding table as stored.
    fn table(&mut self, name: &str) -> Result<Embeddings, ModelError> {
        if let StoredDType::Block(_) = self.checkpoint.stored(name)?.dtype {
            let weight = self.matrix(self.kind, name)?;
            return Ok(Embeddings::Packed(LinearWeights { weight, bias: None }));
        }
        let view = self.checkpoint.tensor(name)?;
        let mut bytes = Vec::with_capacity(view.bytes.len());
        for chunk in view.bytes.chunks(RELEASE_BYTES) {
            bytes.extend_from_slice(chunk);
            self.checkpoint.release(chunk);
        }
        let table = Embeddings::Table {
            dtype: view.dtype,
            width: view.shape[1],
            bytes,
        };
        self.read(view.bytes);
        Ok(table)
    }

    fn mixer(
        &mut self,
        config: &ModelConfig,
        kind: LayerKind,
        scope: &str,
    ) -> Result<Mixer, ModelError> {
        Ok(match kind {
            LayerKind::Mamba => Mixer::Mamba(Box::new(self.mamba(config, scope)?)),
            LayerKind::Attention => Mixer::Attention(Box::new(self.attention(config, scope)?)),
            LayerKind::Mlp => Mixer::Mlp(Box::new(self.mlp(config, scope)?)),
            LayerKind::Moe => Mixer::Moe(Box::new(self.moe(config, scope)?)),
        })
    }

    fn mamba(&mut self, config: &ModelConfig, scope: &str) -> Result<MambaWeights, ModelError> {
        let conv_weight = self.vector(&format!("{scope}conv1d.weight"))?;
        Ok(MambaWeights {
            in_proj: self.linear(&format!("{scope}in_proj"))?,
            conv_weight: causal_conv1d::transpose_weight(&conv_weight, config.conv_dim()),
            conv_bias: self.optional_vector(&format!("{scope}conv1d.bias"))?,
            dt_bias: self.vector(&format!("{scope}dt_bias"))?,
            a: match config.decay_rates_stored {
                true => gguf::decay_rates(&self.vector(&format!("{scope}A"))?),
                false => selective_scan::decay_rates(&self.vector(&format!("{scope}A_log"))?),
            },
            d: self.vector(&format!("{scope}D"))?,
            norm: self.vector(&format!("{scope}norm.weight"))?,
            out_proj: self.linear(&format!("{scope}out_proj"))?,
        })
    }

    fn attention(
        &mut self,
        config: &ModelConfig,
        scope: &str,
    ) -> Result<AttentionWeights, ModelError> {
        let qk_norm = match config.qk_norm {
            true => Some((
                self.vector(&format!("{scope}q_norm.weight"))?,
                self.vector(&format!("{scope}k_norm.weight"))?,
            )),
            false => None,
        };
        Ok(AttentionWeights {
            q_proj: self.linear(&format!("{scope}q_proj"))?,
            k_proj: self.linear(&format!("{scope}k_proj"))?,
            v_proj: self.linear(&format!("{scope}v_proj"))?,
            o_proj: self.linear(&format!("{scope}o_proj"))?,
            qk_norm,
            kv_scales: [
                self.kv_scale(&format!("{scope}k_proj.k_scale"))?,
                self.kv_scale(&format!("{scope}v_proj.v_scale"))?,
            ],
        })
    }

    /// The scale of a quantized cache, 1 where the checkpoint has none.
    fn kv_scale(&mut self, name: &str) -> Result<f32, ModelError> {
        let stored = self.optional_vector(name)?;
        Ok(stored.map_or(1.0, |scale| scale[0]))
    }

    fn mlp(&mut self, config: &ModelConfig, scope: &str) -> Result<MlpWeights, ModelError> {
        let gate = match config.gated_mlp() {
            true => Some(self.linear(&format!("{scope}gate_proj"))?),
            false => None,
        };
        Ok(MlpWeights {
            gate,
            up: self.linear(&format!("{scope}up_proj"))?,
            down: self.linear(&format!("{scope}down_proj"))?,
        })
    }

    fn moe(&mut self, config: &ModelConfig, scope: &str) -> Result<MoeWeights, ModelError> {
        let gate = self.matrix(OperandKind::F32, &format!("{scope}gate.weight"))?;
        let latent = match config.moe_latent_size {
            Some(_) => Some((
                self.linear(&format!("{scope}fc1_latent_proj"))?,
                self.linear(&format!("{scope}fc2_latent_proj"))?,
            )),
            None => None,
        };
        let mut moe = MoeWeights {
            gate: LinearWeights {
                weight: gate,
                bias: None,
            },
            correction_bias: self.vector(&format!("{scope}gate.e_score_correction_bias"))?,
            router: RouterConfig {
                n_routed_experts: config.n_routed_experts,
                num_experts_per_tok: config.num_experts_per_tok,
                n_group: config.n_group,
                topk_group: config.topk_group,
                norm_topk_prob: config.norm_topk_prob,
                routed_scaling_factor: config.routed_scaling_factor,
            },
            up: Vec::new(),
            down: Vec::new(),
            up_bias: Vec::new(),
            down_bias: Vec::new(),
            shared: self.mlp(config, &format!("{scope}shared_experts."))?,
            latent,
        };
        moe.router.check()?;
        for e in 0..config.n_routed_experts {
            let MlpWeights { up, down, .. } = self.mlp(config, &format!("{scope}experts.{e}."))?;
            moe.up.push(up.weight);
            moe.down.push(down.weight);
            moe.up_bias.extend(up.bias);
            moe.down_bias.extend(down.bias);
        }
        Ok(moe)
    }
}
