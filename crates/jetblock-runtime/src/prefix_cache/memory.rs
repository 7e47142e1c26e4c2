//! Kept states in memory.
//!
//! Bytes are counted exactly: keys and values that several kept states share count once. When they exceed the budget the
//! least recently used state goes, then the next; a state larger than the whole budget is not kept. With a folder behind it,
//! a state is written there when [`PrefixCache::flush`] is called, or when it goes before that.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound::{Included, Unbounded};

use jetblock_models::SequenceState;

use super::{PrefixFolder, common_prefix};

/// Kept states and the rule by which they go.
#[derive(Debug)]
pub struct PrefixCache {
    budget: usize,
    /// By the tokens a state was fed. The longest kept prefix of a prompt is found by walking down from the prompt.
    states: BTreeMap<Vec<u32>, Kept>,
    /// Blocks of keys and values by address: how many kept states hold them, and their bytes.
    shared: HashMap<usize, (usize, usize)>,
    clock: u64,
    stats: PrefixStats,
    folder: Option<PrefixFolder>,
}

#[derive(Debug)]
struct Kept {
    state: SequenceState,
    used: u64,
    /// Whether it was read from the folder, or written to it.
    is_in_folder: bool,
}

/// What a [`PrefixCache`] has done and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct PrefixStats {
    /// Look-ups that found a state.
    pub hits: u64,
    /// Look-ups that did not.
    pub misses: u64,
    /// Prompt tokens that did not have to be computed.
    pub tokens_reused: u64,
    /// States that went to make room, or were too large.
    pub evictions: u64,
    /// States held.
    pub states: usize,
    /// Bytes held: states and their tokens.
    pub bytes: usize,
    /// Most bytes held at any time.
    pub peak_bytes: usize,
}

impl PrefixCache {
    /// An empty cache that holds at most `budget` bytes.
    pub fn new(budget: usize) -> PrefixCache {
        PrefixCache {
            budget,
            states: BTreeMap::new(),
            shared: HashMap::new(),
            clock: 0,
            stats: PrefixStats::default(),
            folder: None,
        }
    }

    /// Looks for states in this folder too, and writes them to it.
    pub fn set_folder(&mut self, folder: PrefixFolder) {
        self.folder = Some(folder);
    }

    /// The folder behind it.
    pub fn folder(&mut self) -> Option<&mut PrefixFolder> {
        self.folder.as_mut()
    }

    /// Writes the states that the folder does not have.
    pub fn flush(&mut self) {
        let Some(folder) = &mut self.folder else {
            return;
        };
        // A prefix comes before what begins with it.
        for (tokens, kept) in &mut self.states {
            if !kept.is_in_folder {
                folder.keep(tokens, &kept.state);
                kept.is_in_folder = true;
            }
        }
    }

    /// The number of tokens of the longest prefix of `tokens` that memory holds and that leaves at least one token to feed.
    pub fn longest(&self, tokens: &[u32]) -> usize {
        self.find(tokens).map_or(0, <[u32]>::len)
    }

    /// A copy of the state after [`PrefixCache::longest`] tokens, or after more of them that the folder has.
    pub fn take(&mut self, tokens: &[u32]) -> Option<SequenceState> {
        let here = self.longest(tokens);
        let folder = self.folder.as_mut();
        if let Some(state) = folder.and_then(|folder| folder.take(tokens, here)) {
            self.stats.hits += 1;
            self.stats.tokens_reused += state.tokens() as u64;
            self.insert(&tokens[..state.tokens()], &state, true);
            return Some(state);
        }
        let Some(key) = self.find(tokens).map(<[u32]>::to_vec) else {
            self.stats.misses += 1;
            return None;
        };
        self.clock += 1;
        let kept = self.states.get_mut(&key)?;
        kept.used = self.clock;
        self.stats.hits += 1;
        self.stats.tokens_reused += key.len() as u64;
        Some(kept.state.clone())
    }

    /// Keeps a copy of the state that was fed exactly `tokens`.
    ///
    /// # Panics
    /// If the state was fed another number of tokens.
    pub fn keep(&mut self, tokens: &[u32], state: &SequenceState) {
        assert_eq!(
            tokens.len(),
            state.tokens(),
            "the tokens of a state are those it was fed"
        );
        if tokens.is_empty() || state.failed().is_some() {
            return;
        }
        self.clock += 1;
        if let Some(kept) = self.states.get_mut(tokens) {
            kept.used = self.clock;
            return;
        }
        self.insert(tokens, state, false);
    }

    fn insert(&mut self, tokens: &[u32], state: &SequenceState, is_in_folder: bool) {
        let state = state.clone();
        self.stats.bytes += size_of_val(tokens) + state.unshared_bytes();
        state.visit_shared(&mut |address, bytes| {
            let (holders, _) = self.shared.entry(address).or_insert((0, bytes));
            if *holders == 0 {
                self.stats.bytes += bytes;
            }
            *holders += 1;
        });
        self.clock += 1;
        let kept = Kept {
            state,
            used: self.clock,
            is_in_folder,
        };
        self.states.insert(tokens.to_vec(), kept);
        while self.stats.bytes > self.budget {
            self.evict();
        }
        self.stats.states = self.states.len();
        self.stats.peak_bytes = self.stats.peak_bytes.max(self.stats.bytes);
    }

    /// What it has done and holds.
    pub fn stats(&self) -> PrefixStats {
        self.stats
    }

    /// The kept states with their tokens, the least recently used first.
    pub fn states(&self) -> Vec<(&[u32], &SequenceState)> {
        let mut states: Vec<_> = self.states.iter().collect();
        states.sort_by_key(|(_, kept)| kept.used);
        states
            .into_iter()
            .map(|(tokens, kept)| (&tokens[..], &kept.state))
            .collect()
    }

    fn find(&self, tokens: &[u32]) -> Option<&[u32]> {
        let mut bound = &tokens[..tokens.len().checked_sub(1)?];
        loop {
            // In the order of the tokens, every prefix of `bound` comes before it, a longer one later.
            let (key, _) = self
                .states
                .range::<[u32], _>((Unbounded, Included(bound)))
                .next_back()?;
            let common = common_prefix(key, bound);
            if common == key.len() {
                return Some(key);
            }
            bound = &bound[..common];
        }
    }

    fn evict(&mut self) {
        let oldest = self
            .states
            .iter()
            .min_by_key(|(_, kept)| kept.used)
            .map(|(tokens, _)| tokens.clone())
            .expect("bytes are held by states");
        let kept = self.states.remove(&oldest).expect("it was just found");
        self.stats.bytes -= size_of_val(&oldest[..]) + kept.state.unshared_bytes();
        kept.state.visit_shared(&mut |address, bytes| {
            let (holders, _) = self.shared.get_mut(&address).expect("counted when kept");
            *holders -= 1;
            if *holders == 0 {
                self.shared.remove(&address);
                self.stats.bytes -= bytes;
            }
        });
        self.stats.evictions += 1;
        if let (Some(folder), false) = (&mut self.folder, kept.is_in_folder) {
            folder.keep(&oldest, &kept.state);
        }
    }
}
