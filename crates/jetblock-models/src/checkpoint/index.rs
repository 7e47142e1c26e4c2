//! `model.safetensors.index.json`: which tensor lies in which shard.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path};

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::CheckpointError;
use crate::config::abbreviated;

/// The name of the index in a model folder.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

/// The largest index that is parsed; a hundred bytes a tensor is typical.
pub const MAX_INDEX_BYTES: u64 = 100_000_000;

/// The shard of every tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardIndex {
    /// Tensor name to file name. File names are plain: they have no folder in them.
    pub weight_map: BTreeMap<String, String>,
}

impl ShardIndex {
    /// Reads the text of an index. Its `metadata` is not used: the total size in it is wrong in real checkpoints.
    pub fn parse(bytes: &[u8]) -> Result<ShardIndex, CheckpointError> {
        let malformed = |message| CheckpointError::Malformed {
            file: INDEX_FILE.into(),
            message,
        };
        if bytes.len() as u64 > MAX_INDEX_BYTES {
            return Err(malformed(format!(
                "{} bytes, expected at most {MAX_INDEX_BYTES}",
                bytes.len()
            )));
        }
        let raw: RawIndex =
            serde_json::from_slice(bytes).map_err(|e| malformed(format!("not valid: {e}")))?;
        let mut weight_map = BTreeMap::new();
        for (tensor, file) in raw.weight_map.0 {
            let wrong = |message| CheckpointError::MalformedTensor {
                file: INDEX_FILE.into(),
                tensor: tensor.clone(),
                message,
            };
            check_file_name(&file).map_err(wrong)?;
            if weight_map.insert(tensor.clone(), file).is_some() {
                return Err(wrong("listed twice".into()));
            }
        }
        if weight_map.is_empty() {
            return Err(malformed("weight_map is empty".into()));
        }
        Ok(ShardIndex { weight_map })
    }

    /// The shards, sorted, each once.
    pub fn files(&self) -> Vec<&str> {
        let mut files: Vec<&str> = self.weight_map.values().map(String::as_str).collect();
        files.sort_unstable();
        files.dedup();
        files
    }
}

/// A shard lies in the model folder itself: an index must not make the program read other files. Symbolic links in the
/// folder are followed, download caches consist of them.
fn check_file_name(file: &str) -> Result<(), String> {
    let mut parts = Path::new(file).components();
    let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == file);
    // Both separators on every system, so that a folder is accepted on all or on none.
    if plain && !file.contains(['/', '\\', ':', '\0']) && file.ends_with(".safetensors") {
        return Ok(());
    }
    Err(format!(
        "in file {:?}, expected the name of a .safetensors file in the model folder",
        abbreviated(file)
    ))
}

#[derive(Deserialize)]
struct RawIndex {
    weight_map: RawWeightMap,
    #[serde(default, rename = "metadata")]
    _metadata: Option<IgnoredAny>,
}

/// All entries in order, equal names included.
struct RawWeightMap(Vec<(String, String)>);

impl<'de> Deserialize<'de> for RawWeightMap {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(RawWeightMapVisitor)
    }
}

struct RawWeightMapVisitor;

impl<'de> Visitor<'de> for RawWeightMapVisitor {
    type Value = RawWeightMap;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object from tensor names to file names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawWeightMap, A::Error> {
        let mut entries = Vec::new();
        while let Some(tensor) = map.next_key::<String>()? {
            let named = |e| A::Error::custom(format!("tensor {}: {e}", abbreviated(&tensor)));
            let file = map.next_value().map_err(named)?;
            entries.push((tensor, file));
        }
        Ok(RawWeightMap(entries))
    }
}
