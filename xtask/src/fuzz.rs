//! Fuzzing with coverage on the ordinary toolchain: the flags that cargo-fuzz passes, without the address sanitizer,
//! which needs a nightly one. The targets are safe Rust: overflow and broken invariants panic, and that is what is sought.

use std::process::Command;

use crate::shell::{Shell, cargo};

const FLAGS: [&str; 9] = [
    "--cfg",
    "fuzzing",
    "-Cdebug-assertions",
    "-Ccodegen-units=1",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// Runs one target on its corpus and seeds; `args` are libFuzzer's.
pub(crate) fn run(shell: &Shell, args: &[String]) -> Result<(), String> {
    let (target, args) = args
        .split_first()
        .ok_or("fuzz needs a target: config, gguf, header, index or state")?;
    let seeds = shell.root.join("fuzz/seeds").join(target);
    if !seeds.is_dir() {
        return Err(format!(
            "unknown fuzz target {target:?}, see fuzz/fuzz_targets"
        ));
    }
    let folder = |name: &str| {
        let path = shell.root.join("fuzz").join(name).join(target);
        match std::fs::create_dir_all(&path) {
            Ok(()) => Ok(path),
            Err(error) => Err(format!("{}: {error}", path.display())),
        }
    };
    let (corpus, artifacts) = (folder("corpus")?, folder("artifacts")?);
    // Naming the platform keeps the flags away from build scripts.
    shell.run(
        cargo()
            .args(["run", "--release", "--manifest-path", "fuzz/Cargo.toml"])
            .args(["--target", &host()?, "--bin", target, "--"])
            .arg(corpus)
            .arg(seeds)
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .args(args)
            .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f")),
    )
}

/// The platform that this runs on, by the name rustc gives it.
fn host() -> Result<String, String> {
    let output = Command::new("rustc")
        .arg("-vV")
        .output()
        .map_err(|e| format!("cannot start rustc: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_string)
        .ok_or_else(|| format!("rustc -vV names no host: {text}"))
}
