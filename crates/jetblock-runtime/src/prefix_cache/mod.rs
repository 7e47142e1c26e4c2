//! Sequence states kept for prompts that begin alike: in memory, and in a folder behind it.
//!
//! A state after n tokens is a function of those tokens alone (NUMERICS.md), so a sequence that continues from a kept state
//! has the bits of one that was fed from the start: a hit cannot be told from a miss, at whatever token the state was taken.

mod folder;
mod memory;

pub use folder::{FolderStats, PrefixFolder};
pub use memory::{PrefixCache, PrefixStats};

/// How many tokens two lists begin with in common.
pub(crate) fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
