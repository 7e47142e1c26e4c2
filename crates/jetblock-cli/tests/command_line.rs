//! The command as people meet it: help, mistakes, exit codes, and results on the bundled model.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn jetblock(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jetblock"));
    command
        .env_remove("JETBLOCK_THREADS")
        .env_remove("JETBLOCK_ISA")
        .env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Standard output of a command that succeeds.
fn stdout(arguments: &[&str]) -> String {
    let output = jetblock(arguments);
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&stdout(arguments)).unwrap()
}

/// Standard error of a command that is refused.
fn refusal(arguments: &[&str]) -> String {
    let output = jetblock(arguments);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn help() {
    insta::assert_snapshot!(stdout(&["--help"]), @"
Runs language models (Nemotron-H, Nemotron 3, Llama and its relatives) so that the same request gives the same bits, whatever else the machine is doing, and proves it

Usage: jetblock [OPTIONS] <COMMAND>

Commands:
  demo      See it work: the bundled model writes, and its bits are checked under many schedules
  generate  Continue a prompt or answer a chat
  verify    Check that a model's bits do not depend on batch, prompt split, threads or instruction set, or that a receipt is true
  diff      Compare two receipts: the first difference, and which recorded fact explains it
  bench     Measure speed
  logits    Write the logits of given tokens to a .npy file
  eval      Measure what each dtype of the key/value cache costs on a text: perplexity, divergence from f32
  profile   Describe a model folder: layers, parameters, memory
  quantize  Convert a model folder to NVFP4 or FP8 weights
  fetch     Get a public model, with pip
  env       Show the processor's instruction-set levels and the environment variables that are read
  help      Print this message or the help of the given subcommand(s)

Options:
  -h, --help     Print help
  -V, --version  Print version

Global options:
      --threads <N>  Threads to compute with [default: all cores] [env: JETBLOCK_THREADS]
      --isa <LEVEL>  Instruction-set level: scalar, neon, avx2, avx512 or avx512bf16 [default: the best there is] [env: JETBLOCK_ISA]
      --json         Print results as JSON
  -q, --quiet        No progress and no remarks, only results

Start with `jetblock demo`; it needs no model.
Exit codes: 0 success, 1 a verification failed, 2 wrong usage or input.
");
}

#[test]
fn help_of_generate() {
    insta::assert_snapshot!(stdout(&["generate", "--help"]), @"
Continue a prompt or answer a chat

Usage: jetblock generate [OPTIONS] [MODEL]

Arguments:
  [MODEL]  Model folder (config.json, *.safetensors, tokenizer.json) or FILE.gguf [default: the bundled demo model]

Options:
  -p, --prompt <TEXT>       Text to continue; with --chat, the user's message [default: standard input]
      --prompt-file <FILE>  File with that text; - is standard input
  -h, --help                Print help
  -V, --version             Print version

Part of the request (each choice has bits of its own):
      --operands <KIND>  Operands of matrix products [default: by the model's dtypes] [possible values: f32, bf16]
      --kv <DTYPE>       Dtype of the key/value cache; nvfp4 needs a head_dim in sixteens [default: as the operands, whatever the checkpoint names] [possible values: f32, bf16, fp8, nvfp4]
      --split <KEYS>     Keys in an attention block: 64, 128 or 256 [default: 256]
      --hash-ties        Order equal router scores by a hash instead of by the lower expert

Chat:
      --chat                      Use the model's chat template instead of continuing raw text
      --system <TEXT>             System message
      --message <ROLE:TEXT>       A message, such as user:Hello or assistant:Hi; may be repeated
      --messages <FILE>           JSON file with a list of messages, in the OpenAI format
      --tools <FILE>              JSON file with a list of tools, in the OpenAI format
      --think <MODE>              Whether the model thinks before it answers, by its template's own switch [default: the template's] [possible values: on, off, medium]
      --literal-markers           Pass /think and /no_think in messages on as text where they switch nothing
      --template-arg <NAME=JSON>  A further variable of the template, its value in JSON; may be repeated
      --now <DATE>                Date (and time) for templates that print it, such as 2026-11-23; the clock is never read

Thinking budget (for prompts that end in <think>):
      --thinking-budget <N>    Close the think block at the first newline after N tokens of reasoning
      --thinking-grace <N>     Close it anywhere N tokens later [default: a tenth of the budget]
      --thinking-close <TEXT>  What ends reasoning that is cut, before the closing marker [default: a blank line]

Sampling (defaults are the model's):
      --temperature <T>         Divides the logits; 0 takes the most likely token
      --top-k <K>               Keep the K most likely tokens; 0 keeps all
      --top-p <P>               Keep the most likely tokens that together reach this probability
      --min-p <P>               Keep tokens at least this likely relative to the most likely one
      --repetition-penalty <X>  Makes tokens of the prompt and the output less likely; 1 is off
      --presence-penalty <X>    Subtracted from the logits of tokens in the output
      --frequency-penalty <X>   Subtracted for each time a token is in the output
      --logit-bias <ID=BIAS>    Added to the logit of one token; may be repeated

Generation:
      --max-tokens <N>       Most tokens to generate [default: the model's, else 256]
      --stop <TEXT>          End the output before this text; may be repeated
      --seed <N>             Seed of the random generator: the same seed gives the same text [default: 0]
      --n <N>                Samples to draw from the same prompt [default: 1]
      --speculate <N>        Guess up to N tokens ahead from what followed the same words before; changes the speed, and no bit [default: 0]
      --show-special-tokens  Print control tokens such as <|im_end|> too

Kept prompts (they change the speed, and no bit):
      --prefix-cache <DIR>      Keep the states of prompts in this folder, and go on from the longest that is there; it tells the prompts to who can read it
      --prefix-cache-bytes <N>  Most bytes of files in it, of all models together; the least recently used go first [default: 1073741824]

Receipt:
      --receipt <FILE>           Write a receipt: model, contract, request, and the digest of every logit behind the answer (`jetblock verify FILE`)
      --receipt-detail <DETAIL>  What the receipt has of each token: digests of its logits, or of the hidden state after each layer too [default: logits] [possible values: logits, layers]

Global options:
      --threads <N>  Threads to compute with [default: all cores] [env: JETBLOCK_THREADS]
      --isa <LEVEL>  Instruction-set level: scalar, neon, avx2, avx512 or avx512bf16 [default: the best there is] [env: JETBLOCK_ISA]
      --json         Print results as JSON
  -q, --quiet        No progress and no remarks, only results
");
}

#[test]
fn guesses_and_shared_prompts_change_no_token() {
    let line = "And he begat sons and daughters: and he died.";
    let prompt = [line, line, "And he begat sons"].join(" ");
    let prompt = [
        "generate",
        "--json",
        "--max-tokens",
        "40",
        "--prompt",
        &prompt,
    ];
    let with = |more: &[&str]| json(&[&prompt[..], more].concat());
    let plain = with(&["--temperature", "0"]);
    let guessed = with(&["--temperature", "0", "--speculate", "8"]);
    assert_eq!(guessed["samples"], plain["samples"]);
    assert!(guessed["speculation"]["accepted"].as_u64().unwrap() > 0);
    assert!(
        guessed["speculation"]["decode_steps"].as_u64()
            < plain["speculation"]["decode_steps"].as_u64()
    );
    let plain = with(&["--n", "1"]);
    let three = with(&["--n", "3"]);
    assert_eq!(three["samples"][0], plain["samples"][0]);
    assert_eq!(three["prefixes"]["hits"], 2);
}

#[test]
fn help_of_logits() {
    insta::assert_snapshot!(stdout(&["logits", "--help"]), @"
Write the logits of given tokens to a .npy file

Usage: jetblock logits [OPTIONS] --ids <IDS> --out <FILE.npy> [MODEL]

Arguments:
  [MODEL]  Model folder (config.json, *.safetensors, tokenizer.json) or FILE.gguf [default: the bundled demo model]

Options:
      --ids <IDS>          Token ids, separated by commas
      --prefill <LENGTHS>  Lengths of the pieces in which the tokens are fed; a piece of 1 is a decode step [default: one piece]
      --out <FILE.npy>     File to write: f32, [tokens, vocabulary], C order
  -h, --help               Print help
  -V, --version            Print version

Part of the request (each choice has bits of its own):
      --operands <KIND>  Operands of matrix products [default: by the model's dtypes] [possible values: f32, bf16]
      --kv <DTYPE>       Dtype of the key/value cache; nvfp4 needs a head_dim in sixteens [default: as the operands, whatever the checkpoint names] [possible values: f32, bf16, fp8, nvfp4]
      --split <KEYS>     Keys in an attention block: 64, 128 or 256 [default: 256]
      --hash-ties        Order equal router scores by a hash instead of by the lower expert

Global options:
      --threads <N>  Threads to compute with [default: all cores] [env: JETBLOCK_THREADS]
      --isa <LEVEL>  Instruction-set level: scalar, neon, avx2, avx512 or avx512bf16 [default: the best there is] [env: JETBLOCK_ISA]
      --json         Print results as JSON
  -q, --quiet        No progress and no remarks, only results
");
}

#[test]
fn mistakes_in_the_usage_are_explained() {
    insta::assert_snapshot!(refusal(&["env", "--isa", "mmx"]), @r#"
error: invalid value 'mmx' for '--isa <LEVEL>': unknown instruction-set level "mmx", expected one of scalar, neon, avx2, avx512, avx512bf16

For more information, try '--help'.
"#);
    insta::assert_snapshot!(refusal(&["generate", "--message", "user:Hi"]), @"
error: the following required arguments were not provided:
  --chat

Usage: jetblock generate --chat --message <ROLE:TEXT> [MODEL]

For more information, try '--help'.
");
    insta::assert_snapshot!(refusal(&["generate", "--chat", "--message", "Hi"]), @"
error: invalid value 'Hi' for '--message <ROLE:TEXT>': expected ROLE:TEXT, such as user:Hello

For more information, try '--help'.
");
    insta::assert_snapshot!(refusal(&["logits", "--ids", "1,x", "--out", "l.npy"]), @r#"
error: invalid value '1,x' for '--ids <IDS>': "x" is not a number of the list

For more information, try '--help'.
"#);
}

#[test]
fn wrong_input_is_explained() {
    insta::assert_snapshot!(refusal(&["env", "--threads", "0"]), @"error: thread count 0 is outside 1..=1024");
    insta::assert_snapshot!(refusal(&["generate", "no-such-folder", "-p", "x"]), @"error: no-such-folder is not a folder or a GGUF file, expected a model folder in Hugging Face layout or FILE.gguf");
    insta::assert_snapshot!(refusal(&["generate", "-p", "x", "--top-p", "3"]), @"error: sampling: top_p is 3, expected in (0, 1]");
    insta::assert_snapshot!(refusal(&["generate", "-p", "x", "--stop", ""]), @"error: the length of a stop string is 0 bytes, expected 1 to 1024 bytes");
    insta::assert_snapshot!(refusal(&["generate", "-p", "x", "--split", "100"]), @"
error: cannot load bundled demo model
  caused by: option split is 100, expected 64, 128 or 256
");
    insta::assert_snapshot!(
        refusal(&["logits", "--ids", "1,2,3", "--prefill", "2,2", "--out", "l.npy"]),
        @"error: --prefill sums to 4, expected the number of --ids, 3"
    );
    insta::assert_snapshot!(
        refusal(&["logits", "--ids", "1,99999", "--out", "l.npy"]),
        @"error: token 1 is 99999, expected less than the vocabulary size 4096"
    );
}

#[test]
fn env_names_the_levels() {
    let env = json(&["env", "--json", "--threads", "3", "--isa", "scalar"]);
    assert_eq!(
        (&env["threads"], &env["isa"]),
        (&3.into(), &"scalar".into())
    );
    assert!(
        env["isa_available"]
            .as_array()
            .unwrap()
            .contains(&"scalar".into())
    );
}

#[test]
fn environment_variables_count_as_options() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jetblock"));
    command
        .env("JETBLOCK_THREADS", "2")
        .env("JETBLOCK_ISA", "scalar")
        .args(["env", "--json"]);
    let env: Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
    assert_eq!(
        (&env["threads"], &env["isa"]),
        (&2.into(), &"scalar".into())
    );
}

#[test]
fn generation_repeats_itself() {
    let arguments = [
        "generate",
        "-p",
        "And it came to pass",
        "--max-tokens",
        "12",
        "--seed",
        "7",
    ];
    let text = stdout(&arguments);
    assert!(text.trim().len() > 10, "{text:?}");
    assert_eq!(
        stdout(&[&arguments[..], &["--threads", "1", "--isa", "scalar"]].concat()),
        text
    );
    let other = [
        "generate",
        "-p",
        "And it came to pass",
        "--max-tokens",
        "12",
        "--seed",
        "8",
    ];
    assert_ne!(stdout(&other), text);
}

#[test]
fn samples_are_numbered_and_end_at_stop_strings() {
    let arguments = [
        "generate",
        "-p",
        "And it came to pass",
        "--max-tokens",
        "40",
        "--seed",
        "7",
        "--json",
        "--n",
        "3",
    ];
    let whole = json(&arguments);
    let samples = whole["samples"].as_array().unwrap();
    assert_eq!(samples.len(), 3);
    assert_ne!(samples[0]["content"], samples[1]["content"]);
    let text = samples[0]["content"].as_str().unwrap();
    let stop: String = text.chars().skip(10).take(3).collect();
    let stopped = json(&[&arguments[..], &["--stop", &stop]].concat());
    let stopped = &stopped["samples"][0];
    assert_eq!(stopped["finish_reason"], "stop_string");
    assert_eq!(stopped["content"], text.split(&stop).next().unwrap());
}

#[test]
fn receipts_are_run_again_and_compared() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let generate = |seed: &str, file: &str| {
        let text = stdout(&[
            "generate",
            "-p",
            "And it came to pass",
            "--max-tokens",
            "12",
            "--seed",
            seed,
            "--receipt",
            file,
            "--receipt-detail",
            "layers",
        ]);
        assert!(text.trim().len() > 10);
    };
    let (a, b) = (path("a.json"), path("b.json"));
    generate("7", &a);
    generate("8", &b);
    let verdict = json(&["verify", &a, "--json"]);
    assert_eq!(verdict["identical"], true);
    let runs = verdict["runs"].as_array().unwrap();
    assert!(runs.len() >= 3 && runs.iter().all(|run| run["steps"] == 12));
    let text = stdout(&["verify", &a, "--isa", "scalar", "--threads", "3"]);
    assert!(
        text.ends_with("identical: every logit, every token, the text\n"),
        "{text}"
    );
    assert!(stdout(&["diff", &a, &a]).starts_with("identical: 12 steps\n"));

    let difference = |arguments: &[&str]| {
        let output = jetblock(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let text = difference(&["diff", &a, &b]);
    assert!(text.contains("request.seed: 7, 8"), "{text}");
    let text = difference(&["verify", &a, "--operands", "f32"]);
    assert!(
        text.contains("the hidden state after layer 0 (Mamba)"),
        "{text}"
    );
    assert!(text.contains("contract.operands: bf16, f32"), "{text}");
    let recorded = std::fs::read_to_string(&a).unwrap();
    let mut changed: Value = serde_json::from_str(&recorded).unwrap();
    changed["steps"][5]["logits"] = changed["steps"][4]["logits"].clone();
    let c = path("c.json");
    std::fs::write(&c, changed.to_string()).unwrap();
    let text = difference(&["verify", &c]);
    assert!(text.contains("step 5 (position"), "{text}");
    assert!(text.contains("No recorded fact explains it"), "{text}");

    changed["environment"]["model"] = "somebody's".into();
    std::fs::write(&c, changed.to_string()).unwrap();
    assert!(refusal(&["verify", &c]).contains("the receipt is of somebody's"));
    std::fs::write(&c, &recorded[..recorded.len() / 2]).unwrap();
    assert!(refusal(&["verify", &c]).contains("not a receipt"));
    let text = refusal(&["generate", "-p", "a", "--receipt", &c, "--n", "2"]);
    assert!(
        text.contains("--n is 2, expected 1 with --receipt"),
        "{text}"
    );
    let nowhere = path("none/receipt.json");
    assert!(
        refusal(&["generate", "-p", "a", "--receipt", &nowhere]).contains("there is no folder")
    );
    let half = std::fs::read(&c).unwrap();
    assert_eq!(
        half.len(),
        recorded.len() / 2,
        "a refused run leaves what was there"
    );
}

#[test]
fn quantized_folders_load_and_keep_their_bits() {
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/demo-model");
    let folder = tempfile::tempdir().unwrap();
    for (format, bits) in [("nvfp4", 4.5), ("fp8", 8.0)] {
        let made = folder.path().join(format);
        let made = made.to_str().unwrap();
        let arguments = ["quantize", demo, made, "--format", format];
        let done = json(&[&arguments[..], &["--json"]].concat());
        let number = |field: &str| done[field].as_f64().unwrap();
        let per_weight = number("quantized_bytes") * 8.0 / number("parameters");
        assert!((bits..bits + 0.01).contains(&per_weight), "{per_weight}");
        assert!(number("bytes_after") < number("bytes_before"));
        let profile = json(&["profile", made, "--json"]);
        assert_eq!(profile["stored"]["bytes"], done["bytes_after"]);
        assert!(refusal(&arguments).contains("is there already"));
        let out = folder.path().join("logits.npy");
        let logits = |options: &[&str]| {
            let fixed = [
                "logits",
                made,
                "--json",
                "--ids",
                "1,789,290,737,27,5,6",
                "--out",
            ];
            let told = json(&[&fixed[..], &[out.to_str().unwrap()], options].concat());
            (told["logits"].clone(), told["state"].clone())
        };
        let whole = logits(&[]);
        assert_eq!(logits(&["--prefill", "3,1,1,2", "--threads", "2"]), whole);
        assert_eq!(logits(&["--isa", "scalar", "--threads", "1"]), whole);
        assert_ne!(logits(&["--operands", "f32"]), whole);
        let plain = json(&[
            "logits",
            demo,
            "--json",
            "--ids",
            "1,789,290,737,27,5,6",
            "--out",
            out.to_str().unwrap(),
        ]);
        assert_ne!(plain["logits"], whole.0, "other weights");
        // The control takes part: a model with both kinds of weights.
        stdout(&[
            "verify",
            made,
            "--runs",
            "6",
            "--control-runs",
            "2",
            "--tokens",
            "8",
            "--quiet",
        ]);
    }
}

#[test]
fn logits_do_not_depend_on_the_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, options: &[&str]| {
        let path = folder.path().join(name);
        let fixed = [
            "logits",
            "--quiet",
            "--ids",
            "1,789,290,737,27",
            "--out",
            path.to_str().unwrap(),
        ];
        assert_eq!(stdout(&[&fixed[..], options].concat()), "");
        std::fs::read(path).unwrap()
    };
    let whole = write("whole.npy", &[]);
    assert_eq!(whole.len(), 128 + 5 * 4096 * 4);
    assert!(write("pieces.npy", &["--prefill", "2,1,2"]) == whole);
    assert!(
        write(
            "steps.npy",
            &[
                "--prefill",
                "1,1,1,1,1",
                "--threads",
                "1",
                "--isa",
                "scalar"
            ]
        ) == whole
    );
    // The operands are part of the request: other operands, other bits.
    assert!(write("f32.npy", &["--operands", "f32"]) != whole);
}
