//! Storage in blocks of 64 keys, shared between clones.

use std::ops::Range;
use std::sync::Arc;

/// Keys in a block.
pub(super) const KEY_BLOCK: usize = 64;

/// One stored array, in blocks of 64 keys.
#[derive(Clone, Debug)]
pub(super) struct Blocks<T> {
    blocks: Vec<Arc<[T]>>,
    /// Elements of one head's part of a block.
    head_len: usize,
}

impl<T: Copy + Default> Blocks<T> {
    pub(super) fn new(head_len: usize) -> Blocks<T> {
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

    /// Calls `write(position, head, its part of the block, slot)` for every head of the positions `tokens`, which
    /// follow those held.
    pub(super) fn fill(
        &mut self,
        tokens: &Range<usize>,
        heads: usize,
        mut write: impl FnMut(usize, usize, &mut [T], usize),
    ) {
        let head_len = self.head_len;
        let Range { start, end } = *tokens;
        for block in start / KEY_BLOCK..end.div_ceil(KEY_BLOCK) {
            let from = block * KEY_BLOCK;
            let stored = self.block_mut(block, heads);
            for position in start.max(from)..end.min(from + KEY_BLOCK) {
                for (head, part) in stored.chunks_exact_mut(head_len).enumerate() {
                    write(position, head, part, position - from);
                }
            }
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

    /// The address and bytes of each block.
    pub(super) fn visit(&self, visit: &mut dyn FnMut(usize, usize)) {
        for block in &self.blocks {
            visit(block.as_ptr().addr(), size_of_val::<[T]>(block));
        }
    }
}
