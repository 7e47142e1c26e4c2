//! Memory of a sequence: the fixed state of Mamba layers and the keys and values of attention layers.

use jetblock_ops::attention::KvDtype;
use serde::Serialize;

use crate::config::{LayerKind, ModelConfig};

/// Fixed bytes of a sequence, all Mamba layers together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct StateBytes {
    /// SSM state in f32, as every engine should keep it: rounding it at each token accumulates.
    pub ssm_f32: u64,
    /// Convolution state in f32, as JetBlock keeps it.
    pub conv_f32: u64,
    /// Convolution state in bf16, as other engines keep it, for comparison.
    pub conv_bf16: u64,
}

impl StateBytes {
    /// Bytes that JetBlock keeps.
    pub fn kept(&self) -> u64 {
        self.ssm_f32 + self.conv_f32
    }

    pub(super) fn of(config: &ModelConfig) -> StateBytes {
        let layers = config.count(LayerKind::Mamba) as u64;
        if layers == 0 {
            return StateBytes::default();
        }
        let ssm = (config.mamba_inner() * config.ssm_state_size) as u64;
        let conv = (config.conv_dim() * (config.conv_kernel - 1)) as u64;
        StateBytes {
            ssm_f32: layers * ssm * 4,
            conv_f32: layers * conv * 4,
            conv_bf16: layers * conv * 2,
        }
    }
}

/// Bytes of keys and values per token in each KV dtype, all attention layers together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct KvBytes {
    /// In f32.
    pub f32: u64,
    /// In bf16.
    pub bf16: u64,
    /// In fp8.
    pub fp8: u64,
    /// In nvfp4: half a byte an element, and a scale of one byte for each 16 elements of a head. For a head that no nvfp4
    /// cache takes, what a last, shorter block would need.
    pub nvfp4: u64,
}

impl KvBytes {
    pub(super) fn of(attention_layers: usize, kv_heads: usize, head_dim: usize) -> KvBytes {
        let rows = 2 * (attention_layers * kv_heads) as u64;
        let bytes = |dtype: KvDtype| rows * dtype.row_bytes(head_dim) as u64;
        KvBytes {
            f32: bytes(KvDtype::F32),
            bf16: bytes(KvDtype::Bf16),
            fp8: bytes(KvDtype::Fp8),
            nvfp4: bytes(KvDtype::Nvfp4),
        }
    }
}
