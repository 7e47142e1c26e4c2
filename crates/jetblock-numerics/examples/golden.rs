//! `cargo run -p jetblock-numerics --example golden -- --write`: writes the golden vectors of this version.
//!
//! Existing files are left alone, because they are the definition of their version: raise NUMERICS_VERSION, or pass
//! `--force` before a version is released.

use std::path::Path;
use std::process::ExitCode;

use jetblock_numerics::NUMERICS_VERSION;

#[path = "../tests/vectors/mod.rs"]
mod vectors;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    if !has("--write") {
        eprintln!("usage: golden --write [--force]");
        return ExitCode::FAILURE;
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("golden/v{NUMERICS_VERSION}"));
    std::fs::create_dir_all(&folder).expect("the golden folder can be created");
    for (name, text) in vectors::files() {
        let path = folder.join(name);
        let changed = std::fs::read_to_string(&path).is_ok_and(|committed| committed != text);
        if changed && !has("--force") {
            eprintln!(
                "{name} of version {NUMERICS_VERSION} exists and differs: raise NUMERICS_VERSION"
            );
            return ExitCode::FAILURE;
        }
        std::fs::write(&path, text).expect("golden files can be written");
    }
    ExitCode::SUCCESS
}
