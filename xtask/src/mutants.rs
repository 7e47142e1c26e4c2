//! Mutation testing: break one line of a kernel, run the tests of its crate, expect them to fail.
//!
//! `tests/mutations.txt` lists the breaks. A block is
//!
//! ```text
//! [name] crate filter
//! path/from/the/root.rs
//! - the text to replace, which must occur exactly once
//! + its replacement
//! ```
//!
//! Several `-` or `+` lines make a text of several lines. With a filter, which is optional, only the crate's tests with
//! that text in their names have to fail: `causal_conv1d::` for a mutation of that op. A filter that chooses no test of the
//! unbroken tree is refused: it could not tell a mutant from the original. Work happens in a copy under `target/mutants`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::shell::{Shell, cargo};

struct Mutation {
    name: String,
    package: String,
    /// Tests that run; all if empty.
    filter: String,
    path: String,
    find: String,
    replace: String,
}

pub(crate) fn run(shell: &Shell, filter: Option<&str>) -> Result<(), String> {
    let mut mutations = read(shell)?;
    if let Some(filter) = filter {
        mutations.retain(|m| {
            [&m.name, &m.package, &m.filter]
                .iter()
                .any(|text| text.contains(filter))
        });
        if mutations.is_empty() {
            return Err(format!(
                "no mutation has {filter:?} in its name, its crate's or its tests'"
            ));
        }
    }
    let work = shell.root.join("target/mutants/tree");
    copy_tree(shell, &work)?;
    println!(
        "{} mutations; first the unbroken tree must pass",
        mutations.len()
    );
    let named = |m: &Mutation| (m.package.clone(), m.filter.clone());
    let chosen: BTreeSet<(String, String)> = mutations.iter().map(named).collect();
    for (package, filter) in &chosen {
        let outcome = test(&work, package, filter)?;
        if !outcome.passed {
            return Err(format!("the unbroken tests {filter:?} of {package} fail"));
        }
        if outcome.executed == 0 {
            return Err(format!("{package} has no test with {filter:?} in its name"));
        }
    }
    let mut survivors = Vec::new();
    for (i, m) in mutations.iter().enumerate() {
        let path = work.join(&m.path);
        let original = m.original(&work)?;
        fs::write(&path, original.replacen(&m.find, &m.replace, 1)).map_err(|e| e.to_string())?;
        let start = Instant::now();
        let survived = test(&work, &m.package, &m.filter)?.passed;
        fs::write(&path, original).map_err(|e| e.to_string())?;
        let word = if survived { "SURVIVED" } else { "killed" };
        println!(
            "{:3}/{} {word:8} {:5.1} s  {}",
            i + 1,
            mutations.len(),
            start.elapsed().as_secs_f32(),
            m.name
        );
        if survived {
            survivors.push(m.name.as_str());
        }
    }
    let killed = mutations.len() - survivors.len();
    println!(
        "killed {killed} of {} ({:.1} %)",
        mutations.len(),
        100.0 * killed as f32 / mutations.len() as f32
    );
    if survivors.len() * 20 > mutations.len() {
        Err(format!(
            "less than 95 % killed; survivors: {}",
            survivors.join(", ")
        ))
    } else {
        Ok(())
    }
}

/// Every mutation must still find its text: a list that has fallen behind the code proves nothing.
pub(crate) fn check(shell: &Shell) -> Result<(), String> {
    for mutation in read(shell)? {
        mutation.original(&shell.root)?;
    }
    Ok(())
}

fn read(shell: &Shell) -> Result<Vec<Mutation>, String> {
    let list = fs::read_to_string(shell.root.join("tests/mutations.txt"))
        .map_err(|e| format!("tests/mutations.txt: {e}"))?;
    parse(&list)
}

impl Mutation {
    /// The file it changes, in which its text occurs once.
    fn original(&self, root: &Path) -> Result<String, String> {
        let original =
            fs::read_to_string(root.join(&self.path)).map_err(|e| format!("{}: {e}", self.path))?;
        match original.matches(&self.find).count() {
            1 => Ok(original),
            count => Err(format!(
                "mutation {:?}: its text occurs {count} times in {}, expected once",
                self.name, self.path
            )),
        }
    }
}

/// How a run of tests ended.
struct Outcome {
    passed: bool,
    executed: usize,
}

/// Runs a package's tests. A mutant that does not compile is an error: it would prove nothing.
fn test(work: &Path, package: &str, filter: &str) -> Result<Outcome, String> {
    let target = work.with_file_name("build");
    let tests = |more: &[&str]| {
        let output = cargo()
            .args(["test", "--tests", "-p", package])
            .args(more)
            .env("CARGO_TARGET_DIR", &target)
            .current_dir(work)
            .stderr(Stdio::null())
            .output();
        output.map_err(|e| e.to_string())
    };
    if !tests(&["--no-run"])?.status.success() {
        return Err(format!("{package} does not compile with this mutation"));
    }
    let output = tests(&["--", filter])?;
    Ok(Outcome {
        passed: output.status.success(),
        executed: executed(&String::from_utf8_lossy(&output.stdout)),
    })
}

/// Tests that ran, by the last line of each test program: `test result: ok. 3 passed; 1 failed; 0 ignored; ...`.
fn executed(output: &str) -> usize {
    let results = output
        .lines()
        .filter_map(|l| l.strip_prefix("test result: "));
    results
        .flat_map(|result| result.split([';', '.']))
        .filter_map(|part| {
            let (count, word) = part.trim().split_once(' ')?;
            (word == "passed" || word == "failed")
                .then(|| count.parse::<usize>().ok())
                .flatten()
        })
        .sum()
}

fn parse(text: &str) -> Result<Vec<Mutation>, String> {
    let mut out: Vec<Mutation> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let bad = || {
            format!(
                "tests/mutations.txt line {}: cannot read {line:?}",
                number + 1
            )
        };
        if line.starts_with('#') || line.trim().is_empty() {
            continue;
        }
        if let Some(rest) = line.strip_prefix('[') {
            let (name, package) = rest.split_once("] ").ok_or_else(bad)?;
            let (package, filter) = package.split_once(' ').unwrap_or((package, ""));
            let (name, package, filter) = (
                name.to_string(),
                package.to_string(),
                filter.trim().to_string(),
            );
            out.push(Mutation {
                name,
                package,
                filter,
                path: String::new(),
                find: String::new(),
                replace: String::new(),
            });
            continue;
        }
        let m = out.last_mut().ok_or_else(bad)?;
        if let Some(text) = line.strip_prefix("- ") {
            push_line(&mut m.find, text);
        } else if let Some(text) = line.strip_prefix("+ ").or(line.strip_prefix('+')) {
            push_line(&mut m.replace, text);
        } else {
            m.path = line.trim().to_string();
        }
    }
    Ok(out)
}

fn push_line(to: &mut String, line: &str) {
    if !to.is_empty() {
        to.push('\n');
    }
    to.push_str(line);
}

/// Copies what git tracks, so that builds of the mutants leave the checkout alone.
fn copy_tree(shell: &Shell, to: &Path) -> Result<(), String> {
    let listed = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(&shell.root)
        .output()
        .map_err(|e| format!("git: {e}"))?;
    for name in String::from_utf8_lossy(&listed.stdout).split_terminator('\0') {
        let (from, to) = (shell.root.join(name), to.join(name));
        fs::create_dir_all(to.parent().expect("a file has a folder")).map_err(|e| e.to_string())?;
        let new = fs::read(&from).map_err(|e| format!("{name}: {e}"))?;
        // Unchanged files keep their time stamp, so cargo rebuilds only what moved.
        if fs::read(&to).ok().as_ref() != Some(&new) {
            fs::write(&to, new).map_err(|e| format!("{name}: {e}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executed_tests_are_counted_over_all_programs() {
        let text = "\nrunning 2 tests\ntest a ... ok\ntest b ... FAILED\n\n\
            test result: FAILED. 1 passed; 1 failed; 3 ignored; 0 measured; 7 filtered out; finished in 0.01s\n\n\
            running 0 tests\n\ntest result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out\n";
        assert_eq!(executed(text), 6);
        assert_eq!(executed("running 0 tests\n"), 0);
    }
}
