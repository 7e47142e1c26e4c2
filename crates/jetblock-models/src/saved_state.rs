//! A sequence's state as bytes: for files, other processes and other machines.
//!
//! ```text
//! "JBSTATE1"  fingerprint [32]  tokens u64
//! each layer in order:  Mamba: conv [K-1, conv_dim], SSM [H, P, N] as f32;  attention: K, V [tokens, KVH, hd] in the KV dtype
//! SHA-256 of all of the above
//! ```
//!
//! Numbers are little-endian. The layout is that of the state's digest, so equal digests mean equal files.

use jetblock_ops::attention::KvCache;
use jetblock_ops::selective_scan;
use jetblock_tensor::digest;

use crate::state::{LayerState, SequenceState};
use crate::{Model, ModelError};

const MAGIC: &[u8; 8] = b"JBSTATE1";

impl SequenceState {
    /// The state as bytes, for [`Model::restore_state`].
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(self.fingerprint.0);
        out.extend((self.tokens as u64).to_le_bytes());
        for layer in &self.layers {
            match layer {
                LayerState::None => {}
                LayerState::Mamba { conv, ssm, dims } => {
                    let ssm = selective_scan::state_to_canonical(ssm, dims.state, dims.head_dim);
                    out.extend(conv.iter().chain(&ssm).flat_map(|v| v.to_le_bytes()));
                }
                LayerState::Attention(cache) => {
                    out.extend(cache.key_bytes());
                    out.extend(cache.value_bytes());
                }
            }
        }
        out.extend(digest::sha256(&out).0);
        out
    }
}

impl Model {
    /// The state that [`SequenceState::to_bytes`] wrote, in this process or another.
    ///
    /// Bytes that are truncated, changed, or of a model with other shapes or options are an error.
    pub fn restore_state(&self, bytes: &[u8]) -> Result<SequenceState, ModelError> {
        let bad = |message: &str| ModelError::SavedState(message.to_string());
        let (body, hash) = bytes
            .split_last_chunk::<32>()
            .ok_or_else(|| bad("too short for a header"))?;
        let mut rest = Reader(body);
        if rest.take(MAGIC.len())? != MAGIC {
            return Err(bad("does not start with JBSTATE1"));
        }
        if digest::sha256(body).0 != *hash {
            return Err(bad("its checksum does not match: truncated or changed"));
        }
        if rest.take(32)? != self.fingerprint().0 {
            return Err(ModelError::ForeignState);
        }
        let tokens = u64::from_le_bytes(rest.take(8)?.try_into().expect("eight bytes"));
        // Every token of a KV cache takes bytes; a model without attention bounds nothing by this number.
        let tokens =
            usize::try_from(tokens).map_err(|_| bad("more tokens than this machine can count"))?;
        let mut state = self.new_state();
        for (index, layer) in state.layers.iter_mut().enumerate() {
            match layer {
                LayerState::None => {}
                LayerState::Mamba { conv, ssm, dims } => {
                    *conv = rest.floats(dims.conv_len())?;
                    *ssm = selective_scan::state_from_canonical(
                        &rest.floats(dims.ssm_len())?,
                        dims.state,
                        dims.head_dim,
                    );
                }
                LayerState::Attention(cache) => {
                    let config = self.kv_cache_config(index);
                    let len = tokens
                        .checked_mul(config.token_bytes())
                        .ok_or_else(|| bad("more tokens than bytes"))?;
                    *cache = KvCache::from_bytes(config, tokens, rest.take(len)?, rest.take(len)?)?;
                }
            }
        }
        if !rest.0.is_empty() {
            return Err(bad("bytes are left over at its end"));
        }
        state.tokens = tokens;
        Ok(state)
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], ModelError> {
        let short = || {
            ModelError::SavedState(format!(
                "truncated: {len} more bytes expected, {} left",
                self.0.len()
            ))
        };
        let (taken, rest) = self.0.split_at_checked(len).ok_or_else(short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn floats(&mut self, len: usize) -> Result<Vec<f32>, ModelError> {
        Ok(self
            .take(4 * len)?
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect())
    }
}
