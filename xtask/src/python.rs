//! The second implementation of the contract, in Python and numpy, run in the project's own virtual environment.

use std::process::Command;

use crate::shell::{Shell, cargo, step};

pub(crate) fn second_implementation(shell: &Shell) -> Result<(), String> {
    step("second implementation (Python + numpy)");
    let python = environment(shell)?;
    // The demo model's logits, from the Rust side, to compare with.
    shell.run(cargo().args(["build", "--release", "--quiet", "-p", "jetblock-cli"]))?;
    shell.run(Command::new(python).args(["-m", "tests.second_implementation"]))
}

/// Makes `.venv` with the pinned requirements when it is missing or they changed; returns its interpreter.
fn environment(shell: &Shell) -> Result<std::path::PathBuf, String> {
    let venv = shell.root.join(".venv");
    let python = venv.join(if cfg!(windows) {
        "Scripts/python.exe"
    } else {
        "bin/python"
    });
    let requirements = shell.root.join("tests/requirements.txt");
    let wanted = std::fs::read_to_string(&requirements)
        .map_err(|e| format!("cannot read tests/requirements.txt: {e}"))?;
    let stamp = venv.join("requirements.stamp");
    if python.exists() && std::fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(python);
    }
    shell.run(Command::new("python3").args(["-m", "venv", ".venv"]))?;
    shell.run(
        Command::new(&python)
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "-r",
            ])
            .arg(&requirements),
    )?;
    std::fs::write(&stamp, wanted).map_err(|e| format!("cannot write {}: {e}", stamp.display()))?;
    Ok(python)
}
