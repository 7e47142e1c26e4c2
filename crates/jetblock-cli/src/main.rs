//! The `jetblock` binary.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let program = jetblock_cli::Program::default();
    ExitCode::from(jetblock_cli::run(program, std::env::args_os()))
}
