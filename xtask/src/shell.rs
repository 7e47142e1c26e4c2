//! Running programs from the workspace root.

use std::path::PathBuf;
use std::process::Command;

/// Where commands run.
pub(crate) struct Shell {
    /// The workspace root.
    pub(crate) root: PathBuf,
}

impl Shell {
    pub(crate) fn at_workspace_root() -> Shell {
        let xtask = PathBuf::from(
            std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it for `cargo run`"),
        );
        Shell {
            root: xtask
                .parent()
                .expect("xtask lies in the workspace")
                .to_path_buf(),
        }
    }

    /// Runs a program at the root; an error names it if it fails.
    pub(crate) fn run(&self, command: &mut Command) -> Result<(), String> {
        self.succeeds(command).and_then(|ok| {
            if ok {
                Ok(())
            } else {
                Err(format!("failed: {command:?}"))
            }
        })
    }

    /// Runs a program at the root and tells whether it succeeded.
    pub(crate) fn succeeds(&self, command: &mut Command) -> Result<bool, String> {
        let status = command.current_dir(&self.root).status();
        status
            .map(|s| s.success())
            .map_err(|e| format!("cannot start {:?}: {e}", command.get_program()))
    }
}

/// The cargo that runs us. Its target directory is the ordinary one, not xtask's own.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.env_remove("CARGO_MANIFEST_DIR");
    command
}

/// A heading between steps.
pub(crate) fn step(name: &str) {
    println!("\n== {name}");
}
