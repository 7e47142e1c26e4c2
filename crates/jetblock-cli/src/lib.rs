//! The `jetblock` command: generation whose bits do not depend on the schedule, and the proof of it.
//!
//! A library, so that the Python package has the same command without a second binary, and the same bundled model and
//! proof behind its functions.
#![forbid(unsafe_code)]

mod args;
mod bundled;
mod commands;
mod npy;
mod output;
mod program;
mod saved;

use std::ffi::OsString;

use clap::Parser;

pub use crate::bundled::Folder;
pub use crate::commands::generate::{DEFAULT_MAX_TOKENS, PREFIX_CACHE_BYTES};
pub use crate::commands::verify::{Proof, ProofRequest, ProofStage};
pub use crate::program::Program;

use crate::args::{Cli, Command};
use crate::output::Output;

/// How a command ended that could do its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// All is well.
    Passed,
    /// The work was done and the answer is no: bits differ.
    Failed,
}

const EXIT_FAILED: u8 = 1;
const EXIT_ERROR: u8 = 2;

/// Runs a command line, whose first word is the program's name, and returns its exit code. `program` is how a fresh
/// process of the same command is started.
pub fn run(program: Program, arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let mut cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(message) => {
            // Help goes to standard output, mistakes to standard error; a closed one is no reason to fail.
            let _ = message.print();
            return if message.use_stderr() { EXIT_ERROR } else { 0 };
        }
    };
    cli.global.program = program;
    let output = Output::new(&cli.global);
    let result = match cli.command {
        Command::Demo(args) => commands::demo::run(&args, &cli.global, &output),
        Command::Generate(args) => commands::generate::run(&args, &cli.global, &output),
        Command::Verify(args) => commands::verify::run(&args, &cli.global, &output),
        Command::Diff(args) => commands::diff::run(&args, &output),
        Command::Bench(args) => commands::bench::run(&args, &cli.global, &output),
        Command::Logits(args) => commands::logits::run(&args, &cli.global, &output),
        Command::Eval(args) => commands::eval::run(&args, &cli.global, &output),
        Command::Profile(args) => commands::profile::run(&args, &cli.global, &output),
        Command::Quantize(args) => commands::quantize::run(&args, &cli.global, &output),
        Command::Fetch(args) => commands::fetch::run(&args, &cli.global, &output),
        Command::Env => commands::env::run(&cli.global, &output),
    };
    match result {
        Ok(Verdict::Passed) => 0,
        Ok(Verdict::Failed) => EXIT_FAILED,
        // Whoever read our output has seen enough.
        Err(error) if is_broken_pipe(&error) => 0,
        Err(error) => {
            eprint!("{}", output::error_text(&error));
            EXIT_ERROR
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
}
