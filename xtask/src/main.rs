//! Every developer command: `cargo xtask <command>`. Uses the standard library only, so it builds in seconds.

mod check_ops;
mod comfyui;
mod fuzz;
mod mutants;
mod python;
mod python_package;
mod shell;

use std::process::ExitCode;

use shell::{Shell, cargo, step};

const USAGE: &str = "\
usage: cargo xtask <command>

  test                 everything a change must pass; what CI runs (sets itself up)
  check                formatting, lints, documentation, shape of the op folders
  rust                 the Rust tests
  python               the second implementation against goldens and the demo model (makes .venv)
  python-package [A..] builds the wheel, installs and tests it (makes target/python); A: pytest's arguments
  comfyui [A..]        the same for the node pack, in a real ComfyUI
  verify [ARGS]        the invariance matrix on the bundled model
  exhaustive [F..]     elementary functions on all 2^32 inputs (minutes per function)
  golden [--write]     compare the golden vectors, or write them for a new NUMERICS_VERSION
  mutants [FILTER]     break the kernels one by one and report how many breaks the tests catch
  fuzz TARGET [ARGS]   a target of fuzz/ with libFuzzer's arguments, such as -max_total_time=300
  bench [NAME] [ARGS]  a benchmark of benches/ (gemm, ops, torch_ops, attention, model, prefix)
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((command, rest)) = args.split_first() else {
        print!("{USAGE}");
        return ExitCode::FAILURE;
    };
    let shell = Shell::at_workspace_root();
    let result = match command.as_str() {
        "test" => test(&shell),
        "check" => check(&shell),
        "rust" => rust(&shell),
        "python" => python::second_implementation(&shell),
        "python-package" => python_package::run(&shell, rest),
        "comfyui" => comfyui::run(&shell, rest),
        "verify" => verify(&shell, rest),
        "exhaustive" => exhaustive(&shell, rest),
        "golden" => golden(&shell, rest),
        "mutants" => mutants::run(&shell, rest.first().map(String::as_str)),
        "fuzz" => fuzz::run(&shell, rest),
        "bench" => bench(&shell, rest),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            Ok(())
        }
        other => Err(format!("unknown command {other:?}\n\n{USAGE}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

fn test(shell: &Shell) -> Result<(), String> {
    check(shell)?;
    rust(shell)?;
    python::second_implementation(shell)?;
    let package = python_package::install(shell)?;
    python_package::check(shell, &package, &[])?;
    comfyui::check(shell, &package, &[])?;
    verify(shell, &["--quick".to_string()])
}

fn check(shell: &Shell) -> Result<(), String> {
    step("formatting");
    shell.run(cargo().args(["fmt", "--all", "--check"]))?;
    step("lints");
    shell.run(cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ]))?;
    step("documentation");
    shell.run(
        cargo()
            .args(["doc", "--no-deps", "--workspace", "--quiet"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    step("op folders");
    check_ops::run(shell)?;
    step("list of mutations");
    mutants::check(shell)
}

fn rust(shell: &Shell) -> Result<(), String> {
    step("public model");
    let fetched =
        shell.succeeds(cargo().args(["run", "--release", "--quiet", "--", "fetch", "smollm2"]))?;
    step("Rust tests");
    let mut tests = cargo();
    tests.args(["test", "--workspace", "--no-fail-fast"]);
    if fetched {
        // Then no test may say that it did not run for want of it.
        tests.env("JETBLOCK_REQUIRE_PUBLIC_MODEL", "1");
    } else {
        println!("the public model could not be fetched: its tests are not run");
    }
    shell.run(&mut tests)
}

fn verify(shell: &Shell, args: &[String]) -> Result<(), String> {
    step("jetblock verify");
    shell.run(
        cargo()
            .args(["run", "--release", "--quiet", "--", "verify"])
            .args(args),
    )
}

fn exhaustive(shell: &Shell, functions: &[String]) -> Result<(), String> {
    shell.run(
        cargo()
            .args([
                "run",
                "--release",
                "-p",
                "jetblock-numerics",
                "--example",
                "exhaustive",
                "--",
            ])
            .args(functions)
            // The functions are the same source at every level; the instruction makes the sweep bearable.
            .env("RUSTFLAGS", "-C target-cpu=native")
            .env("CARGO_TARGET_DIR", shell.root.join("target/native")),
    )
}

fn golden(shell: &Shell, args: &[String]) -> Result<(), String> {
    shell.run(
        cargo()
            .args([
                "run",
                "--release",
                "-p",
                "jetblock-numerics",
                "--example",
                "golden",
                "--",
            ])
            .args(args),
    )
}

fn bench(shell: &Shell, args: &[String]) -> Result<(), String> {
    let (name, rest) = args
        .split_first()
        .ok_or("bench needs a name: gemm, ops, torch_ops, attention, model or prefix")?;
    shell.run(
        cargo()
            .args([
                "run",
                "--release",
                "-p",
                "jetblock-benches",
                "--bin",
                name,
                "--",
            ])
            .args(rest),
    )
}
