//! Where a task reads the keys and values of its head: blocks as they lie in the cache, or decoded as they are needed.

use std::ops::Range;

use jetblock_simd::Level;

use super::blocks::{Blocks, KEY_BLOCK};
use super::kv_cache::KvCacheConfig;

/// The blocks of one head, in a form that kernels read.
pub(super) trait Panels {
    /// An element.
    type Code;

    /// Announces the blocks read until the next call.
    fn enter(&mut self, blocks: Range<usize>);
    /// One of them.
    fn block(&self, block: usize) -> &[Self::Code];
    /// Block `block` where it lies in memory for reading soon; else nothing.
    fn fetch(&self, block: usize) -> &[Self::Code];
}

/// Blocks as they lie in the cache.
pub(super) struct Stored<'a, T> {
    blocks: &'a Blocks<T>,
    head: usize,
}

impl<T> Stored<'_, T> {
    pub(super) fn new(blocks: &Blocks<T>, head: usize) -> Stored<'_, T> {
        Stored { blocks, head }
    }
}

impl<T: Copy + Default> Panels for Stored<'_, T> {
    type Code = T;

    fn enter(&mut self, _: Range<usize>) {}

    fn block(&self, block: usize) -> &[T] {
        self.blocks.head(block, self.head)
    }

    fn fetch(&self, block: usize) -> &[T] {
        self.blocks.head_or_empty(block, self.head)
    }
}

/// Turns a stored block of a head into another form.
pub(super) type Decode<T, U> = fn(&KvCacheConfig, Level, &[T], &mut [U]);

/// Blocks decoded on entering, once for all rows of the task: at most 256 keys, which stay in a near cache.
pub(super) struct Decoded<'a, T, U> {
    stored: Stored<'a, T>,
    config: KvCacheConfig,
    level: Level,
    decode: Decode<T, U>,
    first: usize,
    /// Elements of a decoded block.
    len: usize,
    decoded: Vec<U>,
}

impl<'a, T, U> Decoded<'a, T, U> {
    /// `row_len` decoded elements of each key.
    pub(super) fn new(
        stored: Stored<'a, T>,
        row_len: usize,
        config: KvCacheConfig,
        level: Level,
        decode: Decode<T, U>,
    ) -> Decoded<'a, T, U> {
        Decoded {
            stored,
            config,
            level,
            decode,
            first: 0,
            len: row_len * KEY_BLOCK,
            decoded: Vec::new(),
        }
    }
}

impl<T: Copy + Default, U: Copy + Default> Panels for Decoded<'_, T, U> {
    type Code = U;

    fn enter(&mut self, blocks: Range<usize>) {
        self.first = blocks.start;
        self.decoded.resize(blocks.len() * self.len, U::default());
        for (block, decoded) in blocks.zip(self.decoded.chunks_exact_mut(self.len)) {
            (self.decode)(&self.config, self.level, self.stored.block(block), decoded);
        }
    }

    fn block(&self, block: usize) -> &[U] {
        &self.decoded[(block - self.first) * self.len..][..self.len]
    }

    fn fetch(&self, _: usize) -> &[U] {
        &[]
    }
}
