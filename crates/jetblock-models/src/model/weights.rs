//! The weights of each layer kind, packed.

use jetblock_ops::linear::{Epilogue, LinearJob, PackedMatrix, Prepared, Rows};
use jetblock_ops::moe::RouterConfig;

/// A linear layer.
#[derive(Debug)]
pub(crate) struct LinearWeights {
    pub(crate) weight: PackedMatrix,
    pub(crate) bias: Option<Vec<f32>>,
}

impl LinearWeights {
    /// The product of all rows of `x`.
    pub(crate) fn job<'a>(
        &'a self,
        x: &'a Prepared,
        epilogue: Epilogue,
        out: &'a mut [f32],
    ) -> LinearJob<'a> {
        LinearJob {
            x,
            rows: Rows::Range(0..x.rows()),
            weight: &self.weight,
            bias: self.bias.as_deref(),
            epilogue,
            out,
        }
    }
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

/// An attention mixer.
#[derive(Debug)]
pub(crate) struct AttentionWeights {
    pub(crate) q_proj: LinearWeights,
    pub(crate) k_proj: LinearWeights,
    pub(crate) v_proj: LinearWeights,
    /// What keys and values are divided by in a quantized cache.
    pub(crate) kv_scales: [f32; 2],
    pub(crate) o_proj: LinearWeights,
    /// Norms of each head of q and of k, `[head_dim]`.
    pub(crate) qk_norm: Option<(Vec<f32>, Vec<f32>)>,
}

/// An MLP: `down(silu(gate(u)) * up(u))`, or without a gate `down(relu2(up(u)))`.
#[derive(Debug)]
pub(crate) struct MlpWeights {
    pub(crate) gate: Option<LinearWeights>,
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
