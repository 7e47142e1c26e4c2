//! The weights of a model: the safetensors files of a folder, or the tensors of a GGUF file, checked strictly and mapped.
//!
//! Opening reads headers only. A folder from anywhere may be opened: whatever is in it, the answer is an error or tensors
//! whose bytes lie inside their files.

mod blocks;
mod check;
mod dtype;
mod error;
mod header;
mod index;
mod map;
mod quantized;
mod view;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::path::Path;

pub use blocks::BlockType;
pub use dtype::StoredDType;
pub use error::CheckpointError;
pub use header::{Header, MAX_HEADER_BYTES, MAX_RANK, StoredTensor};
pub use index::{INDEX_FILE, MAX_INDEX_BYTES, ShardIndex};
pub use quantized::QuantizedView;
pub use view::{StoredView, TensorView, widen_into};

pub(crate) use check::{is_mtp, is_passed_over};
pub(crate) use map::MappedFile;

/// The element types that every op computes with, for messages.
const PLAIN_DTYPES: &str = "BF16, F16 or F32";

/// The name of an undivided weight file in a model folder.
pub const SINGLE_FILE: &str = "model.safetensors";

/// The weight files of a model folder.
pub struct Checkpoint {
    shards: Vec<Shard>,
    tensors: BTreeMap<String, Entry>,
}

/// A tensor of a checkpoint without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorInfo<'a> {
    /// The name in the file.
    pub name: &'a str,
    /// Element type.
    pub dtype: StoredDType,
    /// Extents, outermost first.
    pub shape: &'a [usize],
    /// Bytes in the file.
    pub bytes: u64,
    /// The file.
    pub file: &'a str,
}

impl TensorInfo<'_> {
    /// Number of elements; the header check has shown that it does not overflow.
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|n| *n as u64).product()
    }
}

struct Shard {
    file: String,
    map: MappedFile,
}

struct Entry {
    shard: usize,
    tensor: MappedTensor,
}

/// Where a tensor lies in its file.
pub(crate) struct MappedTensor {
    pub(crate) dtype: StoredDType,
    /// Outermost first.
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Range<usize>,
    /// Width of a head, where its rows stand permuted for neighbouring pairs: see [`StoredView::row`].
    pub(crate) pairs: Option<usize>,
}

impl Checkpoint {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    ///
    /// The files are mapped, not copied: while the checkpoint is open they must be neither written nor truncated. Replacing
    /// a file by renaming another over it is harmless.
    pub fn open(dir: impl AsRef<Path>) -> Result<Checkpoint, CheckpointError> {
        let dir = dir.as_ref();
        match (
            dir.join(SINGLE_FILE).exists(),
            dir.join(INDEX_FILE).exists(),
        ) {
            (true, true) => Err(CheckpointError::Ambiguous { dir: dir.into() }),
            (false, false) => Err(CheckpointError::NoWeights { dir: dir.into() }),
            (true, false) => {
                let mut checkpoint = Checkpoint {
                    shards: Vec::new(),
                    tensors: BTreeMap::new(),
                };
                checkpoint.add(dir, SINGLE_FILE)?;
                Ok(checkpoint)
            }
            (false, true) => Checkpoint::open_sharded(dir),
        }
    }

    /// The tensors of one file that has been checked already.
    pub(crate) fn of_mapped(
        file: String,
        map: MappedFile,
        tensors: Vec<(String, MappedTensor)>,
    ) -> Result<Checkpoint, CheckpointError> {
        let mut checkpoint = Checkpoint {
            shards: vec![Shard { file, map }],
            tensors: BTreeMap::new(),
        };
        for (name, tensor) in tensors {
            checkpoint.insert(name, 0, tensor)?;
        }
        Ok(checkpoint)
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Names of the weight files.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.shards.iter().map(|shard| shard.file.as_str())
    }

    /// Every tensor by ascending name, without its data.
    pub fn infos(&self) -> impl Iterator<Item = TensorInfo<'_>> {
        self.tensors
            .iter()
            .map(|(name, entry)| self.info_of(name, entry))
    }

    /// A tensor without its data, under any spelling of the prefix of its name.
    pub fn info(&self, name: &str) -> Option<TensorInfo<'_>> {
        self.find(name)
            .map(|(stored, entry)| self.info_of(stored, entry))
    }

    /// Whether there is such a tensor.
    pub fn contains(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// A tensor of a plain type whose rows stand in order. `name` is the stored name, or the canonical one (`backbone.`, `lm_head.`) where the file spells the prefix
    /// differently.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>, CheckpointError> {
        let (entry, stored) = self.find_stored(name)?;
        let dtype = stored.dtype.dtype().ok_or_else(|| CheckpointError::DType {
            file: self.shards[entry.shard].file.clone(),
            tensor: stored.name.into(),
            got: stored.dtype,
            expected: PLAIN_DTYPES.into(),
        })?;
        if stored.pairs.is_some() {
            return Err(CheckpointError::MalformedTensor {
                file: self.shards[entry.shard].file.clone(),
                tensor: stored.name.into(),
                message: "its rows stand in another order, expected to be read row by row".into(),
            });
        }
        Ok(TensorView {
            name: stored.name,
            dtype,
            shape: stored.shape,
            bytes: stored.bytes,
        })
    }

    /// A tensor of any type, as it is stored.
    pub fn stored(&self, name: &str) -> Result<StoredView<'_>, CheckpointError> {
        self.find_stored(name).map(|(_, view)| view)
    }

    fn find_stored(&self, name: &str) -> Result<(&Entry, StoredView<'_>), CheckpointError> {
        let missing = || CheckpointError::Missing {
            first: name.into(),
            count: 1,
        };
        let (stored, entry) = self.find(name).ok_or_else(missing)?;
        let tensor = &entry.tensor;
        let view = StoredView {
            name: stored,
            dtype: tensor.dtype,
            shape: &tensor.shape,
            bytes: &self.shards[entry.shard].map.bytes()[tensor.bytes.clone()],
            pairs: tensor.pairs,
        };
        Ok((entry, view))
    }

    /// A tensor of any element type, with its bytes.
    pub fn raw(&self, name: &str) -> Result<(TensorInfo<'_>, &[u8]), CheckpointError> {
        let (stored, entry) = self.find(name).ok_or_else(|| CheckpointError::Missing {
            first: name.into(),
            count: 1,
        })?;
        let bytes = &self.shards[entry.shard].map.bytes()[entry.tensor.bytes.clone()];
        Ok((self.info_of(stored, entry), bytes))
    }

    /// Gives the memory of bytes that were read back to the system: `bytes` of a tensor, or a part of them. They stay
    /// readable. Does nothing for other memory, or where the system cannot.
    pub fn release(&self, bytes: &[u8]) {
        self.shards.iter().any(|shard| shard.map.release(bytes));
    }

    fn open_sharded(dir: &Path) -> Result<Checkpoint, CheckpointError> {
        let path = dir.join(INDEX_FILE);
        let io = |source| CheckpointError::Io {
            path: path.clone(),
            source,
        };
        let mut text = Vec::new();
        File::open(&path)
            .map_err(io)?
            .take(MAX_INDEX_BYTES + 1)
            .read_to_end(&mut text)
            .map_err(io)?;
        let index = ShardIndex::parse(&text)?;
        let mut checkpoint = Checkpoint {
            shards: Vec::new(),
            tensors: BTreeMap::new(),
        };
        for file in index.files() {
            checkpoint.add(dir, file)?;
        }
        checkpoint.check_index(&index)?;
        Ok(checkpoint)
    }

    fn add(&mut self, dir: &Path, name: &str) -> Result<(), CheckpointError> {
        let path = dir.join(name);
        let io = |source| CheckpointError::Io {
            path: path.clone(),
            source,
        };
        let file = File::open(&path).map_err(io)?;
        // The mapping fixes the length: a file that grows or shrinks later cannot move a tensor out of it.
        let map = MappedFile::new(&file).map_err(io)?;
        let header = Header::read(name, &file, map.bytes().len() as u64)?;
        let shard = self.shards.len();
        self.shards.push(Shard {
            file: name.into(),
            map,
        });
        for StoredTensor {
            name: tensor,
            dtype,
            shape,
            bytes,
        } in header.tensors
        {
            // Cannot truncate: the range is inside the mapping.
            let bytes = bytes.start as usize..bytes.end as usize;
            let mapped = MappedTensor {
                dtype,
                shape,
                bytes,
                pairs: None,
            };
            self.insert(tensor, shard, mapped)?;
        }
        Ok(())
    }

    fn insert(
        &mut self,
        name: String,
        shard: usize,
        tensor: MappedTensor,
    ) -> Result<(), CheckpointError> {
        match self.tensors.insert(name.clone(), Entry { shard, tensor }) {
            None => Ok(()),
            Some(other) => Err(CheckpointError::MalformedTensor {
                file: self.shards[shard].file.clone(),
                tensor: name,
                message: format!("also in {}", self.shards[other.shard].file),
            }),
        }
    }

    /// The index and the headers of the shards must say the same.
    fn check_index(&self, index: &ShardIndex) -> Result<(), CheckpointError> {
        for (tensor, file) in &index.weight_map {
            let found = self
                .tensors
                .get(tensor)
                .map(|entry| &self.shards[entry.shard].file);
            if found != Some(file) {
                let message = match found {
                    Some(other) => format!("expected in {file}, found in {other}"),
                    None => format!("expected in {file}, not there"),
                };
                return Err(CheckpointError::MalformedTensor {
                    file: INDEX_FILE.into(),
                    tensor: tensor.clone(),
                    message,
                });
            }
        }
        match self
            .infos()
            .find(|info| !index.weight_map.contains_key(info.name))
        {
            None => Ok(()),
            Some(info) => Err(CheckpointError::MalformedTensor {
                file: info.file.into(),
                tensor: info.name.into(),
                message: format!("not in {INDEX_FILE}"),
            }),
        }
    }

    fn info_of<'a>(&'a self, name: &'a str, entry: &'a Entry) -> TensorInfo<'a> {
        let file = self.shards[entry.shard].file.as_str();
        TensorInfo {
            name,
            dtype: entry.tensor.dtype,
            shape: &entry.tensor.shape,
            bytes: entry.tensor.bytes.len() as u64,
            file,
        }
    }

    /// The inverse of `canonical_name`, by trying its spellings.
    fn find(&self, name: &str) -> Option<(&str, &Entry)> {
        let get = |name: &str| {
            self.tensors
                .get_key_value(name)
                .map(|(stored, entry)| (stored.as_str(), entry))
        };
        get(name)
            .or_else(|| get(&format!("language_model.{name}")))
            .or_else(|| {
                let rest = name.strip_prefix("backbone.")?;
                get(&format!("model.{rest}"))
                    .or_else(|| get(&format!("language_model.model.{rest}")))
            })
    }
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let files: Vec<&str> = self.files().collect();
        f.debug_struct("Checkpoint")
            .field("files", &files)
            .field("tensors", &self.len())
            .finish()
    }
}
