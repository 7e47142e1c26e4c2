//! The demo model inside the binary, unpacked once to the user's cache.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use jetblock_models::ModelDigests;
use jetblock_models::gguf::Gguf;
use jetblock_simd::Cpu;
use jetblock_tensor::digest;

use crate::output::{Output, Unit};
use crate::saved::write_whole;

const FILES: [(&str, &[u8]); 6] = [
    (
        "config.json",
        include_bytes!("../../../assets/demo-model/config.json"),
    ),
    (
        "model.safetensors",
        include_bytes!("../../../assets/demo-model/model.safetensors"),
    ),
    (
        "tokenizer.json",
        include_bytes!("../../../assets/demo-model/tokenizer.json"),
    ),
    (
        "tokenizer_config.json",
        include_bytes!("../../../assets/demo-model/tokenizer_config.json"),
    ),
    (
        "chat_template.jinja",
        include_bytes!("../../../assets/demo-model/chat_template.jinja"),
    ),
    (
        "generation_config.json",
        include_bytes!("../../../assets/demo-model/generation_config.json"),
    ),
];

/// The name that reports give the bundled model.
pub(crate) const NAME: &str = "bundled demo model";

/// The environment variable that names the user's cache; without it, it is `.cache` in the home folder.
pub(crate) const CACHE_VARIABLE: &str = "XDG_CACHE_HOME";

/// A model folder or GGUF file: the user's, or the bundled model in the user's cache.
#[derive(Clone, Debug)]
pub enum Folder {
    /// The user's.
    Given(PathBuf),
    /// Where the bundled model was unpacked.
    Bundled(PathBuf),
}

impl Folder {
    /// The given folder, else the bundled model.
    pub fn or_bundled(given: Option<&Path>) -> anyhow::Result<Folder> {
        if let Some(path) = given {
            anyhow::ensure!(
                path.is_dir() || path.is_file() && Gguf::is_named(path),
                "{} is not a folder or a GGUF file, expected a model folder in Hugging Face layout or FILE.gguf",
                path.display()
            );
            return Ok(Folder::Given(path.to_path_buf()));
        }
        let path = cache()?.join(digest_of_files());
        unpack(&path).with_context(|| {
            let path = path.display();
            format!(
                "cannot unpack the bundled model to {path}; {CACHE_VARIABLE} names another place"
            )
        })?;
        Ok(Folder::Bundled(path))
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        match self {
            Folder::Given(path) | Folder::Bundled(path) => path,
        }
    }

    /// What reports call it.
    pub fn name(&self) -> String {
        match self {
            Folder::Given(path) => path.display().to_string(),
            Folder::Bundled(_) => NAME.to_string(),
        }
    }

    /// The model's digests; reads all its weights, showing progress.
    pub(crate) fn digests(&self, cpu: &Cpu, output: &Output) -> anyhow::Result<ModelDigests> {
        let bar = output.progress("hashing", 0, Unit::Bytes);
        let digests = ModelDigests::compute(self.path(), cpu, &mut |progress| {
            bar.set_length(progress.total);
            bar.set_position(progress.done);
        })?;
        bar.finish_and_clear();
        Ok(digests)
    }
}

/// Where unpacked and fetched models lie.
pub(crate) fn cache() -> anyhow::Result<PathBuf> {
    let set = std::env::var_os(CACHE_VARIABLE).map(PathBuf::from);
    set.filter(|path| path.is_absolute())
        .or_else(|| Some(std::env::home_dir()?.join(".cache")))
        .map(|cache| cache.join("jetblock"))
        .with_context(|| format!("no home folder; {CACHE_VARIABLE} names a folder for models"))
}

/// A name that another version's model does not have.
fn digest_of_files() -> String {
    let all: Vec<u8> = FILES
        .iter()
        .flat_map(|(_, bytes)| digest::sha256(bytes).0)
        .collect();
    format!("demo-model-{}", digest::sha256(&all).short())
}

/// Writes the files that are missing or not as they should be. Each appears whole, so that several processes may unpack
/// at once and one that is stopped does no harm.
fn unpack(folder: &Path) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    for (name, bytes) in FILES {
        let path = folder.join(name);
        if fs::read(&path).ok().as_deref() != Some(bytes) {
            write_whole(&path, |out| out.write_all(bytes))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_and_missing_files_are_unpacked_again() {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().join(digest_of_files());
        unpack(&folder).unwrap();
        fs::write(folder.join("config.json"), b"{}").unwrap();
        fs::remove_file(folder.join("tokenizer.json")).unwrap();
        let untouched = || {
            let weights = fs::metadata(folder.join("model.safetensors")).unwrap();
            weights.modified().unwrap()
        };
        let before = untouched();
        unpack(&folder).unwrap();
        for (name, bytes) in FILES {
            assert!(fs::read(folder.join(name)).unwrap() == bytes, "{name}");
        }
        assert_eq!(untouched(), before);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), FILES.len());
    }
}
