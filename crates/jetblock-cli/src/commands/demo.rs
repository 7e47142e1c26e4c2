//! `jetblock demo`: the bundled model writes, then its bits are shown not to move.

use std::time::Instant;

use jetblock_runtime::{EngineOptions, Prompt, Record, Session, TextRequest};
use serde_json::json;

use super::verify;
use crate::Verdict;
use crate::args::{Global, ModelArgs};
use crate::bundled;
use crate::output::{self, Output};

/// Arguments of `jetblock demo`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// What to continue
    #[arg(long, default_value = "And it came to pass in those days,")]
    pub(crate) prompt: String,
    /// Most tokens to write
    #[arg(long, default_value_t = 120)]
    pub(crate) max_tokens: usize,
    /// Key of the random generator
    #[arg(long, default_value_t = 7)]
    pub(crate) seed: u64,
    /// Runs of the proof
    #[arg(long, default_value_t = 200)]
    pub(crate) runs: usize,
}

pub(crate) fn run(args: &Args, global: &Global, output: &Output) -> anyhow::Result<Verdict> {
    let model = ModelArgs {
        model: None,
        operands: None,
        kv: None,
        split: None,
        hash_ties: false,
    };
    let folder = model.folder()?;
    let cpu = global.cpu()?;
    let session = Session::open(folder.path(), model.options(), &mut |_| {})?;
    let config = session.model.config();
    let print = |text: &str| {
        if output.is_json() {
            Ok(())
        } else {
            output.print(text)
        }
    };
    print(&format!(
        "JetBlock {}: {}, {} layers {}, {} packed; {} with {} thread(s)\n\n{}",
        env!("CARGO_PKG_VERSION"),
        bundled::NAME,
        config.layers.len(),
        config.pattern(),
        output::bytes(session.model.bytes() as u64),
        cpu.level(),
        cpu.threads(),
        args.prompt
    ))?;
    let request = TextRequest {
        prompt: Prompt::Text(args.prompt.clone()),
        sampling: session.default_sampling(),
        seed: args.seed,
        samples: 1,
        max_tokens: args.max_tokens,
        stop: Vec::new(),
        show_special_tokens: false,
        thinking_budget: None,
        record: Record::Nothing,
    };
    let start = Instant::now();
    let mut printed = Ok(());
    let engine = session.engine(&cpu, EngineOptions::default());
    let answers = session.generate(&request, engine, &mut |_, delta| {
        if printed.is_ok() {
            printed = print(&format!("{}{}", delta.reasoning, delta.content));
        }
    })?;
    printed?;
    let completion = &answers.samples[0];
    let speed = completion.tokens.len() as f64 / start.elapsed().as_secs_f64();
    print(&format!(
        "\n\n{} tokens, {speed:.0} tokens/s. Seed {} gives these tokens on every CPU.\n\n",
        completion.tokens.len(),
        args.seed
    ))?;
    let verify = verify::Args {
        receipt_model: None,
        model,
        runs: args.runs,
        quick: false,
        control_runs: 60,
        tokens: 48,
        max_threads: 4,
        child: false,
    };
    let proof = verify::prove(&verify, global, output, &folder, &session.model)?;
    if output.is_json() {
        output.print_json(&json!({
            "prompt": args.prompt, "completion": completion, "tokens_per_second": speed, "proof": proof,
        }))?;
    } else {
        output.print(&proof.text())?;
    }
    Ok(proof.verdict())
}
