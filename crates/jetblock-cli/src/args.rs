//! The command line: options of every command, and the parsing that several commands share.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use jetblock_models::{LoadProgress, Model, Options};
use jetblock_ops::attention::KvDtype;
use jetblock_ops::linear::OperandKind;
use jetblock_simd::{Cpu, Level};

use crate::bundled::Folder;
use crate::commands::{
    bench, demo, diff, eval, fetch, generate, logits, profile, quantize, verify,
};
use crate::output::{Output, Unit};
use crate::program::Program;

/// Runs language models (Nemotron-H, Nemotron 3, Llama and its relatives) so that the same request gives
/// the same bits, whatever else the machine is doing, and proves it.
#[derive(Debug, Parser)]
#[command(
    name = "jetblock",
    version,
    propagate_version = true,
    after_help = "Start with `jetblock demo`; it needs no model.\n\
        Exit codes: 0 success, 1 a verification failed, 2 wrong usage or input."
)]
pub(crate) struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// See it work: the bundled model writes, and its bits are checked under many schedules
    Demo(demo::Args),
    /// Continue a prompt or answer a chat
    Generate(Box<generate::Args>),
    /// Check that a model's bits do not depend on batch, prompt split, threads or instruction set, or that a receipt is true
    Verify(verify::Args),
    /// Compare two receipts: the first difference, and which recorded fact explains it
    Diff(diff::Args),
    /// Measure speed
    Bench(bench::Args),
    /// Write the logits of given tokens to a .npy file
    Logits(logits::Args),
    /// Measure what each dtype of the key/value cache costs on a text: perplexity, divergence from f32
    Eval(eval::Args),
    /// Describe a model folder: layers, parameters, memory
    Profile(profile::Args),
    /// Convert a model folder to NVFP4 or FP8 weights
    Quantize(quantize::Args),
    /// Get a public model, with pip
    Fetch(fetch::Args),
    /// Show the processor's instruction-set levels and the environment variables that are read
    Env,
}

/// Options of every command. None of them changes a bit of any result.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Global {
    /// Threads to compute with [default: all cores]
    #[arg(
        long,
        global = true,
        value_name = "N",
        env = "JETBLOCK_THREADS",
        hide_env_values = true,
        help_heading = "Global options"
    )]
    pub(crate) threads: Option<usize>,
    /// Instruction-set level: scalar, neon, avx2, avx512 or avx512bf16 [default: the best there is]
    #[arg(
        long,
        global = true,
        value_name = "LEVEL",
        env = "JETBLOCK_ISA",
        hide_env_values = true,
        help_heading = "Global options"
    )]
    pub(crate) isa: Option<Level>,
    /// Print results as JSON
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
    /// No progress and no remarks, only results
    #[arg(long, short, global = true, help_heading = "Global options")]
    pub(crate) quiet: bool,
    /// How a fresh process of this command is started.
    #[arg(skip)]
    pub(crate) program: Program,
}

impl Global {
    /// The CPU to compute on.
    pub(crate) fn cpu(&self) -> anyhow::Result<Cpu> {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Cpu::new(
            self.threads.unwrap_or_else(cores),
            self.isa.unwrap_or_else(Level::best),
        )?)
    }
}

/// The heading of options that are part of a request's key.
const REQUEST: &str = "Part of the request (each choice has bits of its own)";

/// A model and the choices that are part of a request's key.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ModelArgs {
    /// Model folder (config.json, *.safetensors, tokenizer.json) or FILE.gguf [default: the bundled demo model]
    pub(crate) model: Option<PathBuf>,
    /// Operands of matrix products [default: by the model's dtypes]
    #[arg(long, value_name = "KIND", help_heading = REQUEST)]
    pub(crate) operands: Option<Operands>,
    /// Dtype of the key/value cache; nvfp4 needs a head_dim in sixteens [default: as the operands, whatever the checkpoint names]
    #[arg(long, value_name = "DTYPE", help_heading = REQUEST)]
    pub(crate) kv: Option<Kv>,
    /// Keys in an attention block: 64, 128 or 256 [default: 256]
    #[arg(long, value_name = "KEYS", help_heading = REQUEST)]
    pub(crate) split: Option<usize>,
    /// Order equal router scores by a hash instead of by the lower expert
    #[arg(long, help_heading = REQUEST)]
    pub(crate) hash_ties: bool,
}

/// Operand kinds by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Operands {
    F32,
    Bf16,
}

/// Cache dtypes by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kv {
    F32,
    Bf16,
    Fp8,
    Nvfp4,
}

impl From<Kv> for KvDtype {
    fn from(kv: Kv) -> KvDtype {
        match kv {
            Kv::F32 => KvDtype::F32,
            Kv::Bf16 => KvDtype::Bf16,
            Kv::Fp8 => KvDtype::Fp8,
            Kv::Nvfp4 => KvDtype::Nvfp4,
        }
    }
}

impl ModelArgs {
    /// The model folder; the bundled model is unpacked where none was named.
    pub(crate) fn folder(&self) -> anyhow::Result<Folder> {
        Folder::or_bundled(self.model.as_deref())
    }

    /// Loading options.
    pub(crate) fn options(&self) -> Options {
        self.options_over(Options::default())
    }

    /// Loading options where others hold unless the command line says otherwise.
    fn options_over(&self, others: Options) -> Options {
        let operands = self.operands.map(|operands| match operands {
            Operands::F32 => OperandKind::F32,
            Operands::Bf16 => OperandKind::Bf16,
        });
        Options {
            operands: operands.or(others.operands),
            kv_dtype: self.kv.map(KvDtype::from).or(others.kv_dtype),
            split: self.split.unwrap_or(others.split),
            hash_ties: self.hash_ties || others.hash_ties,
        }
    }

    /// Loads the weights of an unpacked folder, showing progress.
    pub(crate) fn load(&self, folder: &Folder, output: &Output) -> anyhow::Result<Model> {
        self.load_with(folder, output, Model::load)
    }

    /// Opens an unpacked folder, showing the progress of its weights.
    pub(crate) fn load_with<T, E>(
        &self,
        folder: &Folder,
        output: &Output,
        open: impl FnOnce(&Path, Options, &mut dyn FnMut(LoadProgress)) -> Result<T, E>,
    ) -> anyhow::Result<T>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        self.load_over(Options::default(), folder, output, open)
    }

    /// [`ModelArgs::load_with`], with options that hold unless the command line says otherwise.
    pub(crate) fn load_over<T, E>(
        &self,
        others: Options,
        folder: &Folder,
        output: &Output,
        open: impl FnOnce(&Path, Options, &mut dyn FnMut(LoadProgress)) -> Result<T, E>,
    ) -> anyhow::Result<T>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let bar = output.progress("loading", 0, Unit::Bytes);
        let options = self.options_over(others);
        let opened = open(folder.path(), options, &mut |progress| {
            bar.set_length(progress.total);
            bar.set_position(progress.done);
        })
        .with_context(|| format!("cannot load {}", folder.name()))?;
        bar.finish_and_clear();
        Ok(opened)
    }
}

/// A comma-separated list of numbers, such as token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct List<T>(pub(crate) Vec<T>);

impl<T: FromStr> FromStr for List<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<List<T>, String> {
        let number = |part: &str| {
            part.trim()
                .parse()
                .map_err(|_| format!("{part:?} is not a number of the list"))
        };
        text.split(',')
            .map(number)
            .collect::<Result<_, _>>()
            .map(List)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn lists_are_numbers_with_commas() {
        assert_eq!("1, 2,3".parse::<List<u32>>().unwrap().0, [1, 2, 3]);
        for bad in ["", "1,", "1,x", "-1", "4294967296", "1 2"] {
            assert!(bad.parse::<List<u32>>().is_err(), "{bad}");
        }
    }

    #[test]
    fn global_options_may_follow_the_command() {
        let cli =
            Cli::try_parse_from(["jetblock", "env", "--threads", "3", "--isa", "scalar", "-q"])
                .unwrap();
        assert_eq!(
            (cli.global.threads, cli.global.isa, cli.global.quiet),
            (Some(3), Some(Level::Scalar), true)
        );
        assert!(Cli::try_parse_from(["jetblock", "env", "--isa", "mmx"]).is_err());
        assert!(
            Global {
                threads: Some(0),
                ..Global::default()
            }
            .cpu()
            .is_err()
        );
    }
}
