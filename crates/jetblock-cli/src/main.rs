//! The `jetblock` command: generation whose bits do not depend on the schedule, and the proof of it.
#![forbid(unsafe_code)]

mod args;
mod bundled;
mod commands;
mod npy;
mod output;
mod saved;

use std::process::ExitCode;

use clap::Parser;

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

fn main() -> ExitCode {
    let cli = Cli::parse();
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
        Ok(Verdict::Passed) => ExitCode::SUCCESS,
        Ok(Verdict::Failed) => ExitCode::from(EXIT_FAILED),
        // Whoever read our output has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("{}", output::error_text(&error));
            ExitCode::from(EXIT_ERROR)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
}
