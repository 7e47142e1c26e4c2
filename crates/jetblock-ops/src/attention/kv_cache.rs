//! Keys and values of one sequence in one attention layer.
//!
//! Keys lie so that vector lanes run over keys, values so that lanes run over the head dimension:
//!
//! ```text
//! block b (64 keys)   keys    [KVH][steps][64]   u32 pairs (bf16 kind, bf16 cache), else bf16 or f32, one element a step
//!                     values  [KVH][64][padded head_dim]
//! ```
//!
//! Blocks are allocated as tokens arrive and never move: growing copies nothing, and at most 63 tokens of space are
//! unused. A clone shares its blocks until one side appends to a block that is not full, so keeping the cache of a
//! common prefix costs next to nothing.

use std::ops::Range;
use std::sync::Arc;

use jetblock_numerics::round;
use jetblock_tensor::{DType, Digest, digest};

use crate::linear::OperandKind;
use crate::{Columns, OpError};

/// Keys in a block.
pub(super) const KEY_BLOCK: usize = 64;
/// Rows of values are padded to a multiple of the widest vector.
const VALUE_ALIGN: usize = 16;

/// What a cache stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvCacheConfig {
    /// Key/value heads.
    pub num_key_value_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// How keys enter the dot product with queries.
    pub kind: OperandKind,
    /// `F32` or `BF16`.
    pub dtype: DType,
}

impl KvCacheConfig {
    /// Elements of a key panel along the head: pairs where the stored form is pairs.
    fn steps(&self) -> usize {
        match (self.kind, self.dtype) {
            (OperandKind::Bf16, DType::BF16) => self.head_dim.div_ceil(2),
            _ => self.head_dim,
        }
    }

    /// Elements of a stored row of values.
    pub(super) fn padded_head_dim(&self) -> usize {
        self.head_dim.next_multiple_of(VALUE_ALIGN)
    }

    /// Elements of a token's keys (or values).
    fn width(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }
}

/// One stored array, in blocks of 64 keys.
#[derive(Clone, Debug)]
pub(super) struct Blocks<T> {
    blocks: Vec<Arc<[T]>>,
    /// Elements of one head's part of a block.
    head_len: usize,
}

impl<T: Copy + Default> Blocks<T> {
    fn new(head_len: usize) -> Blocks<T> {
        Blocks {
            blocks: Vec::new(),
            head_len,
        }
    }

    /// One head's part of block `block`.
    #[inline(always)]
    pub(super) fn head(&self, block: usize, head: usize) -> &[T] {
        &self.blocks[block][head * self.head_len..][..self.head_len]
    }

    /// [`Blocks::head`], or nothing behind the last block.
    #[inline(always)]
    pub(super) fn head_or_empty(&self, block: usize, head: usize) -> &[T] {
        match self.blocks.get(block) {
            Some(_) => self.head(block, head),
            None => &[],
        }
    }

    /// The block for writing; it is allocated if it is the next one and copied if a clone shares it.
    fn block_mut(&mut self, block: usize, heads: usize) -> &mut [T] {
        if block == self.blocks.len() {
            self.blocks
                .push(std::iter::repeat_n(T::default(), heads * self.head_len).collect());
        }
        Arc::make_mut(&mut self.blocks[block])
    }

    fn bytes(&self) -> usize {
        let mut bytes = 0;
        self.visit(&mut |_, block| bytes += block);
        bytes
    }

    fn visit(&self, visit: &mut dyn FnMut(usize, usize)) {
        for block in &self.blocks {
            visit(block.as_ptr().addr(), size_of_val::<[T]>(block));
        }
    }
}

#[derive(Clone, Debug)]
pub(super) enum Keys {
    /// Operands, element 2i in the low half and 2i + 1 in the high half.
    Pairs(Blocks<u32>),
    Bf16(Blocks<u16>),
    F32(Blocks<f32>),
}

#[derive(Clone, Debug)]
pub(super) enum Values {
    Bf16(Blocks<u16>),
    F32(Blocks<f32>),
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
    const NAME: &'static str = "kv_cache";

    /// An empty cache.
    pub fn new(config: KvCacheConfig) -> Result<KvCache, OpError> {
        let value = |arg, expected: &str, got: String| OpError::Value {
            op: Self::NAME,
            arg,
            expected: expected.to_string(),
            got,
        };
        if config.num_key_value_heads == 0 {
            return Err(value("num_key_value_heads", "at least 1", "0".to_string()));
        }
        if config.head_dim == 0 {
            return Err(value("head_dim", "at least 1", "0".to_string()));
        }
        let key_len = config.steps() * KEY_BLOCK;
        let value_len = KEY_BLOCK * config.padded_head_dim();
        let (keys, values) = match (config.kind, config.dtype) {
            (_, DType::F16) => return Err(value("dtype", "f32 or bf16", "f16".to_string())),
            (OperandKind::Bf16, DType::BF16) => (
                Keys::Pairs(Blocks::new(key_len)),
                Values::Bf16(Blocks::new(value_len)),
            ),
            (OperandKind::F32, DType::BF16) => (
                Keys::Bf16(Blocks::new(key_len)),
                Values::Bf16(Blocks::new(value_len)),
            ),
            (_, DType::F32) => (
                Keys::F32(Blocks::new(key_len)),
                Values::F32(Blocks::new(value_len)),
            ),
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
        let keys = match &self.keys {
            Keys::Pairs(b) => b.bytes(),
            Keys::Bf16(b) => b.bytes(),
            Keys::F32(b) => b.bytes(),
        };
        let values = match &self.values {
            Values::Bf16(b) => b.bytes(),
            Values::F32(b) => b.bytes(),
        };
        keys + values
    }

    /// The address and bytes of each block; clones share blocks until one side writes to them.
    pub fn visit_blocks(&self, visit: &mut dyn FnMut(usize, usize)) {
        match &self.keys {
            Keys::Pairs(b) => b.visit(visit),
            Keys::Bf16(b) => b.visit(visit),
            Keys::F32(b) => b.visit(visit),
        }
        match &self.values {
            Values::Bf16(b) => b.visit(visit),
            Values::F32(b) => b.visit(visit),
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
        let (config, len) = (self.config, self.len);
        let key = |t: usize| k.row(rows.start + t);
        let value = |t: usize| v.row(rows.start + t);
        let tokens = len..len + rows.len();
        match &mut self.keys {
            Keys::Pairs(blocks) => fill_keys(&config, blocks, &tokens, key, |head, step| {
                let odd = head
                    .get(2 * step + 1)
                    .map_or(0, |&x| round::bf16_operand(x));
                u32::from(odd) << 16 | u32::from(round::bf16_operand(head[2 * step]))
            }),
            Keys::Bf16(blocks) => fill_keys(&config, blocks, &tokens, key, |head, step| {
                round::f32_to_bf16(head[step])
            }),
            Keys::F32(blocks) => fill_keys(&config, blocks, &tokens, key, |head, step| {
                round::canonical(head[step])
            }),
        }
        match &mut self.values {
            Values::Bf16(blocks) => {
                fill_values(&config, blocks, &tokens, value, round::f32_to_bf16);
            }
            Values::F32(blocks) => {
                fill_values(&config, blocks, &tokens, value, round::canonical::<f32>);
            }
        }
        self.len = tokens.end;
        Ok(())
    }

    /// The key of one head at one position, widened.
    pub fn read_key(&self, head: usize, position: usize, out: &mut [f32]) {
        assert!(
            position < self.len,
            "position {position} of {} tokens",
            self.len
        );
        let (block, slot) = (position / KEY_BLOCK, position % KEY_BLOCK);
        match &self.keys {
            Keys::Pairs(blocks) => {
                let panel = blocks.head(block, head);
                for (d, out) in out.iter_mut().enumerate() {
                    let pair = panel[d / 2 * KEY_BLOCK + slot];
                    *out = round::bf16_widen((pair >> (16 * (d % 2))) as u16);
                }
            }
            Keys::Bf16(blocks) => {
                let panel = blocks.head(block, head);
                for (d, out) in out.iter_mut().enumerate() {
                    *out = round::bf16_widen(panel[d * KEY_BLOCK + slot]);
                }
            }
            Keys::F32(blocks) => {
                let panel = blocks.head(block, head);
                for (d, out) in out.iter_mut().enumerate() {
                    *out = panel[d * KEY_BLOCK + slot];
                }
            }
        }
    }

    /// The value of one head at one position, widened.
    pub fn read_value(&self, head: usize, position: usize, out: &mut [f32]) {
        assert!(
            position < self.len,
            "position {position} of {} tokens",
            self.len
        );
        let (block, slot) = (position / KEY_BLOCK, position % KEY_BLOCK);
        let start = slot * self.config.padded_head_dim();
        match &self.values {
            Values::Bf16(blocks) => {
                let row = &blocks.head(block, head)[start..][..out.len()];
                out.iter_mut()
                    .zip(row)
                    .for_each(|(out, &code)| *out = round::bf16_widen(code));
            }
            Values::F32(blocks) => {
                out.copy_from_slice(&blocks.head(block, head)[start..][..out.len()]);
            }
        }
    }

    /// The keys as little-endian bytes, `[len, KVH, head_dim]` in the cache dtype.
    pub fn key_bytes(&self) -> Vec<u8> {
        self.export(Self::read_key)
    }

    /// The values as little-endian bytes, `[len, KVH, head_dim]` in the cache dtype.
    pub fn value_bytes(&self) -> Vec<u8> {
        self.export(Self::read_value)
    }

    /// The digests of keys and values (NUMERICS.md section 12).
    pub fn digests(&self) -> [Digest; 2] {
        let config = &self.config;
        let shape = [self.len, config.num_key_value_heads, config.head_dim];
        [self.key_bytes(), self.value_bytes()]
            .map(|bytes| digest::tensor_bytes(config.dtype, &shape, &bytes))
    }

    /// A cache of `len` tokens from what [`key_bytes`](Self::key_bytes) and [`value_bytes`](Self::value_bytes) gave.
    ///
    /// Bytes that no cache of this config can hold (a bf16 key that is not an operand, a NaN that is not canonical)
    /// are an error: computing with them could give other bits on other processors.
    pub fn from_bytes(
        config: KvCacheConfig,
        len: usize,
        keys: &[u8],
        values: &[u8],
    ) -> Result<KvCache, OpError> {
        let mut cache = KvCache::new(config)?;
        let width = config.width();
        let row_bytes = width * config.dtype.size();
        let expected = len * row_bytes;
        OpError::check_len(
            Self::NAME,
            "keys as bytes [len, KVH, head_dim]",
            keys.len(),
            expected,
        )?;
        OpError::check_len(
            Self::NAME,
            "values as bytes [len, KVH, head_dim]",
            values.len(),
            expected,
        )?;
        for (keys, values) in keys.chunks(row_bytes).zip(values.chunks(row_bytes)) {
            let [k, v] = [keys, values].map(|bytes| decode(config.dtype, bytes));
            cache.append(Columns::whole(&k, width), Columns::whole(&v, width), 0..1)?;
        }
        for (arg, got, stored) in [
            ("keys", keys, cache.key_bytes()),
            ("values", values, cache.value_bytes()),
        ] {
            if let Some(at) = (0..got.len()).find(|&i| got[i] != stored[i]) {
                return Err(OpError::Value {
                    op: Self::NAME,
                    arg,
                    expected: format!("values a {} cache can hold", config.dtype),
                    got: format!("another bit pattern at byte {at}"),
                });
            }
        }
        Ok(cache)
    }

    fn export(&self, read: impl Fn(&Self, usize, usize, &mut [f32])) -> Vec<u8> {
        let config = &self.config;
        let mut bytes = Vec::with_capacity(self.len * config.width() * config.dtype.size());
        let mut row = vec![0.0_f32; config.head_dim];
        for position in 0..self.len {
            for head in 0..config.num_key_value_heads {
                read(self, head, position, &mut row);
                match config.dtype {
                    DType::F32 => row
                        .iter()
                        .for_each(|x| bytes.extend_from_slice(&x.to_le_bytes())),
                    // Widened bf16: the low half is zero.
                    _ => row
                        .iter()
                        .for_each(|x| bytes.extend_from_slice(&x.to_le_bytes()[2..])),
                }
            }
        }
        bytes
    }

    pub(super) fn keys(&self) -> &Keys {
        &self.keys
    }

    pub(super) fn values(&self) -> &Values {
        &self.values
    }
}

/// Little-endian f32 or bf16, widened.
fn decode(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        DType::F32 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|&c| f32::from_le_bytes(c))
            .collect(),
        _ => {
            let codes = bytes.as_chunks().0.iter().map(|&c| u16::from_le_bytes(c));
            codes.map(round::bf16_widen).collect()
        }
    }
}

/// Writes the keys of `tokens`; `encode(head, step)` gives the stored element of one head's row.
fn fill_keys<'a, T: Copy + Default>(
    config: &KvCacheConfig,
    blocks: &mut Blocks<T>,
    tokens: &Range<usize>,
    row: impl Fn(usize) -> &'a [f32],
    encode: impl Fn(&[f32], usize) -> T,
) {
    let heads = config.num_key_value_heads;
    for (block, run) in runs(tokens) {
        let panels = blocks.block_mut(block, heads);
        for position in run {
            let row = row(position - tokens.start);
            let panels = panels.chunks_exact_mut(config.steps() * KEY_BLOCK);
            for (panel, head) in panels.zip(row.chunks_exact(config.head_dim)) {
                for (step, keys) in panel.as_chunks_mut::<KEY_BLOCK>().0.iter_mut().enumerate() {
                    keys[position % KEY_BLOCK] = encode(head, step);
                }
            }
        }
    }
}

/// Writes the values of `tokens`.
fn fill_values<'a, T: Copy + Default>(
    config: &KvCacheConfig,
    blocks: &mut Blocks<T>,
    tokens: &Range<usize>,
    row: impl Fn(usize) -> &'a [f32],
    encode: impl Fn(f32) -> T,
) {
    let (heads, padded) = (config.num_key_value_heads, config.padded_head_dim());
    for (block, run) in runs(tokens) {
        let stored = blocks.block_mut(block, heads);
        for position in run {
            let row = row(position - tokens.start);
            let slot = position % KEY_BLOCK * padded;
            let stored = stored.chunks_exact_mut(KEY_BLOCK * padded);
            for (stored, head) in stored.zip(row.chunks_exact(config.head_dim)) {
                let stored = stored[slot..].iter_mut().zip(head);
                stored.for_each(|(stored, &x)| *stored = encode(x));
            }
        }
    }
}

/// The blocks that `tokens` fall into, each with its part of `tokens`.
fn runs(tokens: &Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> + use<> {
    let Range { start, end } = *tokens;
    let last = end.div_ceil(KEY_BLOCK);
    (start / KEY_BLOCK..last).map(move |block| {
        let from = block * KEY_BLOCK;
        (block, start.max(from)..end.min(from + KEY_BLOCK))
    })
}
