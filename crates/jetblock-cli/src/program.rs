//! How a fresh process of this command is started.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;

/// A program and the arguments that come before those of the command. The default is the running executable.
#[derive(Clone, Debug, Default)]
pub struct Program {
    path: Option<PathBuf>,
    arguments: Vec<OsString>,
}

impl Program {
    /// Another program whose arguments make it this command, such as `python -m jetblock`.
    pub fn new(path: PathBuf, arguments: Vec<OsString>) -> Program {
        Program {
            path: Some(path),
            arguments,
        }
    }

    pub(crate) fn command(&self) -> anyhow::Result<Command> {
        let path = match &self.path {
            Some(path) => path.clone(),
            None => {
                std::env::current_exe().context("cannot find this program for fresh processes")?
            }
        };
        let mut command = Command::new(path);
        command.args(&self.arguments);
        Ok(command)
    }
}
