//! Prompt states in a folder: they outlive the process, and several processes share them.
//!
//! A file is one piece of a state ([`StateCodec`]): the keys and values of the tokens since a shorter kept prefix, and the
//! snapshot of the Mamba layers. So what prompts have in common is stored once. Its name is that of its prefix in its model,
//! `<32 hex digits>-<tokens>.jbstate`: the longest kept prefix of a prompt is found from the names in the folder, and what
//! another model, option or version left there is never opened. What is opened is checked again, to the last byte.
//!
//! Files appear whole, by renaming. Writers hold a lock on the file `.lock`, so that the bytes of all `.jbstate` files, of
//! whatever model, never exceed the budget: the least recently used go first (by the files' modification times, which a use
//! sets), of those last used together the longest prefix. A state that does not fit into the whole budget together with the
//! pieces it goes on from is not kept.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use jetblock_models::{Model, ModelError, Prefixes, SequenceState, StateCodec};
use jetblock_tensor::Digest;

const EXTENSION: &str = ".jbstate";

/// What a writer that was stopped leaves behind begins so.
const UNFINISHED: &str = ".jbstate-";

/// A folder of kept states, for one model.
#[derive(Debug)]
pub struct PrefixFolder {
    path: PathBuf,
    budget: u64,
    codec: StateCodec,
    /// Files that were refused: they count as absent, and are written anew.
    refused: HashSet<String>,
    warnings: Vec<String>,
    stats: FolderStats,
}

/// What a [`PrefixFolder`] has done in this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct FolderStats {
    /// Look-ups that found a state longer than the one in memory.
    pub hits: u64,
    /// Tokens of those states.
    pub tokens: u64,
    /// Bytes read for them.
    pub bytes_read: u64,
    /// Files written.
    pub written: u64,
    /// Bytes in them.
    pub bytes_written: u64,
    /// States that were too large for the budget.
    pub too_large: u64,
    /// Files that went to make room.
    pub evictions: u64,
    /// Files that were damaged or of something else.
    pub refused: u64,
}

/// A file of the folder.
struct Entry {
    name: String,
    tokens: usize,
    bytes: u64,
    used: SystemTime,
}

impl PrefixFolder {
    /// Opens the folder, which is made where it is missing. `weights` is the digest of the model's weights; the files hold at
    /// most `budget` bytes.
    pub fn open(
        path: &Path,
        budget: u64,
        model: Arc<Model>,
        weights: Digest,
    ) -> io::Result<PrefixFolder> {
        fs::create_dir_all(path)?;
        fs::read_dir(path)?;
        Ok(PrefixFolder {
            path: path.to_path_buf(),
            budget,
            codec: StateCodec::new(model, weights),
            refused: HashSet::new(),
            warnings: Vec::new(),
            stats: FolderStats::default(),
        })
    }

    /// The number of tokens of the longest kept prefix of `ids` that leaves at least one token to feed. Reads headers only.
    pub fn longest(&mut self, ids: &[u32]) -> usize {
        let prefixes = self.codec.prefixes(before_last(ids));
        self.find(&prefixes).last().copied().unwrap_or(0)
    }

    /// The state after [`PrefixFolder::longest`] tokens, if they are more than `more_than`.
    pub fn take(&mut self, ids: &[u32], more_than: usize) -> Option<SequenceState> {
        let prefixes = self.codec.prefixes(before_last(ids));
        loop {
            let cuts = self.find(&prefixes);
            let tokens = *cuts.last().filter(|tokens| **tokens > more_than)?;
            // Where a piece was refused, or has gone since, what is left may still do.
            if let Some(state) = self.load(&prefixes, &cuts) {
                self.stats.hits += 1;
                self.stats.tokens += tokens as u64;
                self.touch(&prefixes, &cuts);
                return Some(state);
            }
        }
    }

    /// Writes the state that was fed exactly `ids`, unless it is there. What goes wrong is a warning.
    pub fn keep(&mut self, ids: &[u32], state: &SequenceState) {
        if let Err(error) = self.write(ids, state) {
            let path = self.path.display();
            self.warnings
                .push(format!("cannot keep a prompt's state in {path}: {error}"));
        }
    }

    /// What it has done.
    pub fn stats(&self) -> FolderStats {
        self.stats
    }

    /// What went wrong since the last call: files that were refused, states that could not be written.
    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    fn write(
        &mut self,
        ids: &[u32],
        state: &SequenceState,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let _lock = self.lock()?;
        let prefixes = self.codec.prefixes(ids);
        let mut cuts = self.find(&prefixes);
        let from = cuts.last().copied().unwrap_or(0);
        if from == ids.len() {
            self.touch(&prefixes, &cuts);
            return Ok(());
        }
        if !self.make_room(&prefixes, &cuts, self.codec.piece_bytes(from, ids.len()))? {
            self.stats.too_large += 1;
            return Ok(());
        }
        let bytes = self.codec.write(state, &prefixes, from)?;
        // Private, as temporary files are: it tells the prompt. Not forced to the disk: what a power cut leaves of it is refused.
        let mut file = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempfile_in(&self.path)?;
        file.write_all(&bytes)?;
        let name = name(&prefixes, ids.len());
        file.persist(self.path.join(&name))?;
        self.refused.remove(&name);
        self.stats.written += 1;
        self.stats.bytes_written += bytes.len() as u64;
        cuts.push(ids.len());
        self.touch(&prefixes, &cuts);
        Ok(())
    }

    /// Held until it is dropped, or the process ends.
    fn lock(&self) -> io::Result<File> {
        let mut options = File::options();
        let file = options
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.path.join(".lock"))?;
        file.lock()?;
        Ok(file)
    }

    /// Removes files until `bytes` fit beside the rest; false if they cannot, with the pieces at `cuts` kept. Only under the
    /// lock.
    fn make_room(
        &mut self,
        prefixes: &Prefixes<'_>,
        cuts: &[usize],
        bytes: u64,
    ) -> io::Result<bool> {
        let needed: HashSet<String> = cuts.iter().map(|cut| name(prefixes, *cut)).collect();
        let (needed, mut others): (Vec<Entry>, Vec<Entry>) = self
            .entries()?
            .into_iter()
            .partition(|entry| needed.contains(&entry.name));
        let sum = |entries: &[Entry]| entries.iter().map(|entry| entry.bytes).sum::<u64>();
        let own = bytes + sum(&needed);
        if own > self.budget {
            return Ok(false);
        }
        let mut total = own + sum(&others);
        others.sort_by_key(|entry| (entry.used, Reverse(entry.tokens)));
        for entry in others {
            if total <= self.budget {
                break;
            }
            fs::remove_file(self.path.join(&entry.name))?;
            total -= entry.bytes;
            self.stats.evictions += 1;
        }
        Ok(true)
    }

    /// All kept files, of whatever model. Removes what stopped writers have left. Only under the lock.
    fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for item in fs::read_dir(&self.path)? {
            let item = item?;
            let Ok(name) = item.file_name().into_string() else {
                continue;
            };
            if name.starts_with(UNFINISHED) {
                fs::remove_file(item.path())?;
            } else if let Some(tokens) = tokens_of(&name) {
                let metadata = item.metadata()?;
                entries.push(Entry {
                    name,
                    tokens,
                    bytes: metadata.len(),
                    used: metadata.modified()?,
                });
            }
        }
        Ok(entries)
    }

    /// Where the pieces of the longest kept prefix end, in ascending order; empty where none is kept.
    fn find(&mut self, prefixes: &Prefixes<'_>) -> Vec<usize> {
        let Ok(listed) = fs::read_dir(&self.path) else {
            return Vec::new();
        };
        let names = listed.filter_map(|item| item.ok()?.file_name().into_string().ok());
        let mut lengths: Vec<usize> = names
            .filter_map(|listed| {
                let tokens = tokens_of(&listed)?;
                let is_own = (1..=prefixes.tokens()).contains(&tokens)
                    && listed == name(prefixes, tokens)
                    && !self.refused.contains(&listed);
                is_own.then_some(tokens)
            })
            .collect();
        lengths.sort_unstable();
        // Where each piece that leads back to the first token goes on from.
        let mut joints = BTreeMap::new();
        for tokens in lengths {
            match self.with_piece(prefixes, tokens, |codec, tokens, file| {
                let from = codec.read_from(prefixes, tokens, file)?;
                check_len(file, codec.piece_bytes(from, tokens))?;
                Ok(from)
            }) {
                Some(from) if from == 0 || joints.contains_key(&from) => {
                    joints.insert(tokens, from);
                }
                // Refused, or the piece before it has gone: without that it is of no use.
                _ => {}
            }
        }
        let longest = joints.last_key_value().map(|(tokens, _)| *tokens);
        let before = |tokens: &usize| joints.get(tokens).copied().filter(|from| *from > 0);
        let mut cuts: Vec<usize> = std::iter::successors(longest, before).collect();
        cuts.reverse();
        cuts
    }

    /// The state whose pieces end at `cuts`.
    fn load(&mut self, prefixes: &Prefixes<'_>, cuts: &[usize]) -> Option<SequenceState> {
        let mut pieces = Vec::new();
        for cut in cuts {
            let is_last = Some(cut) == cuts.last();
            let read = self.with_piece(prefixes, *cut, |codec, tokens, file| {
                let piece = codec.read(prefixes, tokens, file, is_last)?;
                Ok((piece, io::Seek::stream_position(file).unwrap_or(0)))
            });
            // After a refusal too, so that every damaged piece is found and written anew.
            if let Some((piece, bytes)) = read {
                self.stats.bytes_read += bytes;
                pieces.push(piece);
            }
        }
        if pieces.len() < cuts.len() {
            return None;
        }
        match self.codec.restore(&pieces) {
            Ok(state) => Some(state),
            Err(error) => {
                for cut in cuts {
                    self.refuse(name(prefixes, *cut), &error);
                }
                None
            }
        }
    }

    /// What `read` reads of the piece that ends at `tokens`; a file that it refuses is not opened again.
    fn with_piece<T>(
        &mut self,
        prefixes: &Prefixes<'_>,
        tokens: usize,
        read: impl FnOnce(&StateCodec, usize, &mut File) -> Result<T, ModelError>,
    ) -> Option<T> {
        let name = name(prefixes, tokens);
        let result = match File::open(self.path.join(&name)) {
            Ok(mut file) => read(&self.codec, tokens, &mut file),
            // Another process has made room.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.refused.insert(name);
                return None;
            }
            Err(error) => Err(ModelError::SavedState(format!("cannot open it: {error}"))),
        };
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.refuse(name, &error);
                None
            }
        }
    }

    fn refuse(&mut self, name: String, error: &ModelError) {
        let path = self.path.join(&name);
        self.warnings
            .push(format!("{} is not used: {error}", path.display()));
        self.stats.refused += 1;
        self.refused.insert(name);
    }

    /// Marks pieces as used now. That they cannot be marked (they have just gone, or belong to somebody else) makes no
    /// difference to what they hold.
    fn touch(&self, prefixes: &Prefixes<'_>, cuts: &[usize]) {
        let now = SystemTime::now();
        for cut in cuts {
            let path = self.path.join(name(prefixes, *cut));
            let _ = File::options()
                .append(true)
                .open(path)
                .and_then(|file| file.set_modified(now));
        }
    }
}

/// Refuses what was cut off or added to, before more of it is read.
fn check_len(file: &File, expected: u64) -> Result<(), ModelError> {
    match file.metadata() {
        Ok(metadata) if metadata.len() == expected => Ok(()),
        Ok(metadata) => Err(ModelError::SavedState(format!(
            "it has {} bytes, expected {expected}",
            metadata.len()
        ))),
        Err(error) => Err(ModelError::SavedState(format!(
            "it cannot be read: {error}"
        ))),
    }
}

/// All but the last token, which must be left to feed.
fn before_last(ids: &[u32]) -> &[u32] {
    ids.split_last().map_or(&[], |(_, before)| before)
}

/// The name of the piece that ends at `tokens`.
fn name(prefixes: &Prefixes<'_>, tokens: usize) -> String {
    let digest = prefixes.name(tokens).to_string();
    format!("{}-{tokens}{EXTENSION}", &digest[..32])
}

/// The tokens in a name, if it is that of a piece.
fn tokens_of(name: &str) -> Option<usize> {
    let (digest, tokens) = name.strip_suffix(EXTENSION)?.split_once('-')?;
    let is_hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    let tokens = (digest.len() == 32 && digest.bytes().all(is_hex)).then_some(tokens)?;
    tokens
        .parse()
        .ok()
        .filter(|n: &usize| n.to_string() == tokens)
}
