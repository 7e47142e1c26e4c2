//! What one sequence carries from token to token: KV cache, convolution state, SSM state.
//!
//! A state is a plain value. Cloning it is a snapshot, assigning a clone back is a restore or a rollback, dropping it
//! frees everything; each is exact, because the recurrence and the caches hold unrounded contract values. Cloning it often
//! forks one sequence into many: they share their keys and values, in blocks of 64 tokens, until one side writes to a block.

use jetblock_ops::attention::KvCache;
use jetblock_ops::selective_scan;
use jetblock_tensor::{Digest, digest};

use crate::ModelError;

/// The state of one sequence in one model.
#[derive(Clone, Debug)]
pub struct SequenceState {
    /// Identifies the shapes and dtypes the model expects.
    pub(crate) fingerprint: Digest,
    /// Tokens fed so far.
    pub(crate) tokens: usize,
    pub(crate) layers: Vec<LayerState>,
    /// Why the sequence cannot continue, once a layer has refused its values.
    pub(crate) failed: Option<SequenceError>,
}

/// The state of one layer.
#[derive(Clone, Debug)]
pub(crate) enum LayerState {
    /// Layers without memory: MLP, MoE.
    None,
    /// A Mamba-2 mixer.
    Mamba {
        /// The last K-1 rows before convolution, oldest first: `[K-1, conv_dim]`.
        conv: Vec<f32>,
        /// `[H, N, P]`; digests and snapshots show it as `[H, P, N]`.
        ssm: Vec<f32>,
        /// (heads, head width, state width, convolution channels).
        dims: MambaDims,
    },
    /// An attention mixer.
    Attention(KvCache),
}

/// The extents of a Mamba-2 layer's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MambaDims {
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) state: usize,
    pub(crate) conv_dim: usize,
    pub(crate) taps: usize,
}

impl MambaDims {
    pub(crate) fn conv_len(&self) -> usize {
        (self.taps - 1) * self.conv_dim
    }
    pub(crate) fn ssm_len(&self) -> usize {
        self.heads * self.head_dim * self.state
    }
}

/// Why a sequence cannot continue; its neighbours are not affected.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("layer {layer}: {message}")]
pub struct SequenceError {
    /// Index of the layer in the stack.
    pub layer: usize,
    /// What it refused.
    pub message: String,
}

impl SequenceState {
    /// Tokens fed so far.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Why the sequence cannot continue, if so.
    pub fn failed(&self) -> Option<&SequenceError> {
        self.failed.as_ref()
    }

    /// Bytes of memory that the state holds.
    pub fn bytes(&self) -> usize {
        self.layers
            .iter()
            .map(|layer| match layer {
                LayerState::None => 0,
                LayerState::Mamba { conv, ssm, .. } => 4 * (conv.len() + ssm.len()),
                LayerState::Attention(cache) => cache.bytes(),
            })
            .sum()
    }

    /// Bytes that no clone shares: convolution and SSM states.
    pub fn unshared_bytes(&self) -> usize {
        self.layers
            .iter()
            .map(|layer| match layer {
                LayerState::Mamba { conv, ssm, .. } => 4 * (conv.len() + ssm.len()),
                LayerState::None | LayerState::Attention(_) => 0,
            })
            .sum()
    }

    /// The address and bytes of each block of keys or values; clones share them until one side writes.
    pub fn visit_shared(&self, visit: &mut dyn FnMut(usize, usize)) {
        for layer in &self.layers {
            if let LayerState::Attention(cache) = layer {
                cache.visit_blocks(visit);
            }
        }
    }

    /// The digest of NUMERICS.md section 12.
    pub fn digest(&self) -> Digest {
        let mut parts = Vec::new();
        for layer in &self.layers {
            match layer {
                LayerState::None => {}
                LayerState::Mamba { conv, ssm, dims } => {
                    parts.push(digest::f32s(&[dims.taps - 1, dims.conv_dim], conv));
                    let shape = [dims.heads, dims.head_dim, dims.state];
                    let canonical =
                        selective_scan::state_to_canonical(ssm, dims.state, dims.head_dim);
                    parts.push(digest::f32s(&shape, &canonical));
                }
                LayerState::Attention(cache) => parts.extend(cache.digests()),
            }
        }
        digest::combine(&format!("state {}", self.tokens), &parts)
    }

    /// Fills every stored value with NaN, so that tests can show that neighbours are not affected.
    #[doc(hidden)]
    pub fn poison_for_tests(&mut self) {
        for layer in &mut self.layers {
            if let LayerState::Mamba { conv, ssm, .. } = layer {
                conv.fill(f32::NAN);
                ssm.fill(f32::NAN);
            }
        }
    }

    pub(crate) fn check_usable(&self, fingerprint: &Digest) -> Result<(), ModelError> {
        if self.fingerprint != *fingerprint {
            return Err(ModelError::ForeignState);
        }
        match &self.failed {
            Some(e) => Err(ModelError::FailedSequence(e.clone())),
            None => Ok(()),
        }
    }
}
