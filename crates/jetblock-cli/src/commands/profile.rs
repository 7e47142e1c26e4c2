//! `jetblock profile`: what the layer detector finds, without reading a weight.

use std::path::PathBuf;

use jetblock_models::detector;

use crate::Verdict;
use crate::args::Global;
use crate::bundled::Folder;
use crate::output::Output;

/// Arguments of `jetblock profile`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Model folder, a folder with config.json alone, or FILE.gguf [default: the bundled demo model]
    pub(crate) model: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, _: &Global, output: &Output) -> anyhow::Result<Verdict> {
    let folder = Folder::or_bundled(args.model.as_deref())?;
    let profile = detector::Profile::open(folder.path())?;
    if output.is_json() {
        output.print_json(&profile)?;
    } else {
        output.print(&format!("{}\n\n{profile}", folder.name()))?;
    }
    Ok(Verdict::Passed)
}
