//! The tensors a checkpoint of a given configuration must have, by their names in the file.

use std::borrow::Cow;

use jetblock_tensor::DType;

use super::{Family, LayerKind, ModelConfig};

/// One tensor of the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedTensor {
    /// The family's name for it: Nemotron-H's with the `backbone.` prefix.
    pub name: String,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// Index in the stack; `None` for the embedding tables and the final norm.
    pub layer: Option<usize>,
    /// What the tensor is for.
    pub kind: TensorKind,
    /// Whether the checkpoint must have it.
    pub presence: Presence,
}

impl ExpectedTensor {
    /// The element types a checkpoint may store it in. Releases mix BF16 and F32, for the router above all, so every tensor
    /// may have any of them.
    pub const DTYPES: [DType; 3] = [DType::BF16, DType::F16, DType::F32];

    /// Number of elements; configurations are bounded so that it does not overflow.
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|n| *n as u64).product()
    }
}

/// What a tensor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TensorKind {
    /// Token embedding table.
    Embeddings,
    /// Output projection to the vocabulary.
    LmHead,
    /// Weight of an RMSNorm: plain, gated, or of queries and keys.
    Norm,
    /// Weight of a linear layer that every token passes.
    Linear,
    /// Weight of a linear layer of one routed expert.
    RoutedExpert,
    /// Bias of a linear layer.
    Bias,
    /// Weight or bias of the causal convolution.
    Conv1d,
    /// A_log, D or dt_bias.
    Ssm,
    /// Router weight or correction bias, always used in f32.
    Router,
    /// Scale of a quantized KV cache.
    KvScale,
}

impl TensorKind {
    /// Whether this is the weight of a linear layer, which may be quantized.
    pub fn is_linear(self) -> bool {
        matches!(
            self,
            TensorKind::Linear | TensorKind::RoutedExpert | TensorKind::LmHead
        )
    }

    /// Whether it is multiplied by rows, or is a table of rows: what block formats are for.
    pub fn is_matrix(self) -> bool {
        matches!(
            self,
            TensorKind::Embeddings
                | TensorKind::LmHead
                | TensorKind::Linear
                | TensorKind::RoutedExpert
        )
    }
}

/// Whether a checkpoint must have a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Presence {
    /// Its absence is an error.
    Required,
    /// Used when present.
    Optional,
    /// May be present and is not used: an output table beside tied embeddings.
    Unused,
}

/// What the tensors of a layer are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerNames {
    /// Weight of the norm in front.
    pub norm: String,
    /// In front of the mixer's tensors, with the last dot.
    pub mixer: String,
}

impl ModelConfig {
    /// The name of the embedding table.
    pub fn embeddings_name(&self) -> &'static str {
        match self.family {
            Family::NemotronH => "backbone.embeddings.weight",
            Family::Llama => "model.embed_tokens.weight",
        }
    }

    /// The name of the weight of the norm after the last layer.
    pub fn final_norm_name(&self) -> &'static str {
        match self.family {
            Family::NemotronH => "backbone.norm_f.weight",
            Family::Llama => "model.norm.weight",
        }
    }

    /// The names of layer `index` of the stack. A layer of Llama's files is two of them.
    pub fn layer_names(&self, index: usize) -> LayerNames {
        let (norm, mixer) = match self.family {
            Family::NemotronH => {
                let scope = format!("backbone.layers.{index}.");
                (scope.clone() + "norm.weight", scope + "mixer.")
            }
            Family::Llama => {
                let scope = format!("model.layers.{}.", index / 2);
                match self.layers[index] {
                    LayerKind::Attention => (
                        scope.clone() + "input_layernorm.weight",
                        scope + "self_attn.",
                    ),
                    _ => (
                        scope.clone() + "post_attention_layernorm.weight",
                        scope + "mlp.",
                    ),
                }
            }
        };
        LayerNames { norm, mixer }
    }

    /// Every tensor of the checkpoint without the multi-token-prediction head, in the order of the forward pass.
    pub fn tensors(&self) -> Vec<ExpectedTensor> {
        let mut list = List::default();
        let table = [self.vocab_size, self.hidden_size];
        list.push(self.embeddings_name(), &table, TensorKind::Embeddings);
        for (i, kind) in self.layers.iter().enumerate() {
            list.layer = Some(i);
            let names = self.layer_names(i);
            list.push(&names.norm, &[self.hidden_size], TensorKind::Norm);
            list.prefix = names.mixer;
            self.mixer_tensors(&mut list, *kind, self.intermediate_sizes[i]);
            list.prefix.clear();
        }
        list.layer = None;
        list.push(
            self.final_norm_name(),
            &[self.hidden_size],
            TensorKind::Norm,
        );
        let presence = if self.tie_word_embeddings {
            Presence::Unused
        } else {
            Presence::Required
        };
        list.push_with("lm_head.weight", &table, TensorKind::LmHead, presence);
        list.tensors
    }

    /// The scales of quantized KV caches, which a checkpoint may have beside [`tensors`](Self::tensors).
    pub fn kv_scales(&self) -> Vec<ExpectedTensor> {
        let mut list = List::default();
        for (i, kind) in self.layers.iter().enumerate() {
            if *kind == LayerKind::Attention {
                list.layer = Some(i);
                list.prefix = self.layer_names(i).mixer;
                for name in ["k_proj.k_scale", "v_proj.v_scale"] {
                    list.push_with(name, &[], TensorKind::KvScale, Presence::Optional);
                }
            }
        }
        list.tensors
    }

    /// The tensors of the multi-token-prediction head, which inference without it skips; empty without one.
    pub fn mtp_tensors(&self) -> Vec<ExpectedTensor> {
        let mut list = List::default();
        let d = self.hidden_size;
        for (i, kind) in self.mtp_layers.iter().enumerate() {
            list.layer = Some(i);
            list.prefix = format!("mtp.layers.{i}.");
            if i == 0 {
                list.push("enorm.weight", &[d], TensorKind::Norm);
                list.push("hnorm.weight", &[d], TensorKind::Norm);
                list.push("eh_proj.weight", &[d, 2 * d], TensorKind::Linear);
            }
            list.push("norm.weight", &[d], TensorKind::Norm);
            list.prefix.push_str("mixer.");
            self.mixer_tensors(&mut list, *kind, 0);
            if i + 1 == self.mtp_layers.len() {
                list.prefix = format!("mtp.layers.{i}.");
                list.push("final_layernorm.weight", &[d], TensorKind::Norm);
            }
        }
        list.tensors
    }

    fn mixer_tensors(&self, list: &mut List, kind: LayerKind, intermediate_size: usize) {
        let d = self.hidden_size;
        match kind {
            LayerKind::Mamba => self.mamba_tensors(list),
            LayerKind::Attention => {
                let (q, kv) = (self.q_width(), self.kv_width());
                list.linear("q_proj", q, d, TensorKind::Linear, self.qkv_bias);
                list.linear("k_proj", kv, d, TensorKind::Linear, self.qkv_bias);
                list.linear("v_proj", kv, d, TensorKind::Linear, self.qkv_bias);
                list.linear("o_proj", d, q, TensorKind::Linear, self.o_bias);
                if self.qk_norm {
                    list.push("q_norm.weight", &[self.head_dim], TensorKind::Norm);
                    list.push("k_norm.weight", &[self.head_dim], TensorKind::Norm);
                }
            }
            LayerKind::Mlp => self.mlp_tensors(list, "", d, intermediate_size, TensorKind::Linear),
            LayerKind::Moe => self.moe_tensors(list),
        }
    }

    fn mamba_tensors(&self, list: &mut List) {
        let (d, inner, conv_dim) = (self.hidden_size, self.mamba_inner(), self.conv_dim());
        let bias = self.use_bias.then_some(Presence::Required);
        list.linear("in_proj", self.in_proj_rows(), d, TensorKind::Linear, bias);
        list.push(
            "conv1d.weight",
            &[conv_dim, 1, self.conv_kernel],
            TensorKind::Conv1d,
        );
        if self.use_conv_bias {
            list.push("conv1d.bias", &[conv_dim], TensorKind::Conv1d);
        }
        let decay = if self.decay_rates_stored {
            "A"
        } else {
            "A_log"
        };
        for name in [decay, "D", "dt_bias"] {
            list.push(name, &[self.mamba_num_heads], TensorKind::Ssm);
        }
        list.push("norm.weight", &[inner], TensorKind::Norm);
        list.linear("out_proj", d, inner, TensorKind::Linear, bias);
    }

    fn moe_tensors(&self, list: &mut List) {
        let (d, x) = (self.hidden_size, self.expert_width());
        let bias = self.mlp_bias.then_some(Presence::Required);
        list.push(
            "gate.weight",
            &[self.n_routed_experts, d],
            TensorKind::Router,
        );
        list.push(
            "gate.e_score_correction_bias",
            &[self.n_routed_experts],
            TensorKind::Router,
        );
        if self.moe_latent_size.is_some() {
            list.linear("fc1_latent_proj", x, d, TensorKind::Linear, bias);
        }
        for e in 0..self.n_routed_experts {
            let scope = format!("experts.{e}.");
            self.mlp_tensors(
                list,
                &scope,
                x,
                self.moe_intermediate_size,
                TensorKind::RoutedExpert,
            );
        }
        if self.moe_latent_size.is_some() {
            list.linear("fc2_latent_proj", d, x, TensorKind::Linear, bias);
        }
        let shared = self.moe_shared_expert_intermediate_size;
        self.mlp_tensors(list, "shared_experts.", d, shared, TensorKind::Linear);
    }

    /// Two matrices, or three with a gate.
    fn mlp_tensors(
        &self,
        list: &mut List,
        scope: &str,
        width: usize,
        inner: usize,
        kind: TensorKind,
    ) {
        let bias = self.mlp_bias.then_some(Presence::Required);
        if self.gated_mlp() {
            list.linear(&format!("{scope}gate_proj"), inner, width, kind, bias);
        }
        list.linear(&format!("{scope}up_proj"), inner, width, kind, bias);
        list.linear(&format!("{scope}down_proj"), width, inner, kind, bias);
    }
}

/// The canonical form of a stored name: the prefixes that multimodal wrappers and in-memory names put in front are removed.
pub fn canonical_name(stored: &str) -> Cow<'_, str> {
    let name = stored.strip_prefix("language_model.").unwrap_or(stored);
    match name.strip_prefix("model.") {
        Some(rest) => Cow::Owned(format!("backbone.{rest}")),
        None => Cow::Borrowed(name),
    }
}

#[derive(Default)]
struct List {
    prefix: String,
    layer: Option<usize>,
    tensors: Vec<ExpectedTensor>,
}

impl List {
    fn push(&mut self, name: &str, shape: &[usize], kind: TensorKind) {
        self.push_with(name, shape, kind, Presence::Required);
    }

    fn push_with(&mut self, name: &str, shape: &[usize], kind: TensorKind, presence: Presence) {
        let name = format!("{}{name}", self.prefix);
        self.tensors.push(ExpectedTensor {
            name,
            shape: shape.to_vec(),
            layer: self.layer,
            kind,
            presence,
        });
    }

    fn linear(
        &mut self,
        name: &str,
        out: usize,
        input: usize,
        kind: TensorKind,
        bias: Option<Presence>,
    ) {
        self.push(&format!("{name}.weight"), &[out, input], kind);
        if let Some(presence) = bias {
            self.push_with(&format!("{name}.bias"), &[out], TensorKind::Bias, presence);
        }
    }
}
