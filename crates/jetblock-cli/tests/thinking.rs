//! Cascade mode on the bundled model: thinking on and off, budgets, tools.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn generate(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jetblock"));
    command
        .env_remove("JETBLOCK_THREADS")
        .env_remove("JETBLOCK_ISA")
        .args(["generate", "--chat"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// The one sample of a command that succeeds.
fn sample(arguments: &[&str]) -> Value {
    let output = generate(&[arguments, &["--json"]].concat());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    let mut result: Value = serde_json::from_slice(&output.stdout).unwrap();
    result["samples"][0].take()
}

fn refusal(arguments: &[&str]) -> String {
    let output = generate(arguments);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn tokens(sample: &Value) -> Vec<u64> {
    let tokens = sample["tokens"].as_array().unwrap();
    tokens.iter().map(|id| id.as_u64().unwrap()).collect()
}

fn forced(sample: &Value) -> Vec<usize> {
    let forced = sample["forced"].as_array();
    let index = |i: &Value| i.as_u64().unwrap() as usize;
    forced.into_iter().flatten().map(index).collect()
}

const QUESTION: [&str; 4] = ["-p", "Who are you?", "--seed", "1"];
const END_THINK: u64 = 13;

#[test]
fn thinking_is_switched_by_the_template() {
    let on = sample(&[&QUESTION[..], &["--think", "on"]].concat());
    assert_eq!(on, sample(&QUESTION), "thinking is the template's default");
    assert!(!on["reasoning"].as_str().unwrap().is_empty());
    assert!(!on["content"].as_str().unwrap().is_empty());
    let off = sample(&[&QUESTION[..], &["--think", "off"]].concat());
    assert_eq!(off["reasoning"], Value::Null);
    assert!(!off["content"].as_str().unwrap().is_empty());
    assert!(!tokens(&off).contains(&END_THINK));
}

#[test]
fn what_the_template_cannot_do_is_explained() {
    let medium = refusal(&["-p", "Hi", "--think", "medium"]);
    assert_eq!(
        medium,
        "error: think is medium, but the model's chat template has no medium_effort, expected on or off (or a thinking budget)\n"
    );
    let marker = refusal(&["-p", "Hi /no_think"]);
    assert!(marker.contains("plain text to this model"), "{marker}");
    sample(&[
        "-p",
        "Hi /no_think",
        "--literal-markers",
        "--max-tokens",
        "4",
    ]);
    let budget = refusal(&["-p", "Hi", "--think", "off", "--thinking-budget", "9"]);
    assert!(
        budget.contains("does not end with an opened think block"),
        "{budget}"
    );
}

#[test]
fn a_cut_while_thinking_is_told() {
    let cut = sample(&[&QUESTION[..], &["--max-tokens", "3"]].concat());
    assert_eq!(cut["finish_reason"], "max_tokens_in_reasoning");
    assert_eq!(cut["content"], "");
    assert!(!cut["reasoning"].as_str().unwrap().is_empty());
}

#[test]
fn a_budget_closes_the_block_and_the_model_goes_on() {
    let free = sample(&QUESTION);
    let thought = tokens(&free)
        .iter()
        .position(|&id| id == END_THINK)
        .unwrap();
    assert!(thought > 5, "the example must think longer than the budget");
    let with = |options: &[&str]| sample(&[&QUESTION[..], options].concat());

    let cut = with(&["--thinking-budget", "4", "--thinking-grace", "1"]);
    let (all, forced_at) = (tokens(&cut), forced(&cut));
    assert_eq!(
        all[..5],
        tokens(&free)[..5],
        "up to the budget nothing changes"
    );
    assert_eq!(forced_at[0], 5);
    let end = all.iter().position(|&id| id == END_THINK).unwrap();
    assert_eq!(end, *forced_at.last().unwrap());
    assert!(cut["reasoning"].as_str().unwrap().ends_with("\n\n"));
    assert!(
        !cut["content"].as_str().unwrap().is_empty(),
        "the model answers"
    );
    let other = [
        "--thinking-budget",
        "4",
        "--thinking-grace",
        "1",
        "--threads",
        "1",
        "--isa",
        "scalar",
    ];
    assert_eq!(cut, with(&other));

    let generous = with(&["--thinking-budget", "200"]);
    assert_eq!(
        generous, free,
        "a budget that is not used up changes nothing"
    );
    let none = with(&["--thinking-budget", "0"]);
    assert_eq!(
        (forced(&none)[0], none["reasoning"].as_str()),
        (0, Some("\n\n"))
    );
    let told = with(&[
        "--thinking-budget",
        "0",
        "--thinking-close",
        " Enough.\n</think>\nWell:",
    ]);
    assert_eq!(told["reasoning"], " Enough.\n");
    assert!(told["content"].as_str().unwrap().starts_with("\nWell:"));
    let late = with(&["--thinking-budget", "4", "--max-tokens", "5"]);
    assert_eq!(late["finish_reason"], "max_tokens_in_reasoning");
}

#[test]
fn calls_of_the_model_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tools.json");
    let tools = r#"[{"type": "function", "function": {"name": "add", "parameters": {"properties": {"a": {"type": "integer"}}}}}]"#;
    std::fs::write(&path, tools).unwrap();
    // The model has not learnt to call: its words are put into its mouth, as the end of its thinking.
    let call =
        |inner: &str| format!("</think>\nAdding.\n<tool_call>\n{inner}\n</tool_call><|im_end|>");
    let with = |call: &str| {
        let fixed = [
            "-p",
            "Add",
            "--tools",
            path.to_str().unwrap(),
            "--thinking-budget",
            "0",
            "--thinking-close",
        ];
        sample(&[&fixed[..], &[call]].concat())
    };
    let good = with(&call(
        "<function=add>\n<parameter=a>\n7\n</parameter>\n</function>",
    ));
    assert_eq!(good["content"], "\nAdding.\n");
    let function = &good["tool_calls"][0]["function"];
    assert_eq!(
        (&function["name"], &function["arguments"]["a"]),
        (&"add".into(), &7.into())
    );
    assert_eq!(
        (good.get("tool_call_error"), &good["finish_reason"]),
        (None, &"stop_token".into())
    );

    let bad = with(&call(
        "<function=add>\n<parameter=a>\nseven\n</parameter>\n</function>",
    ));
    assert_eq!(
        (&bad["content"], bad.get("tool_calls")),
        (&"\nAdding.\n".into(), None)
    );
    let error = &bad["tool_call_error"];
    assert_eq!(
        error["reason"],
        "parameter a of add is \"seven\", expected integer"
    );
    assert!(
        error["raw"]
            .as_str()
            .unwrap()
            .starts_with("<tool_call>\n<function=add>")
    );
}
