//! `jetblock generate`: continues a prompt or answers a chat, streaming to standard output.

mod prefix;
mod prompt;
mod sampling;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use jetblock_ops::sampling::SamplingParams;
use jetblock_runtime::receipt::{Environment, ModelFacts, Receipt};
use jetblock_runtime::{
    Answers, Completion, Defaults, EngineOptions, Record, Session, StopMatcher, TextRequest,
    ThinkingBudget,
};
use serde_json::json;

use crate::Verdict;
use crate::args::{Global, ModelArgs};
use crate::output::Output;
use crate::saved::write_whole;

/// Where neither the request nor the checkpoint says how much to generate.
pub const DEFAULT_MAX_TOKENS: usize = 256;

/// Arguments of `jetblock generate`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) prompt: prompt::PromptArgs,
    #[command(flatten)]
    pub(crate) chat: prompt::ChatArgs,
    #[command(flatten)]
    pub(crate) budget: BudgetArgs,
    #[command(flatten)]
    pub(crate) sampling: sampling::SamplingArgs,
    /// Most tokens to generate [default: the model's, else 256]
    #[arg(long, value_name = "N", help_heading = "Generation")]
    pub(crate) max_tokens: Option<usize>,
    /// End the output before this text; may be repeated
    #[arg(long, value_name = "TEXT", help_heading = "Generation")]
    pub(crate) stop: Vec<String>,
    /// Seed of the random generator: the same seed gives the same text
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        help_heading = "Generation"
    )]
    pub(crate) seed: u64,
    /// Samples to draw from the same prompt
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024), help_heading = "Generation")]
    pub(crate) n: u32,
    /// Guess up to N tokens ahead from what followed the same words before; changes the speed, and no bit
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        value_parser = clap::value_parser!(u8).range(0..=64),
        help_heading = "Generation"
    )]
    pub(crate) speculate: u8,
    /// Print control tokens such as <|im_end|> too
    #[arg(long, help_heading = "Generation")]
    pub(crate) show_special_tokens: bool,
    #[command(flatten)]
    pub(crate) prefix: prefix::PrefixArgs,
    /// Write a receipt: model, contract, request, and the digest of every logit behind the answer (`jetblock verify FILE`)
    #[arg(long, value_name = "FILE", help_heading = "Receipt")]
    pub(crate) receipt: Option<PathBuf>,
    /// What the receipt has of each token: digests of its logits, or of the hidden state after each layer too
    #[arg(
        long,
        value_name = "DETAIL",
        default_value = "logits",
        requires = "receipt",
        help_heading = "Receipt"
    )]
    pub(crate) receipt_detail: ReceiptDetail,
}

/// How much a receipt has of each token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ReceiptDetail {
    Logits,
    Layers,
}

/// Bytes in memory for states of the prompt when several samples or processes share it.
pub const PREFIX_CACHE_BYTES: usize = 1 << 30;

/// How long the model may think.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Thinking budget (for prompts that end in <think>)")]
pub(crate) struct BudgetArgs {
    /// Close the think block at the first newline after N tokens of reasoning
    #[arg(long, value_name = "N")]
    pub(crate) thinking_budget: Option<usize>,
    /// Close it anywhere N tokens later [default: a tenth of the budget]
    #[arg(long, value_name = "N", requires = "thinking_budget")]
    pub(crate) thinking_grace: Option<usize>,
    /// What ends reasoning that is cut, before the closing marker [default: a blank line]
    #[arg(long, value_name = "TEXT", requires = "thinking_budget")]
    pub(crate) thinking_close: Option<String>,
}

impl BudgetArgs {
    fn budget(&self) -> Option<ThinkingBudget> {
        let standard = ThinkingBudget::new(self.thinking_budget?);
        Some(ThinkingBudget {
            grace: self.thinking_grace.unwrap_or(standard.grace),
            closing: self.thinking_close.clone(),
            ..standard
        })
    }
}

pub(crate) fn run(args: &Args, global: &Global, output: &Output) -> anyhow::Result<Verdict> {
    anyhow::ensure!(
        args.max_tokens != Some(0),
        "--max-tokens is 0, expected at least 1"
    );
    // What can be checked without the model is: loading may take minutes.
    args.sampling.over(SamplingParams::default()).check()?;
    StopMatcher::new(&args.stop)?;
    args.check_receipt()?;
    let cpu = global.cpu()?;
    let prompt = prompt::prompt(&args.prompt, &args.chat)?;
    let folder = args.model.folder()?;
    let session = args.model.load_with(&folder, output, Session::open)?;
    let defaults = session.defaults(&prompt)?;
    args.tell_recommendation(&defaults, output);

    let request = TextRequest {
        prompt,
        sampling: args.sampling.over(defaults.sampling),
        seed: args.seed,
        samples: args.n,
        max_tokens: args
            .max_tokens
            .or(defaults.max_tokens)
            .unwrap_or(DEFAULT_MAX_TOKENS),
        stop: args.stop.clone(),
        show_special_tokens: args.show_special_tokens,
        thinking_budget: args.budget.budget(),
        record: args.record(),
    };
    // Several samples grow at once; only a single one can be shown as it grows.
    let is_streaming = args.n == 1 && !output.is_json();
    let mut closed = Ok(());
    let options = EngineOptions {
        speculate: args.speculate.into(),
        prefix_cache_bytes: if args.n > 1 || args.prefix.prefix_cache.is_some() {
            PREFIX_CACHE_BYTES
        } else {
            0
        },
        ..EngineOptions::default()
    };
    let mut engine = session.engine(&cpu, options);
    let mut digests = None;
    if let Some(path) = &args.prefix.prefix_cache {
        // Kept states are of these weights: each run knows them by their digest.
        let weights = digests.insert(folder.digests(&cpu, output)?).weights;
        engine.keep_prefixes_in(args.prefix.open(path, &session, weights)?);
    }
    let mut generation = session.start(&request, engine)?;
    while !generation.is_finished() {
        for (_, delta) in generation.step()? {
            if is_streaming {
                output.aside(&delta.reasoning);
                if closed.is_ok() {
                    closed = output.print(&delta.content);
                }
            }
        }
    }
    let kept = prefix::write(generation.engine(), output);
    let answers = generation.into_answers();
    let completions = &answers.samples;
    closed?;
    let failed = completions
        .iter()
        .find_map(|completion| completion.finish_reason.strip_prefix("error: "));
    if let Some(error) = failed {
        anyhow::bail!("generation failed: {error}");
    }
    if let Some(file) = &args.receipt {
        let environment = Environment::here(folder.name(), &cpu, options);
        let digests = match digests {
            Some(digests) => digests,
            None => folder.digests(&cpu, output)?,
        };
        let model = ModelFacts::of(&session.model, &digests);
        write_receipt(file, &session, model, &request, &answers, environment)?;
    }
    if output.is_json() {
        output.print_json(&json!({
            "seed": args.seed,
            "prompt_tokens": answers.prompt_tokens,
            "samples": completions,
            "speculation": answers.speculation,
            "prefixes": answers.prefixes,
            "prefix_folder": kept,
            "seconds_to_first_token": answers.seconds_to_first_token,
        }))?;
    } else if is_streaming {
        output.print("\n")?;
        print_calls(&completions[0], output)?;
    } else {
        print_samples(completions, output)?;
    }
    if let Some(kept) = kept {
        output.remark(&format!(
            "({} tokens of the prompt were kept, {} states written)",
            kept.tokens, kept.written
        ));
    }
    if args.speculate > 0 {
        let stats = answers.speculation;
        output.remark(&format!(
            "({} tokens in {} steps; {} of {} guesses were right)",
            stats.tokens, stats.decode_steps, stats.accepted, stats.drafted
        ));
    }
    Ok(Verdict::Passed)
}

fn write_receipt(
    file: &Path,
    session: &Session,
    model: ModelFacts,
    request: &TextRequest,
    answers: &Answers,
    environment: Environment,
) -> anyhow::Result<()> {
    let (prompt, sample) = (&answers.prompt_tokens, &answers.samples[0]);
    let receipt = Receipt::new(session, model, request, prompt, 0, sample, environment)?;
    write_whole(file, |out| out.write_all(receipt.to_json().as_bytes()))
        .with_context(|| format!("cannot write the receipt {}", file.display()))
}

fn print_samples(completions: &[Completion], output: &Output) -> anyhow::Result<()> {
    for (i, completion) in completions.iter().enumerate() {
        output.remark(&format!("--- sample {i}"));
        if !completion.reasoning.is_empty() {
            output.aside(&format!("{}\n", completion.reasoning));
        }
        output.print(&format!("{}\n", completion.content))?;
        print_calls(completion, output)?;
    }
    Ok(())
}

/// Prints calls, one JSON object a line, and what else there is to say about a sample.
fn print_calls(completion: &Completion, output: &Output) -> anyhow::Result<()> {
    for call in &completion.tool_calls {
        output.print(&format!("{}\n", serde_json::to_string(call)?))?;
    }
    if let Some(error) = &completion.tool_call_error {
        output.print(&format!("{}\n", error.raw))?;
        output.remark(&format!("({error})"));
    }
    if completion.finish_reason == "max_tokens_in_reasoning" {
        output.remark(
            "(cut while thinking: there is no answer; see --max-tokens, --thinking-budget)",
        );
    }
    if !completion.forced.is_empty() {
        let forced = completion.forced.len();
        output.remark(&format!(
            "(thinking ended by its budget, with {forced} forced token(s))"
        ));
    }
    Ok(())
}

impl Args {
    fn record(&self) -> Record {
        match (&self.receipt, self.receipt_detail) {
            (None, _) => Record::Nothing,
            (Some(_), ReceiptDetail::Logits) => Record::Logits,
            (Some(_), ReceiptDetail::Layers) => Record::Layers,
        }
    }

    fn check_receipt(&self) -> anyhow::Result<()> {
        let Some(file) = &self.receipt else {
            return Ok(());
        };
        anyhow::ensure!(
            self.n == 1,
            "--n is {}, expected 1 with --receipt: a receipt is of one answer",
            self.n
        );
        let folder = match file.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        anyhow::ensure!(
            folder.is_dir(),
            "--receipt {}: there is no folder {}",
            file.display(),
            folder.display()
        );
        Ok(())
    }

    /// Says where the sampling parameters come from, unless the options replace them.
    fn tell_recommendation(&self, defaults: &Defaults, output: &Output) {
        let Some(recommendation) = &defaults.recommendation else {
            return;
        };
        if self.sampling.temperature.is_none() || self.sampling.top_p.is_none() {
            output.remark(&recommendation.to_string());
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    pub(in crate::commands::generate) fn parse(arguments: &[&str]) -> Result<Args, clap::Error> {
        match Cli::try_parse_from(["jetblock", "generate"].iter().chain(arguments))?.command {
            Command::Generate(args) => Ok(*args),
            other => panic!("parsed as {other:?}"),
        }
    }

    #[test]
    fn contradictions_are_errors() {
        for bad in [
            &["--prompt", "a", "--prompt-file", "b"][..],
            &["--system", "a"],
            &["--chat", "--think", "loudly"],
            &["--think", "on"],
            &["--thinking-grace", "3"],
            &["--thinking-budget", "-1"],
            &["--chat", "--message", "Hello"],
            &["--chat", "--template-arg", "a"],
            &["--chat", "--template-arg", "a=b"],
            &["--chat", "--now", "today"],
            &["--logit-bias", "1:2"],
            &["--n", "0"],
            &["--speculate", "65"],
            &["--operands", "f16"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn budgets_have_a_grace() {
        let budget = |arguments: &[&str]| parse(arguments).unwrap().budget.budget();
        assert_eq!(budget(&[]), None);
        let given = budget(&["--thinking-budget", "150"]).unwrap();
        assert_eq!((given.tokens, given.grace, given.closing), (150, 15, None));
        let given = budget(&[
            "--thinking-budget",
            "0",
            "--thinking-grace",
            "7",
            "--thinking-close",
            "So.",
        ]);
        let given = given.unwrap();
        assert_eq!(
            (given.tokens, given.grace, given.closing.as_deref()),
            (0, 7, Some("So."))
        );
    }
}
