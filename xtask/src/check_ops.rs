//! Every op folder has its definition, reference, fast version and tests, and every op says where its bits are tested.

use std::fs;

use crate::shell::Shell;

const FILES: [&str; 4] = ["mod.rs", "reference.rs", "cpu.rs", "tests.rs"];

/// What an op without float results writes into its tests, with the reason.
const EXEMPTION: &str = "Exempt from assert_bits_equal:";

pub(crate) fn run(shell: &Shell) -> Result<(), String> {
    let src = shell.root.join("crates/jetblock-ops/src");
    let lib = fs::read_to_string(src.join("lib.rs"))
        .map_err(|e| format!("cannot read lib.rs of the ops: {e}"))?;
    let mut problems = Vec::new();
    let mut ops = 0;
    for entry in fs::read_dir(&src).map_err(|e| e.to_string())? {
        let path = entry.map_err(|e| e.to_string())?.path();
        if !path.is_dir() {
            continue;
        }
        ops += 1;
        let name = path
            .file_name()
            .and_then(|n| n.to_str())
            .unwrap_or_default()
            .to_string();
        for file in FILES {
            // An op with several parts may split a file into a folder of the same name.
            if !path.join(file).exists() && !path.join(file.trim_end_matches(".rs")).is_dir() {
                problems.push(format!("op {name} has no {file}"));
            }
        }
        let tests = fs::read_to_string(path.join("tests.rs")).unwrap_or_default();
        if !tests.contains("assert_bits_equal") && !tests.contains(EXEMPTION) {
            problems.push(format!(
                "op {name}: tests.rs compares no bits (assert_bits_equal)"
            ));
        }
        if !lib.contains(&format!("mod {name};")) {
            problems.push(format!("op {name} is not listed in lib.rs"));
        }
    }
    if ops == 0 {
        problems.push("no op folder found".to_string());
    }
    if problems.is_empty() {
        println!("{ops} op folders are complete");
        Ok(())
    } else {
        Err(problems.join("\n"))
    }
}
