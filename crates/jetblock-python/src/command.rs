//! The `jetblock` command inside Python.

use std::ffi::OsString;

use jetblock_cli::Program;
use pyo3::prelude::*;

/// Runs a command line and returns its exit code.
#[pyfunction]
pub(crate) fn run_command(py: Python<'_>, arguments: Vec<OsString>) -> PyResult<u8> {
    let program = program(py)?;
    let words = std::iter::once(OsString::from("jetblock")).chain(arguments);
    Ok(py.detach(|| jetblock_cli::run(program, words)))
}

/// This interpreter, told to be the command: how a fresh process is started.
pub(crate) fn program(py: Python<'_>) -> PyResult<Program> {
    let executable: OsString = py.import("sys")?.getattr("executable")?.extract()?;
    Ok(Program::new(
        executable.into(),
        vec!["-m".into(), "jetblock".into()],
    ))
}
