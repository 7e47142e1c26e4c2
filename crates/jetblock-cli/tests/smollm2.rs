//! The public model: needs `jetblock fetch smollm2` (94 MiB, with pip), which `cargo xtask test` tries first. Without the file, each test
//! says "not run".

use std::process::{Command, Output};

use serde_json::Value;

fn jetblock(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jetblock"));
    command
        .env_remove("JETBLOCK_THREADS")
        .env_remove("JETBLOCK_ISA");
    command
        .args(arguments)
        .output()
        .expect("the command starts")
}

/// The file, where it has been fetched.
fn model() -> Option<String> {
    let found = jetblock(&["fetch", "smollm2", "--cached", "--json"]);
    if !found.status.success() {
        let reason = String::from_utf8_lossy(&found.stderr).trim().to_string();
        assert!(
            std::env::var_os("JETBLOCK_REQUIRE_PUBLIC_MODEL").is_none(),
            "the model has been fetched: {reason}"
        );
        println!("not run: {reason}");
        return None;
    }
    let told: Value = serde_json::from_slice(&found.stdout).expect("JSON");
    Some(told["file"].as_str().expect("a path").to_string())
}

fn json(arguments: &[&str]) -> Value {
    let output = jetblock(arguments);
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Digests that the second implementation (tests/second_implementation/gguf.py) computed from the same file.
#[test]
fn logits_and_state_have_the_bits_of_the_second_implementation() {
    let Some(model) = model() else {
        return;
    };
    let out = tempfile::tempdir().expect("a folder");
    let out = out.path().join("logits.npy");
    for more in [
        &["--threads", "1"][..],
        &["--threads", "3", "--prefill", "2,1,4"],
        &["--threads", "2", "--isa", "scalar", "--prefill", "1,6"],
    ] {
        let ids = "1,4093,198,2683,359,253,5356";
        let kind = ["--operands", "bf16", "--kv", "f32", "--json"];
        let mut arguments = vec!["logits", &model, "--ids", ids, "--out"];
        arguments.push(out.to_str().expect("a plain path"));
        arguments.extend(kind);
        arguments.extend(more);
        let told = json(&arguments);
        assert_eq!(
            (told["logits"].as_str(), told["state"].as_str()),
            (
                Some("69d4f94eb47ef922ffe218ef9bbd423aa2f9d04368ede6b4f5dcf63ce7b85280"),
                Some("e182108f3a3bc18e94ec5373d5df5836f1058acb968c9688d35d2c37b07ac862")
            ),
            "{more:?}"
        );
    }
}

#[test]
fn it_answers_in_english() {
    let Some(model) = model() else {
        return;
    };
    let told = json(&[
        "generate",
        &model,
        "--chat",
        "-p",
        "What is the capital of France?",
        "--temperature",
        "0",
        "--max-tokens",
        "40",
        "--json",
    ]);
    let sample = &told["samples"][0];
    let text = sample.get("content").or_else(|| sample.get("text"));
    assert_eq!(
        text.and_then(Value::as_str),
        Some("The capital of France is Paris.")
    );
    assert_eq!(sample["finish_reason"], "stop_token");
}

#[test]
fn a_text_is_evaluated_with_the_tokenizer_of_the_file() {
    let Some(model) = model() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let text = folder.path().join("text.txt");
    std::fs::write(&text, "The capital of France is Paris, on the river Seine.").expect("written");
    let text = text.to_str().expect("a plain path");
    let told = json(&["eval", &model, "--text", text, "--kv", "fp8", "--json"]);
    assert_eq!(
        (told["tokens"].as_u64(), told["positions"].as_u64()),
        (Some(13), Some(12))
    );
    let line = &told["lines"][0];
    assert_eq!(line["kv"], "fp8");
    // 30 layers of 3 key/value heads of 64, keys and values, a byte each.
    assert_eq!(line["kv_bytes_per_token"], 30 * 3 * 64 * 2);
    let perplexity = line["perplexity"].as_f64().expect("a number");
    assert!((5.0..50.0).contains(&perplexity), "{perplexity}");
}
