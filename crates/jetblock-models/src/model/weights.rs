//! The weights of each layer kind, packed.

use jetblock_ops::linear::PackedMatrix;
use jetblock_ops::moe::RouterConfig;

/// A linear layer.
#[derive(Debug)]
pub(crate) struct LinearWeights {
    pub(crate) weight: PackedMatrix,
    pub(crate) bias: Option<Vec<f32>>,
}

/// One layer of the stack: `h += mixer(rms_norm(h))`.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) norm: Vec<f32>,
    pub(crate) mixer: Mixer,
}

/// The mixer of a layer.
#[derive(Debug)]
pub(crate) enum Mixer {
    Mamba(Box<MambaWeights>),
    Attention(Box<AttentionWeights>),
    Mlp(Box<MlpWeights>),
    Moe(Box<MoeWeights>),
}

/// A Mamba-2 mixer.
#[derive(Debug)]
pub(crate) struct MambaWeights {
    /// Rows z, xBC, dt.
    pub(crate) in_proj: LinearWeights,
    /// `[K, conv_dim]`.
    pub(crate) conv_weight: Vec<f32>,
    pub(crate) conv_bias: Option<Vec<f32>>,
    pub(crate) dt_bias: Vec<f32>,
    /// `-exp(A_log)`.
    pub(crate) a: Vec<f32>,
    pub(crate) d: Vec<f32>,
    /// Weight of the gated norm.
    pub(crate) norm: Vec<f32>,
    pub(crate) out_proj: LinearWeights,
}

/// An attention mixer; q, k and v are one matrix.
#[derive(Debug)]
pub(crate) struct AttentionWeights {
    pub(crate) qkv: LinearWeights,
    pub(crate) o_proj: LinearWeights,
}

/// A squared-ReLU MLP: two matrices, no gate.
#[derive(Debug)]
pub(crate) struct MlpWeights {
    pub(crate) up: LinearWeights,
    pub(crate) down: LinearWeights,
}

/// A mixture of experts with one shared expert.
#[derive(Debug)]
pub(crate) struct MoeWeights {
    /// Always of the f32 kind.
    pub(crate) gate: LinearWeights,
    pub(crate) correction_bias: Vec<f32>,
    pub(crate) router: RouterConfig,
    /// One matrix for each routed expert.
    pub(crate) up: Vec<PackedMatrix>,
    pub(crate) down: Vec<PackedMatrix>,
    /// One bias for each routed expert; empty where the model has none.
    pub(crate) up_bias: Vec<Vec<f32>>,
    pub(crate) down_bias: Vec<Vec<f32>>,
    pub(crate) shared: MlpWeights,
    /// fc1 and fc2 around the routed experts of a latent model.
    pub(crate) latent: Option<(LinearWeights, LinearWeights)>,
}
