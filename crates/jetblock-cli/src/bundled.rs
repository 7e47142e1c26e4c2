//! The demo model inside the binary, unpacked to a folder for as long as it is used.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

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

/// A model folder: the user's, or the bundled one in a temporary place that goes when this is dropped.
pub(crate) enum Folder {
    Given(PathBuf),
    Unpacked(tempfile::TempDir),
}

impl Folder {
    /// The given folder, else the bundled model.
    pub(crate) fn or_bundled(given: Option<&Path>) -> anyhow::Result<Folder> {
        if let Some(path) = given {
            anyhow::ensure!(
                path.is_dir(),
                "{} is not a folder, expected a model folder in Hugging Face layout",
                path.display()
            );
            return Ok(Folder::Given(path.to_path_buf()));
        }
        let dir = tempfile::Builder::new()
            .prefix("jetblock-demo-")
            .tempdir()
            .context("cannot make a temporary folder")?;
        for (name, bytes) in FILES {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(Folder::Unpacked(dir))
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Folder::Given(path) => path,
            Folder::Unpacked(dir) => dir.path(),
        }
    }

    pub(crate) fn name(&self) -> String {
        match self {
            Folder::Given(path) => path.display().to_string(),
            Folder::Unpacked(_) => NAME.to_string(),
        }
    }
}
