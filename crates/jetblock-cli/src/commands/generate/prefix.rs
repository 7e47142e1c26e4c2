//! Kept prompts: the folder that `--prefix-cache` names.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use jetblock_runtime::{Engine, FolderStats, PrefixFolder, Session};
use jetblock_tensor::Digest;

use crate::output::Output;

/// Where states of prompts are kept.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Kept prompts (they change the speed, and no bit)")]
pub(crate) struct PrefixArgs {
    /// Keep the states of prompts in this folder, and go on from the longest that is there; it tells the prompts to who can read it
    #[arg(long, value_name = "DIR")]
    pub(crate) prefix_cache: Option<PathBuf>,
    /// Most bytes of files in it, of all models together; the least recently used go first
    #[arg(
        long,
        value_name = "N",
        requires = "prefix_cache",
        default_value_t = 1 << 30
    )]
    pub(crate) prefix_cache_bytes: u64,
}

impl PrefixArgs {
    /// The folder at `path` for the model whose weights have this digest.
    pub(crate) fn open(
        &self,
        path: &Path,
        session: &Session,
        weights: Digest,
    ) -> anyhow::Result<PrefixFolder> {
        let model = session.model.clone();
        PrefixFolder::open(path, self.prefix_cache_bytes, model, weights)
            .with_context(|| format!("cannot open the folder of kept prompts {}", path.display()))
    }
}

/// Writes what is to be kept, after the answer; where a folder is.
pub(crate) fn write(engine: &mut Engine, output: &Output) -> Option<FolderStats> {
    let cache = engine.prefix_cache()?;
    cache.flush();
    let folder = cache.folder()?;
    for warning in folder.take_warnings() {
        output.remark(&format!("warning: {warning}"));
    }
    Some(folder.stats())
}
