//! `generate --prefix-cache`: prompts kept by one process and taken up by another.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/demo-model");

fn start(model: &str, kept: &Path, more: &[&str]) -> Child {
    let prompt =
        "And it came to pass in those days, that he went out into the mountain. ".repeat(24);
    Command::new(env!("CARGO_BIN_EXE_jetblock"))
        .args([
            "generate",
            model,
            "--json",
            "--max-tokens",
            "12",
            "--prompt",
        ])
        .arg(prompt)
        .arg("--prefix-cache")
        .arg(kept)
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts")
}

/// What it says on both outputs.
fn end(child: Child) -> (Value, String) {
    let output = child.wait_with_output().expect("it runs");
    let remarks = String::from_utf8(output.stderr).expect("text");
    assert!(output.status.success(), "{remarks}");
    (
        serde_json::from_slice(&output.stdout).expect("JSON"),
        remarks,
    )
}

fn run(model: &str, kept: &Path, more: &[&str]) -> (Value, String) {
    end(start(model, kept, more))
}

fn prompt_tokens(answer: &Value) -> u64 {
    answer["prompt_tokens"].as_array().expect("ids").len() as u64
}

fn kept_tokens(answer: &Value) -> u64 {
    answer["prefix_folder"]["tokens"]
        .as_u64()
        .expect("a number")
}

fn files(kept: &Path) -> Vec<PathBuf> {
    let listed = fs::read_dir(kept).expect("a folder");
    let mut files: Vec<PathBuf> = listed.map(|item| item.expect("readable").path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "jbstate"));
    files.sort();
    files
}

#[test]
fn another_process_goes_on_with_the_same_bits() {
    let folder = tempfile::tempdir().expect("a folder");
    for kv in ["f32", "bf16", "fp8", "nvfp4"] {
        let kept = folder.path().join(kv);
        let (first, _) = run(DEMO, &kept, &["--kv", kv, "--threads", "2"]);
        let tokens = prompt_tokens(&first);
        assert!(tokens > 300, "more than one state of {tokens} tokens");
        assert_eq!(kept_tokens(&first), 0);
        let isa = ["--kv", kv, "--isa", "scalar", "--threads", "1"];
        let (second, remarks) = run(DEMO, &kept, &isa);
        assert_eq!(second["samples"], first["samples"], "{kv}");
        assert_eq!(kept_tokens(&second), tokens - 1, "{kv}");
        assert!(!remarks.contains("warning"), "{remarks}");
    }
}

#[test]
fn the_receipt_does_not_show_what_was_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let kept = folder.path().join("kept");
    let file = |name: &str| folder.path().join(name).to_str().expect("text").to_string();
    let record = |name: &str| {
        let options = ["--receipt", &file(name), "--receipt-detail", "layers"];
        kept_tokens(&run(DEMO, &kept, &options).0)
    };
    assert_eq!(record("first"), 0);
    assert!(record("second") > 300);
    let receipts = ["first", "second"].map(|name| {
        let text = fs::read_to_string(file(name)).expect("it was written");
        serde_json::from_str::<Value>(&text).expect("JSON")
    });
    assert!(receipts[0]["output"].is_object());
    assert_eq!(receipts[0]["output"], receipts[1]["output"]);
}

#[test]
fn damaged_and_foreign_files_are_named_and_not_used() {
    let folder = tempfile::tempdir().expect("a folder");
    let kept = folder.path().join("kept");
    let (want, _) = run(DEMO, &kept, &[]);
    let tokens = prompt_tokens(&want);
    for file in files(&kept) {
        let mut bytes = fs::read(&file).expect("readable");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&file, bytes).expect("writable");
    }
    let (got, remarks) = run(DEMO, &kept, &[]);
    assert_eq!((&got["samples"], kept_tokens(&got)), (&want["samples"], 0));
    assert!(
        remarks.contains(".jbstate is not used: saved sequence state: "),
        "{remarks}"
    );
    // It was written anew.
    let (got, remarks) = run(DEMO, &kept, &[]);
    assert_eq!(
        (&got["samples"], kept_tokens(&got)),
        (&want["samples"], tokens - 1)
    );
    assert!(!remarks.contains("warning"), "{remarks}");

    // The same configuration, one bit of one weight changed.
    let other = folder.path().join("other");
    fs::create_dir(&other).expect("nothing is there");
    for item in fs::read_dir(DEMO).expect("the demo model") {
        let path = item.expect("readable").path();
        let name = path.file_name().expect("a file").to_owned();
        fs::copy(path, other.join(name)).expect("writable");
    }
    let weights = other.join("model.safetensors");
    let mut bytes = fs::read(&weights).expect("readable");
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    fs::write(&weights, bytes).expect("writable");
    let other = other.to_str().expect("a name");
    let mine = files(&kept);
    let (first, remarks) = run(other, &kept, &[]);
    assert_eq!(kept_tokens(&first), 0);
    assert!(
        !remarks.contains("warning"),
        "it has files of its own: {remarks}"
    );
    // Not even under the name of its own.
    let end_of = |path: &PathBuf| {
        let name = path.to_str().expect("a name");
        name.rsplit_once('-').expect("of this form").1.to_string()
    };
    for file in files(&kept).iter().filter(|file| !mine.contains(file)) {
        if let Some(foreign) = mine.iter().find(|own| end_of(own) == end_of(file)) {
            fs::copy(foreign, file).expect("writable");
        }
    }
    let (second, remarks) = run(other, &kept, &[]);
    assert_eq!(
        (&second["samples"], kept_tokens(&second)),
        (&first["samples"], 0)
    );
    assert!(
        remarks.contains("it is of a model with other weights: "),
        "{remarks}"
    );
}

#[test]
fn processes_side_by_side_keep_to_the_budget() {
    let folder = tempfile::tempdir().expect("a folder");
    let kept = folder.path().join("kept");
    let (want, _) = run(DEMO, &folder.path().join("elsewhere"), &[]);
    // One state of the demo model takes 0.7 MB and more.
    let budget = ["--prefix-cache-bytes", "2000000"];
    let bytes = || -> u64 {
        let sizes = files(&kept)
            .into_iter()
            .map(|file| fs::metadata(file).map_or(0, |m| m.len()));
        sizes.sum()
    };
    let mut hits = 0;
    for _ in 0..3 {
        let children: Vec<Child> = (0..2).map(|_| start(DEMO, &kept, &budget)).collect();
        for child in children {
            let (got, remarks) = end(child);
            assert_eq!(got["samples"], want["samples"]);
            assert!(!remarks.contains("warning"), "{remarks}");
            hits += got["prefix_folder"]["hits"].as_u64().expect("a number");
        }
        assert!((1..=2_000_000).contains(&bytes()), "{} bytes", bytes());
    }
    assert!(hits > 0, "later ones went on from what earlier ones kept");
}
