//! Keys and values of one sequence in one attention layer.
//!
//! Keys lie so that vector lanes run over keys, values so that lanes run over the head dimension:
//!
//! ```text
//! block b (64 keys)   keys    [KVH][steps][64]   u32 pairs (bf16 kind, bf16 cache), else bf16 or f32, one element a step
//!                     values  [KVH][64][padded head_dim]
//! fp8 and nvfp4       keys    [KVH][row bytes][64]
//!                     values  [KVH][64][row bytes]
//! ```
//!
//! The bytes of a quantized row are those of its digest: fp8 the `head_dim` codes; nvfp4 two codes a byte, then the
//! scales of the blocks.
//!
//! Blocks are allocated as tokens arrive and never move: growing copies nothing, and at most 63 tokens of space are
//! unused. A clone shares its blocks until one side appends to a block that is not full, so keeping the cache of a
//! common prefix costs next to nothing.

use std::ops::Range;

use jetblock_numerics::round;

use super::KvDtype;
use super::blocks::{Blocks, KEY_BLOCK};
use crate::linear::OperandKind;
use crate::{Columns, OpError};

/// Rows of values are padded to a multiple of the widest vector.
const VALUE_ALIGN: usize = 16;

/// What a cache stores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KvCacheConfig {
    /// Key/value heads.
    pub num_key_value_heads: usize,
    /// Elements of a head; a multiple of 16 in an nvfp4 cache.
    pub head_dim: usize,
    /// How keys enter the dot product with queries.
    pub kind: OperandKind,
    /// The stored format.
    pub dtype: KvDtype,
    /// What keys are divided by before they are quantized: positive, and 1 in f32 and bf16 caches.
    pub k_scale: f32,
    /// The same of values.
    pub v_scale: f32,
}

impl KvCacheConfig {
    const NAME: &'static str = "kv_cache";

    /// Whether there can be such a cache.
    pub fn check(&self) -> Result<(), OpError> {
        let value = |arg, expected: String, got: String| {
            Err(OpError::Value {
                op: Self::NAME,
                arg,
                expected,
                got,
            })
        };
        if self.num_key_value_heads == 0 {
            return value("num_key_value_heads", "at least 1".into(), "0".into());
        }
        let multiple = self.dtype.head_dim_multiple();
        if self.head_dim == 0 {
            return value("head_dim", "at least 1".into(), "0".into());
        }
        if !self.head_dim.is_multiple_of(multiple) {
            let expected = format!(
                "a multiple of {multiple} in a cache of dtype {}",
                self.dtype
            );
            return value("head_dim", expected, self.head_dim.to_string());
        }
        for (arg, scale) in [("k_scale", self.k_scale), ("v_scale", self.v_scale)] {
            if !(scale.is_normal() && scale > 0.0) {
                return value(arg, "a positive normal number".into(), scale.to_string());
            }
            if !self.dtype.is_quantized() && scale != 1.0 {
                let expected = format!("1 in a cache of dtype {}", self.dtype);
                return value(arg, expected, scale.to_string());
            }
        }
        Ok(())
    }

    /// Bytes of a token's keys (or values) as [`KvCache::key_bytes`] gives them.
    pub fn token_bytes(&self) -> usize {
        self.num_key_value_heads * self.dtype.row_bytes(self.head_dim)
    }

    /// Elements of a key panel along the head: pairs where the stored form is pairs.
    fn steps(&self) -> usize {
        match (self.kind, self.dtype) {
            (OperandKind::Bf16, KvDtype::Bf16) => self.head_dim.div_ceil(2),
            _ => self.head_dim,
        }
    }

    /// Elements of a row of values that attention reads.
    pub(super) fn padded_head_dim(&self) -> usize {
        self.head_dim.next_multiple_of(VALUE_ALIGN)
    }

    /// Elements of a token's keys (or values).
    fn width(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }
}

#[derive(Clone, Debug)]
pub(super) enum Keys {
    /// Operands, element 2i in the low half and 2i + 1 in the high half.
    Pairs(Blocks<u32>),
    Bf16(Blocks<u16>),
    F32(Blocks<f32>),
    /// Rows of codes, byte by byte.
    Codes(Blocks<u8>),
}

#[derive(Clone, Debug)]
pub(super) enum Values {
    Bf16(Blocks<u16>),
    F32(Blocks<f32>),
    /// Rows of codes.
    Codes(Blocks<u8>),
}

/// Keys and values of one sequence in one attention layer (NUMERICS.md section 8 says what is stored).
///
/// A clone is exact and independent.
#[derive(Clone, Debug)]
pub struct KvCache {
    config: KvCacheConfig,
    len: usize,
    keys: Keys,
    values: Values,
}

impl KvCache {
    const NAME: &'static str = KvCacheConfig::NAME;

    /// An empty cache.
    pub fn new(config: KvCacheConfig) -> Result<KvCache, OpError> {
        config.check()?;
        let key_len = config.steps() * KEY_BLOCK;
        let value_len = KEY_BLOCK * config.padded_head_dim();
        let (keys, values) = match (config.kind, config.dtype) {
            (OperandKind::Bf16, KvDtype::Bf16) => (
                Keys::Pairs(Blocks::new(key_len)),
                Values::Bf16(Blocks::new(value_len)),
            ),
            (OperandKind::F32, KvDtype::Bf16) => (
                Keys::Bf16(Blocks::new(key_len)),
                Values::Bf16(Blocks::new(value_len)),
            ),
            (_, KvDtype::F32) => (
                Keys::F32(Blocks::new(key_len)),
                Values::F32(Blocks::new(value_len)),
            ),
            (_, KvDtype::Fp8 | KvDtype::Nvfp4) => {
                let len = KEY_BLOCK * config.dtype.row_bytes(config.head_dim);
                (
                    Keys::Codes(Blocks::new(len)),
                    Values::Codes(Blocks::new(len)),
                )
            }
        };
        Ok(KvCache {
            config,
            len: 0,
            keys,
            values,
        })
    }

    /// What the cache stores.
    pub fn config(&self) -> &KvCacheConfig {
        &self.config
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the blocks, including the unused end of the last one and blocks shared with clones.
    pub fn bytes(&self) -> usize {
        let mut bytes = 0;
        self.visit_blocks(&mut |_, block| bytes += block);
        bytes
    }

    /// The address and bytes of each block; clones share blocks until one side writes to them.
    pub fn visit_blocks(&self, visit: &mut dyn FnMut(usize, usize)) {
        match &self.keys {
            Keys::Pairs(b) => b.visit(visit),
            Keys::Bf16(b) => b.visit(visit),
            Keys::F32(b) => b.visit(visit),
            Keys::Codes(b) => b.visit(visit),
        }
        match &self.values {
            Values::Bf16(b) => b.visit(visit),
            Values::F32(b) => b.visit(visit),
            Values::Codes(b) => b.visit(visit),
        }
    }

    /// Appends rows `rows` of `k` and `v`, both `[R, KVH * head_dim]`.
    pub fn append(&mut self, k: Columns, v: Columns, rows: Range<usize>) -> Result<(), OpError> {
        let width = self.config.width();
        let height = |x: &Columns| x.data.len() / x.row_len.max(1);
        k.check(Self::NAME, "k [R, KVH * head_dim]", height(&k), width)?;
        v.check(Self::NAME, "v [R, KVH * head_dim]", height(&v), width)?;
        let height = height(&k).min(height(&v));
        if rows.start > rows.end || rows.end > height {
            return Err(OpError::Value {
                op: Self::NAME,
                arg: "rows",
                expected: format!("a range inside 0..{height}"),
                got: format!("{rows:?}"),
            });
        }
        let (config, first) = (self.config, self.len);
        let tokens = first..first + rows.len();
        let (heads, head_dim) = (config.num_key_value_heads, config.head_dim);
        let start = |position: usize| rows.start + position - first;
        let key = |position, head| &k.row(start(position))[head * head_dim..][..head_dim];
        let value = |position, head| &v.row(start(position))[head * head_dim..][..head_dim];
        match &mut self.keys {
            Keys::Pairs(blocks) => blocks.fill(&tokens, heads, |position, head, panel, slot| {
                store_key(panel, slot, key(position, head).chunks(2).map(operand_pair));
            }),
            Keys::Bf16(blocks) => blocks.fill(&tokens, heads, |position, head, panel, slot| {
                let key = key(position, head).iter();
                store_key(panel, slot, key.map(|&x| round::f32_to_bf16(x)));
            }),
            Keys::F32(blocks) => blocks.fill(&tokens, heads, |position, head, panel, slot| {
                let key = key(position, head).iter();
                store_key(panel, slot, key.map(|&x| round::canonical(x)));
            }),
            Keys::Codes(blocks) => {
                let mut quantize = Quantize::new(&config, config.k_scale);
                blocks.fill(&tokens, heads, |position, head, panel, slot| {
                    let row = quantize.row(key(position, head));
                    store_key(panel, slot, row.iter().copied());
                });
            }
        }
        let padded = config.padded_head_dim();
        match &mut self.values {
            Values::Bf16(blocks) => blocks.fill(&tokens, heads, |position, head, rows, slot| {
                let value = value(position, head).iter();
                store_value(rows, slot * padded, value.map(|&x| round::f32_to_bf16(x)));
            }),
            Values::F32(blocks) => blocks.fill(&tokens, heads, |position, head, rows, slot| {
                let value = value(position, head).iter();
                store_value(rows, slot * padded, value.map(|&x| round::canonical(x)));
            }),
            Values::Codes(blocks) => {
                let mut quantize = Quantize::new(&config, config.v_scale);
                blocks.fill(&tokens, heads, |position, head, rows, slot| {
                    let row = quantize.row(value(position, head));
                    store_value(rows, slot * row.len(), row.iter().copied());
                });
            }
        }
        self.len = tokens.end;
        Ok(())
    }

    /// Appends tokens as exported, `[R, KVH, row bytes]` of codes; the cache is a quantized one.
    pub(super) fn append_codes(&mut self, k: &[u8], v: &[u8]) {
        let (config, first) = (self.config, self.len);
        let (heads, row_bytes) = (
            config.num_key_value_heads,
            config.dtype.row_bytes(config.head_dim),
        );
        let tokens = first..first + k.len() / config.token_bytes();
        let row = |position: usize, head: usize| ((position - first) * heads + head) * row_bytes;
        let (Keys::Codes(keys), Values::Codes(values)) = (&mut self.keys, &mut self.values) else {
            unreachable!("a quantized cache holds codes");
        };
        keys.fill(&tokens, heads, |position, head, panel, slot| {
            let row = &k[row(position, head)..][..row_bytes];
            store_key(panel, slot, row.iter().copied());
        });
        values.fill(&tokens, heads, |position, head, rows, slot| {
            let row = &v[row(position, head)..][..row_bytes];
            store_value(rows, slot * row_bytes, row.iter().copied());
        });
        self.len = tokens.end;
    }

    pub(super) fn keys(&self) -> &Keys {
        &self.keys
    }

    pub(super) fn values(&self) -> &Values {
        &self.values
    }
}

/// Rows of codes of what it is given.
struct Quantize {
    dtype: KvDtype,
    scale: f32,
    scaled: Vec<f32>,
    codes: Vec<u8>,
}

impl Quantize {
    fn new(config: &KvCacheConfig, scale: f32) -> Quantize {
        Quantize {
            dtype: config.dtype,
            scale,
            scaled: vec![0.0; config.head_dim],
            codes: vec![0; config.dtype.row_bytes(config.head_dim)],
        }
    }

    fn row(&mut self, x: &[f32]) -> &[u8] {
        for (scaled, x) in self.scaled.iter_mut().zip(x) {
            *scaled = x / self.scale;
        }
        self.dtype.encode(&self.scaled, &mut self.codes);
        &self.codes
    }
}

/// Two elements of a key, or its last one, as operands of the bf16 kind.
fn operand_pair(x: &[f32]) -> u32 {
    let odd = x.get(1).map_or(0, |&x| round::bf16_operand(x));
    u32::from(odd) << 16 | u32::from(round::bf16_operand(x[0]))
}

/// Writes a key into its slot of a panel.
fn store_key<T>(panel: &mut [T], slot: usize, key: impl Iterator<Item = T>) {
    for (stored, x) in panel.as_chunks_mut::<KEY_BLOCK>().0.iter_mut().zip(key) {
        stored[slot] = x;
    }
}

/// Writes a value from element `at` of its block on.
fn store_value<T>(rows: &mut [T], at: usize, value: impl Iterator<Item = T>) {
    for (stored, x) in rows[at..].iter_mut().zip(value) {
        *stored = x;
    }
}
