//! The Python package: builds the wheel, installs it in an environment of its own, checks and tests it there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::shell::{Shell, step};

/// What the environment is made from; it is made again when one of them changes.
const SOURCES: [&str; 2] = [
    "tests/python/environment/requirements.txt",
    "tests/python/environment/torch_without_cuda.py",
];

/// The package, installed in its environment.
pub(crate) struct Package {
    python: PathBuf,
    wheel: PathBuf,
}

impl Package {
    /// A command that runs a Python module in the environment.
    pub(crate) fn module(&self, name: &str) -> Command {
        let mut command = Command::new(&self.python);
        command.args(["-m", name]);
        command
    }

    /// The environment's folder.
    pub(crate) fn environment(&self) -> &Path {
        let binaries = self.python.parent();
        binaries
            .and_then(Path::parent)
            .expect("it ends in bin/python")
    }
}

pub(crate) fn run(shell: &Shell, pytest_arguments: &[String]) -> Result<(), String> {
    check(shell, &install(shell)?, pytest_arguments)
}

/// Makes the environment, builds the wheel and installs it there.
pub(crate) fn install(shell: &Shell) -> Result<Package, String> {
    step("Python environment");
    let python = environment(shell)?;
    step("Python wheel");
    let wheel = build_wheel(shell, &python)?;
    let package = Package { python, wheel };
    shell.run(
        package
            .module("pip")
            .args(["--quiet", "--disable-pip-version-check", "install"])
            .args(["--no-deps", "--no-index", "--force-reinstall"])
            .arg(&package.wheel),
    )?;
    Ok(package)
}

/// Lints, types and tests of the installed package.
pub(crate) fn check(
    shell: &Shell,
    package: &Package,
    pytest_arguments: &[String],
) -> Result<(), String> {
    step("Python lints and types");
    let module = |name: &str| package.module(name);
    shell.run(module("ruff").args(["check", "--quiet"]))?;
    shell.run(module("ruff").args(["format", "--check", "--quiet"]))?;
    shell.run(module("mypy").args(["--no-error-summary", "python/jetblock", "comfyui_nodes"]))?;
    shell.run(
        module("mypy.stubtest")
            .args(["--concise", "jetblock._core"])
            .env("MYPYPATH", "python"),
    )?;
    step("Python tests");
    shell.run(
        module("pytest")
            .args([
                "-c",
                "tests/python/pytest.ini",
                "--doctest-modules",
                "--pyargs",
                "jetblock",
                "tests/python",
            ])
            .args(pytest_arguments)
            .env("JETBLOCK_WHEEL", &package.wheel),
    )
}

/// The wheel, built by `pip` as anyone would, from the sources as they are.
fn build_wheel(shell: &Shell, python: &Path) -> Result<PathBuf, String> {
    let folder = shell.root.join("target/python/wheel");
    // An older version's wheel would stay beside the new one.
    if folder.exists() {
        fs::remove_dir_all(&folder)
            .map_err(|e| format!("cannot empty {}: {e}", folder.display()))?;
    }
    shell.run(
        Command::new(python)
            .args([
                "-m",
                "pip",
                "--quiet",
                "--disable-pip-version-check",
                "wheel",
                "--no-deps",
                "--wheel-dir",
            ])
            .args([&folder, &shell.root])
            .env_remove("CARGO_MANIFEST_DIR"),
    )?;
    let mut wheels = fs::read_dir(&folder)
        .map_err(|e| format!("cannot read {}: {e}", folder.display()))?
        .flatten()
        .map(|entry| entry.path());
    wheels.next().ok_or("pip made no wheel".into())
}

/// Makes the environment where it is missing or what it is made from has changed; returns its interpreter.
fn environment(shell: &Shell) -> Result<PathBuf, String> {
    let venv = shell.root.join("target/python/venv");
    let python = venv.join(if cfg!(windows) {
        "Scripts/python.exe"
    } else {
        "bin/python"
    });
    let read = |path: &str| {
        fs::read_to_string(shell.root.join(path)).map_err(|e| format!("cannot read {path}: {e}"))
    };
    let wanted = SOURCES
        .map(read)
        .into_iter()
        .collect::<Result<String, _>>()?;
    let stamp = venv.join("sources.stamp");
    if python.exists() && fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(python);
    }
    shell.run(
        Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&venv),
    )?;
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
            .arg(SOURCES[0]),
    )?;
    shell.run(Command::new(&python).arg(SOURCES[1]))?;
    fs::write(&stamp, wanted).map_err(|e| format!("cannot write {}: {e}", stamp.display()))?;
    Ok(python)
}
