//! Reading a cache: element by element, as bytes, and back.

use std::ops::Range;

use jetblock_numerics::round;
use jetblock_tensor::{Digest, digest};

use super::KvDtype;
use super::blocks::KEY_BLOCK;
use super::kv_cache::{Keys, KvCache, KvCacheConfig, Values};
use crate::{Columns, OpError};

impl KvCache {
    /// The key of one head at one position, widened; of a quantized cache without its scale.
    pub fn read_key(&self, head: usize, position: usize, out: &mut [f32]) {
        let (block, slot) = self.place(position);
        match self.keys() {
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
            Keys::Codes(blocks) => {
                let row = key_codes(blocks.head(block, head), slot);
                self.config().dtype.decode(&row, out);
            }
        }
    }

    /// The value of one head at one position, widened; of a quantized cache without its scale.
    pub fn read_value(&self, head: usize, position: usize, out: &mut [f32]) {
        let (block, slot) = self.place(position);
        let start = slot * self.config().padded_head_dim();
        match self.values() {
            Values::Bf16(blocks) => {
                let row = &blocks.head(block, head)[start..][..out.len()];
                out.iter_mut()
                    .zip(row)
                    .for_each(|(out, &code)| *out = round::bf16_widen(code));
            }
            Values::F32(blocks) => {
                out.copy_from_slice(&blocks.head(block, head)[start..][..out.len()]);
            }
            Values::Codes(blocks) => {
                let config = self.config();
                let row = value_codes(config, blocks.head(block, head), slot);
                config.dtype.decode(row, out);
            }
        }
    }

    /// The keys as little-endian bytes, `[len, KVH, head_dim]` in the cache dtype (NUMERICS.md section 12).
    pub fn key_bytes(&self) -> Vec<u8> {
        self.key_bytes_of(0..self.len())
    }

    /// [`key_bytes`](Self::key_bytes) of some tokens.
    ///
    /// # Panics
    /// If the cache does not hold them.
    pub fn key_bytes_of(&self, tokens: Range<usize>) -> Vec<u8> {
        self.export(tokens, |head, position, row, bytes| match self.keys() {
            Keys::Codes(blocks) => {
                let (block, slot) = self.place(position);
                bytes.extend(key_codes(blocks.head(block, head), slot));
            }
            _ => {
                self.read_key(head, position, row);
                float_bytes(self.config().dtype, row, bytes);
            }
        })
    }

    /// The values as little-endian bytes, `[len, KVH, head_dim]` in the cache dtype (NUMERICS.md section 12).
    pub fn value_bytes(&self) -> Vec<u8> {
        self.value_bytes_of(0..self.len())
    }

    /// [`value_bytes`](Self::value_bytes) of some tokens.
    ///
    /// # Panics
    /// If the cache does not hold them.
    pub fn value_bytes_of(&self, tokens: Range<usize>) -> Vec<u8> {
        self.export(tokens, |head, position, row, bytes| match self.values() {
            Values::Codes(blocks) => {
                let (block, slot) = self.place(position);
                bytes.extend(value_codes(self.config(), blocks.head(block, head), slot));
            }
            _ => {
                self.read_value(head, position, row);
                float_bytes(self.config().dtype, row, bytes);
            }
        })
    }

    /// The digests of keys and values (NUMERICS.md section 12).
    pub fn digests(&self) -> [Digest; 2] {
        let config = self.config();
        let shape = [self.len(), config.num_key_value_heads, config.head_dim];
        [self.key_bytes(), self.value_bytes()]
            .map(|bytes| digest::tensor_bytes(config.dtype.name(), &shape, &bytes))
    }

    /// A cache of `len` tokens from what [`key_bytes`](Self::key_bytes) and [`value_bytes`](Self::value_bytes) gave.
    ///
    /// Bytes that no cache of this config can hold (a bf16 key that is not an operand, a NaN that is not canonical, a
    /// block scale that is not positive) are an error: computing with them could give other bits on other processors.
    pub fn from_bytes(
        config: KvCacheConfig,
        len: usize,
        keys: &[u8],
        values: &[u8],
    ) -> Result<KvCache, OpError> {
        let mut cache = KvCache::new(config)?;
        let width = config.num_key_value_heads * config.head_dim;
        let token_bytes = config.token_bytes();
        for (arg, bytes) in [
            ("keys as bytes [len, KVH, head_dim]", keys),
            ("values as bytes [len, KVH, head_dim]", values),
        ] {
            OpError::check_len("kv_cache", arg, bytes.len(), len * token_bytes)?;
        }
        let refuse = |arg, at: Option<usize>| match at {
            None => Ok(()),
            Some(at) => Err(OpError::Value {
                op: "kv_cache",
                arg,
                expected: format!("values a {} cache can hold", config.dtype),
                got: format!("another bit pattern at byte {at}"),
            }),
        };
        if config.dtype.is_quantized() {
            refuse("keys", find_foreign(&config, keys))?;
            refuse("values", find_foreign(&config, values))?;
            cache.append_codes(keys, values);
            return Ok(cache);
        }
        for (keys, values) in keys.chunks(token_bytes).zip(values.chunks(token_bytes)) {
            let [k, v] = [keys, values].map(|bytes| floats(config.dtype, bytes));
            cache.append(Columns::whole(&k, width), Columns::whole(&v, width), 0..1)?;
        }
        let differ = |a: &[u8], b: &[u8]| a.iter().zip(b).position(|(a, b)| a != b);
        refuse("keys", differ(keys, &cache.key_bytes()))?;
        refuse("values", differ(values, &cache.value_bytes()))?;
        Ok(cache)
    }

    fn export(
        &self,
        tokens: Range<usize>,
        mut write: impl FnMut(usize, usize, &mut [f32], &mut Vec<u8>),
    ) -> Vec<u8> {
        let config = self.config();
        let mut bytes = Vec::with_capacity(tokens.len() * config.token_bytes());
        let mut row = vec![0.0_f32; config.head_dim];
        for position in tokens {
            for head in 0..config.num_key_value_heads {
                write(head, position, &mut row, &mut bytes);
            }
        }
        bytes
    }

    /// The block and slot of a position.
    fn place(&self, position: usize) -> (usize, usize) {
        let len = self.len();
        assert!(position < len, "position {position} of {len} tokens");
        (position / KEY_BLOCK, position % KEY_BLOCK)
    }
}

/// The row of codes of a key.
fn key_codes(panel: &[u8], slot: usize) -> Vec<u8> {
    let bytes = panel.as_chunks::<KEY_BLOCK>().0.iter();
    bytes.map(|keys| keys[slot]).collect()
}

/// The row of codes of a value.
fn value_codes<'a>(config: &KvCacheConfig, rows: &'a [u8], slot: usize) -> &'a [u8] {
    let len = config.dtype.row_bytes(config.head_dim);
    &rows[slot * len..][..len]
}

/// The first byte that no cache of codes holds.
fn find_foreign(config: &KvCacheConfig, bytes: &[u8]) -> Option<usize> {
    let row_bytes = config.dtype.row_bytes(config.head_dim);
    let mut rows = bytes.chunks(row_bytes).enumerate();
    rows.find_map(|(i, row)| {
        let at = config.dtype.find_foreign(row, config.head_dim)?;
        Some(i * row_bytes + at)
    })
}

/// f32 or bf16 elements as little-endian bytes.
fn float_bytes(dtype: KvDtype, row: &[f32], bytes: &mut Vec<u8>) {
    // The low half of a widened bf16 is zero.
    let skipped = if dtype == KvDtype::F32 { 0 } else { 2 };
    row.iter()
        .for_each(|x| bytes.extend_from_slice(&x.to_le_bytes()[skipped..]));
}

/// Little-endian f32 or bf16, widened.
fn floats(dtype: KvDtype, bytes: &[u8]) -> Vec<f32> {
    if dtype == KvDtype::F32 {
        let values = bytes.as_chunks().0.iter();
        return values.map(|&c| f32::from_le_bytes(c)).collect();
    }
    let codes = bytes.as_chunks().0.iter().map(|&c| u16::from_le_bytes(c));
    codes.map(round::bf16_widen).collect()
}
