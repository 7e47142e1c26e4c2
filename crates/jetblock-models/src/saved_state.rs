//! Sequence states as bytes: for files, other processes and other machines.
//!
//! A state after n tokens is saved in one piece, or in several of which each goes on from the one before, so that prompts
//! that begin alike share the keys and values of what they have in common. A piece is
//!
//! ```text
//! "JBSTATE2"      format and its version
//! numerics        u32, version of the contract
//! weights         [32] digest of the model's weights
//! fingerprint     [32] digest of its configuration and options: operand kind, KV dtype, split, ties
//! prefix          [32] name of the first `tokens` tokens in this model: see `StateCodec::prefixes`
//! from, tokens    u64, u64; the piece goes on from a state of `from` tokens to one of `tokens`
//! KV, snapshot    [32] SHA-256 of the two sections below, each
//! ids             u32 each, the tokens from..tokens
//! SHA-256 of all of the above
//! KV section      each attention layer in order: K, V of the tokens from..tokens, [tokens - from, KVH, hd] in the KV dtype
//! snapshot        each Mamba layer in order: conv [K-1, conv_dim], SSM [H, P, N] as f32, after `tokens` tokens
//! ```
//!
//! Numbers are little-endian. Sizes of sections follow from the model and the tokens; none is taken from a file. What is
//! accepted is exactly what [`StateCodec::write`] gives for the same tokens.

use std::io::Read;
use std::sync::Arc;

use jetblock_numerics::{NUMERICS_VERSION, round};
use jetblock_ops::attention::{KvCache, KvCacheConfig};
use jetblock_ops::selective_scan;
use jetblock_tensor::{Digest, digest};

use crate::config::LayerKind;
use crate::state::{LayerState, SequenceState};
use crate::{Model, ModelError};

const MAGIC: &[u8; 8] = b"JBSTATE2";

/// Bytes of a header without its ids and its checksum.
const FIXED_BYTES: usize = 8 + 4 + 3 * 32 + 2 * 8 + 2 * 32;

/// Most bytes that are allocated before a file has shown that it has them.
const TRUSTED_BYTES: usize = 16 << 20;

/// Writes and reads the states of one model.
#[derive(Clone, Debug)]
pub struct StateCodec {
    model: Arc<Model>,
    weights: Digest,
}

/// Tokens, and the name of each of their prefixes in one model.
#[derive(Clone, Debug)]
pub struct Prefixes<'a> {
    ids: &'a [u32],
    names: Vec<Digest>,
}

/// A piece that was read and is whole.
#[derive(Clone, Debug)]
pub struct StatePiece {
    tokens: usize,
    /// Names of the prefixes before and after it.
    before: Digest,
    after: Digest,
    kv: Vec<u8>,
    /// `None` where it was not asked for.
    snapshot: Option<Vec<u8>>,
}

/// What stands before the sections of a piece.
struct Header {
    from: usize,
    kv: Digest,
    snapshot: Digest,
}

fn refuse<T>(message: String) -> Result<T, ModelError> {
    Err(ModelError::SavedState(message))
}

impl Prefixes<'_> {
    /// The name of the first `tokens` tokens: it is the same for the same tokens in the same model only.
    pub fn name(&self, tokens: usize) -> Digest {
        self.names[tokens]
    }

    /// Tokens of the longest prefix: all of them.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }
}

impl StateCodec {
    /// `weights` is the digest of the model's weights.
    pub fn new(model: Arc<Model>, weights: Digest) -> StateCodec {
        StateCodec { model, weights }
    }

    /// Names every prefix: that of no token is the digest of all that gives a model its bits; each token makes the next name
    /// from the last, SHA-256(name, id).
    pub fn prefixes<'a>(&self, ids: &'a [u32]) -> Prefixes<'a> {
        let key = format!("prefix {NUMERICS_VERSION}");
        let mut names = vec![digest::combine(
            &key,
            &[self.weights, *self.model.fingerprint()],
        )];
        for id in ids {
            let mut bytes = [0; 36];
            bytes[..32].copy_from_slice(&names[names.len() - 1].0);
            bytes[32..].copy_from_slice(&id.to_le_bytes());
            names.push(digest::sha256(&bytes));
        }
        Prefixes { ids, names }
    }

    /// Bytes of the piece that goes on from `from` tokens to `tokens`.
    pub fn piece_bytes(&self, from: usize, tokens: usize) -> u64 {
        let sections = self.kv_bytes(tokens - from) + self.snapshot_bytes();
        (FIXED_BYTES + 4 * (tokens - from) + 32 + sections) as u64
    }

    /// A state that was fed the first of these tokens, without what the state after `from` of them has already.
    pub fn write(
        &self,
        state: &SequenceState,
        prefixes: &Prefixes<'_>,
        from: usize,
    ) -> Result<Vec<u8>, ModelError> {
        state.check_usable(self.model.fingerprint())?;
        let tokens = state.tokens;
        if from >= tokens || tokens > prefixes.tokens() {
            return refuse(format!(
                "tokens {from}..{tokens} are to be written, expected some of 0..{}",
                prefixes.tokens()
            ));
        }
        let mut kv = Vec::with_capacity(self.kv_bytes(tokens - from));
        let mut snapshot = Vec::with_capacity(self.snapshot_bytes());
        for layer in &state.layers {
            match layer {
                LayerState::None => {}
                LayerState::Mamba { conv, ssm, dims } => {
                    let ssm = selective_scan::state_to_canonical(ssm, dims.state, dims.head_dim);
                    snapshot.extend(conv.iter().chain(&ssm).flat_map(|v| v.to_le_bytes()));
                }
                LayerState::Attention(cache) => {
                    kv.extend(cache.key_bytes_of(from..tokens));
                    kv.extend(cache.value_bytes_of(from..tokens));
                }
            }
        }
        let mut out = Vec::with_capacity(kv.len() + snapshot.len() + 4096);
        out.extend(MAGIC);
        out.extend(NUMERICS_VERSION.to_le_bytes());
        for name in [
            self.weights,
            *self.model.fingerprint(),
            prefixes.name(tokens),
        ] {
            out.extend(name.0);
        }
        out.extend((from as u64).to_le_bytes());
        out.extend((tokens as u64).to_le_bytes());
        out.extend(digest::sha256(&kv).0);
        out.extend(digest::sha256(&snapshot).0);
        let ids = &prefixes.ids[from..tokens];
        out.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
        out.extend(digest::sha256(&out).0);
        out.extend(kv);
        out.extend(snapshot);
        Ok(out)
    }

    /// From how many tokens on the piece in `file` goes to the first `tokens` of these; reads its header only.
    pub fn read_from(
        &self,
        prefixes: &Prefixes<'_>,
        tokens: usize,
        file: &mut impl Read,
    ) -> Result<usize, ModelError> {
        Ok(self.header(prefixes, tokens, file)?.from)
    }

    /// The piece in `file`, which must go to the first `tokens` of these. The last piece of a state needs its snapshot,
    /// the others do not.
    ///
    /// Bytes that are truncated, changed, or of another model, version, option or prompt are an error.
    pub fn read(
        &self,
        prefixes: &Prefixes<'_>,
        tokens: usize,
        file: &mut impl Read,
        with_snapshot: bool,
    ) -> Result<StatePiece, ModelError> {
        let header = self.header(prefixes, tokens, file)?;
        let section = |file: &mut _, len, want: Digest, what: &str| {
            let bytes = take(file, len, what)?;
            if digest::sha256(&bytes) != want {
                return refuse(format!("the checksum of its {what} does not match"));
            }
            Ok(bytes)
        };
        let kv = section(
            file,
            self.kv_bytes(tokens - header.from),
            header.kv,
            "keys and values",
        )?;
        let snapshot = if with_snapshot {
            let bytes = section(file, self.snapshot_bytes(), header.snapshot, "snapshot")?;
            if file.read(&mut [0]).map_err(unreadable)? > 0 {
                return refuse("bytes are left over at its end".into());
            }
            Some(bytes)
        } else {
            None
        };
        Ok(StatePiece {
            tokens: tokens - header.from,
            before: prefixes.name(header.from),
            after: prefixes.name(tokens),
            kv,
            snapshot,
        })
    }

    /// The state that pieces make, the first of which begins at the first token.
    pub fn restore(&self, pieces: &[StatePiece]) -> Result<SequenceState, ModelError> {
        let start = self.prefixes(&[]).name(0);
        let joints = pieces.iter().map(|piece| piece.before);
        let ends = [start]
            .into_iter()
            .chain(pieces.iter().map(|piece| piece.after));
        let Some(snapshot) = pieces.last().and_then(|last| last.snapshot.as_ref()) else {
            return refuse("it has no snapshot".into());
        };
        if joints.zip(ends).any(|(before, end)| before != end) {
            return refuse("its pieces do not follow each other".into());
        }
        let tokens = pieces.iter().map(|piece| piece.tokens).sum();
        let mut state = self.model.new_state();
        let mut snapshot = &snapshot[..];
        let mut rest: Vec<&[u8]> = pieces.iter().map(|piece| &piece.kv[..]).collect();
        for (index, layer) in state.layers.iter_mut().enumerate() {
            match layer {
                LayerState::None => {}
                LayerState::Mamba { conv, ssm, dims } => {
                    *conv = floats(&mut snapshot, dims.conv_len())?;
                    *ssm = selective_scan::state_from_canonical(
                        &floats(&mut snapshot, dims.ssm_len())?,
                        dims.state,
                        dims.head_dim,
                    );
                }
                LayerState::Attention(cache) => {
                    let config = self.model.kv_cache_config(index);
                    let mut join = || {
                        let mut bytes = Vec::with_capacity(tokens * config.token_bytes());
                        for (rest, piece) in rest.iter_mut().zip(pieces) {
                            let (own, others) = rest.split_at(piece.tokens * config.token_bytes());
                            bytes.extend(own);
                            *rest = others;
                        }
                        bytes
                    };
                    let (keys, values) = (join(), join());
                    *cache = KvCache::from_bytes(config, tokens, &keys, &values)?;
                }
            }
        }
        state.tokens = tokens;
        Ok(state)
    }

    /// Reads and checks everything before the sections.
    fn header(
        &self,
        prefixes: &Prefixes<'_>,
        tokens: usize,
        file: &mut impl Read,
    ) -> Result<Header, ModelError> {
        let mut bytes = take(file, FIXED_BYTES, "header")?;
        let fixed = bytes.clone();
        let mut rest = &fixed[..];
        let mut next = |len| rest.split_off(..len).expect("the header is FIXED_BYTES");
        if next(8) != MAGIC {
            return refuse("it does not begin with JBSTATE2".into());
        }
        let numerics = u32::from_le_bytes(next(4).try_into().expect("four bytes"));
        let mut name = || Digest(next(32).try_into().expect("32 bytes"));
        let (weights, fingerprint, prefix) = (name(), name(), name());
        let mut number = || u64::from_le_bytes(next(8).try_into().expect("eight bytes"));
        let (from, to) = (number(), number());
        let mut name = || Digest(next(32).try_into().expect("32 bytes"));
        let (kv, snapshot) = (name(), name());
        if to != tokens as u64 || from >= to {
            return refuse(format!(
                "it holds the tokens {from}..{to}, expected some up to {tokens}"
            ));
        }
        // Fits: it is less than `tokens`.
        let from = from as usize;
        let ids = take(file, 4 * (tokens - from), "tokens")?;
        bytes.extend(&ids);
        if take(file, 32, "checksum")? != digest::sha256(&bytes).0 {
            return refuse("the checksum of its header does not match".into());
        }
        if numerics != NUMERICS_VERSION {
            return refuse(format!(
                "it has numerics version {numerics}, expected {NUMERICS_VERSION}"
            ));
        }
        let own = *self.model.fingerprint();
        for (what, got, expected) in [
            ("weights", weights, self.weights),
            ("configuration or options", fingerprint, own),
        ] {
            if got != expected {
                return refuse(format!(
                    "it is of a model with other {what}: {}, expected {}",
                    got.short(),
                    expected.short()
                ));
            }
        }
        let expected = prefixes.ids[from..tokens].iter();
        let same = expected
            .flat_map(|id| id.to_le_bytes())
            .eq(ids.iter().copied());
        if !same || prefix != prefixes.name(tokens) {
            return refuse("it is of another prompt".into());
        }
        Ok(Header { from, kv, snapshot })
    }

    /// What the attention layers keep.
    fn kv_configs(&self) -> impl Iterator<Item = KvCacheConfig> {
        let layers = self.model.config().layers.iter().enumerate();
        layers
            .filter(|(_, kind)| **kind == LayerKind::Attention)
            .map(|(index, _)| self.model.kv_cache_config(index))
    }

    fn kv_bytes(&self, tokens: usize) -> usize {
        let token_bytes = self.kv_configs().map(|config| 2 * config.token_bytes());
        tokens * token_bytes.sum::<usize>()
    }

    fn snapshot_bytes(&self) -> usize {
        match self.model.config().count(LayerKind::Mamba) {
            0 => 0,
            layers => {
                let dims = self.model.mamba_dims();
                4 * layers * (dims.conv_len() + dims.ssm_len())
            }
        }
    }
}

fn unreadable(error: std::io::Error) -> ModelError {
    ModelError::SavedState(format!("it cannot be read: {error}"))
}

/// The next `len` bytes.
fn take(file: &mut impl Read, len: usize, what: &str) -> Result<Vec<u8>, ModelError> {
    let mut bytes = Vec::with_capacity(len.min(TRUSTED_BYTES));
    file.take(len as u64)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() < len {
        return refuse(format!(
            "it is truncated: its {what} has {} of {len} bytes",
            bytes.len()
        ));
    }
    Ok(bytes)
}

/// The next `len` floats. The arithmetic stores no NaN but the canonical one, and another could give other bits on other
/// processors.
fn floats(bytes: &mut &[u8], len: usize) -> Result<Vec<f32>, ModelError> {
    let own = bytes
        .split_off(..4 * len)
        .expect("the snapshot has the model's size");
    let values: Vec<f32> = own
        .as_chunks()
        .0
        .iter()
        .map(|b| f32::from_le_bytes(*b))
        .collect();
    let is_foreign = |v: &f32| v.is_nan() && v.to_bits() != round::NAN_F32;
    match values.iter().find(|v| is_foreign(v)) {
        None => Ok(values),
        Some(v) => refuse(format!(
            "its snapshot has the NaN {:08x}, expected {:08x}",
            v.to_bits(),
            round::NAN_F32
        )),
    }
}
