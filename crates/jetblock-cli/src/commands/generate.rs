//! `jetblock generate`: continues a prompt or answers a chat, streaming to standard output.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context;
use jetblock_ops::sampling::SamplingParams;
use jetblock_runtime::{
    ChatRequest, CivilTime, Completion, EngineOptions, GenerationConfig, Message, Prompt, Session,
    StopMatcher, TextRequest,
};
use serde_json::{Map, Value, json};

use crate::Verdict;
use crate::args::{Global, ModelArgs};
use crate::output::{Output, Unit};

/// Where neither the request nor the checkpoint says how much to generate.
const DEFAULT_MAX_TOKENS: usize = 256;

/// Files with prompts and messages are read whole.
const MAX_INPUT_BYTES: u64 = 64 << 20;

/// Arguments of `jetblock generate`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) prompt: PromptArgs,
    #[command(flatten)]
    pub(crate) chat: ChatArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
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
    /// Print control tokens such as <|im_end|> too
    #[arg(long, help_heading = "Generation")]
    pub(crate) show_special_tokens: bool,
}

/// The prompt; from standard input where none is given.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(multiple = false)]
pub(crate) struct PromptArgs {
    /// Text to continue; with --chat, the user's message [default: standard input]
    #[arg(long, short, value_name = "TEXT")]
    pub(crate) prompt: Option<String>,
    /// File with that text; - is standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) prompt_file: Option<PathBuf>,
}

/// A conversation.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Chat")]
pub(crate) struct ChatArgs {
    /// Use the model's chat template instead of continuing raw text
    #[arg(long)]
    pub(crate) chat: bool,
    /// System message
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub(crate) system: Option<String>,
    /// A message, such as user:Hello or assistant:Hi; may be repeated
    #[arg(long, value_name = "ROLE:TEXT", requires = "chat")]
    pub(crate) message: Vec<RoleText>,
    /// JSON file with a list of messages, in the OpenAI format
    #[arg(long, value_name = "FILE", requires = "chat")]
    pub(crate) messages: Option<PathBuf>,
    /// JSON file with a list of tools, in the OpenAI format
    #[arg(long, value_name = "FILE", requires = "chat")]
    pub(crate) tools: Option<PathBuf>,
    /// Let the model think before it answers
    #[arg(long, requires = "chat", conflicts_with = "no_thinking")]
    pub(crate) thinking: bool,
    /// Have the model answer at once
    #[arg(long, requires = "chat")]
    pub(crate) no_thinking: bool,
    /// A further variable of the template, its value in JSON; may be repeated
    #[arg(long, value_name = "NAME=JSON", requires = "chat")]
    pub(crate) template_arg: Vec<Assignment>,
    /// Date (and time) for templates that print it, such as 2026-11-23; the clock is never read
    #[arg(long, value_name = "DATE", requires = "chat")]
    pub(crate) now: Option<CivilTime>,
}

/// How tokens are drawn; defaults are the model's (generation_config.json).
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Sampling (defaults are the model's)")]
pub(crate) struct SamplingArgs {
    /// Divides the logits; 0 takes the most likely token
    #[arg(long, value_name = "T")]
    pub(crate) temperature: Option<f32>,
    /// Keep the K most likely tokens; 0 keeps all
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<u32>,
    /// Keep the most likely tokens that together reach this probability
    #[arg(long, value_name = "P")]
    pub(crate) top_p: Option<f32>,
    /// Keep tokens at least this likely relative to the most likely one
    #[arg(long, value_name = "P")]
    pub(crate) min_p: Option<f32>,
    /// Makes tokens of the prompt and the output less likely; 1 is off
    #[arg(long, value_name = "X")]
    pub(crate) repetition_penalty: Option<f32>,
    /// Subtracted from the logits of tokens in the output
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) presence_penalty: Option<f32>,
    /// Subtracted for each time a token is in the output
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) frequency_penalty: Option<f32>,
    /// Added to the logit of one token; may be repeated
    #[arg(long, value_name = "ID=BIAS")]
    pub(crate) logit_bias: Vec<LogitBias>,
}

/// `ROLE:TEXT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RoleText(String, String);

impl FromStr for RoleText {
    type Err = String;

    fn from_str(text: &str) -> Result<RoleText, String> {
        match text.split_once(':') {
            Some((role, text)) if !role.is_empty() => Ok(RoleText(role.into(), text.into())),
            _ => Err("expected ROLE:TEXT, such as user:Hello".into()),
        }
    }
}

/// `NAME=JSON`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Assignment(String, Value);

impl FromStr for Assignment {
    type Err = String;

    fn from_str(text: &str) -> Result<Assignment, String> {
        let (name, json) = text
            .split_once('=')
            .ok_or("expected NAME=JSON, such as effort=\"low\"")?;
        let value = serde_json::from_str(json).map_err(|e| format!("{json:?} is not JSON: {e}"))?;
        Ok(Assignment(name.into(), value))
    }
}

/// `ID=BIAS`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LogitBias(u32, f32);

impl FromStr for LogitBias {
    type Err = String;

    fn from_str(text: &str) -> Result<LogitBias, String> {
        let parts = text
            .split_once('=')
            .and_then(|(id, bias)| Some((id.parse().ok()?, bias.parse().ok()?)));
        parts
            .map(|(id, bias)| LogitBias(id, bias))
            .ok_or("expected ID=BIAS, such as 42=-3.5".into())
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
    let cpu = global.cpu()?;
    let prompt = args.prompt()?;
    let folder = args.model.folder()?;
    let bar = output.progress("loading", 0, Unit::Bytes);
    let session = Session::open(folder.path(), args.model.options(), &mut |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    })
    .with_context(|| format!("cannot load {}", folder.name()))?;
    bar.finish_and_clear();

    let request = TextRequest {
        prompt,
        sampling: args.sampling.over(session.default_sampling()),
        seed: args.seed,
        samples: args.n,
        max_tokens: args.max_tokens(&session.generation_config),
        stop: args.stop.clone(),
        show_special_tokens: args.show_special_tokens,
    };
    // Several samples grow at once; only a single one can be shown as it grows.
    let is_streaming = args.n == 1 && !output.is_json();
    let mut closed = Ok(());
    let completions =
        session.generate(&request, &cpu, EngineOptions::default(), &mut |_, delta| {
            if is_streaming {
                output.aside(&delta.reasoning);
                if closed.is_ok() {
                    closed = output.print(&delta.content);
                }
            }
        })?;
    closed?;
    let failed = completions
        .iter()
        .find_map(|completion| completion.finish_reason.strip_prefix("error: "));
    if let Some(error) = failed {
        anyhow::bail!("generation failed: {error}");
    }
    if output.is_json() {
        output.print_json(&json!({"seed": args.seed, "samples": completions}))?;
    } else if is_streaming {
        output.print("\n")?;
    } else {
        print_samples(&completions, output)?;
    }
    Ok(Verdict::Passed)
}

fn print_samples(completions: &[Completion], output: &Output) -> anyhow::Result<()> {
    for (i, completion) in completions.iter().enumerate() {
        output.remark(&format!("--- sample {i}"));
        if !completion.reasoning.is_empty() {
            output.aside(&format!("{}\n", completion.reasoning));
        }
        output.print(&format!("{}\n", completion.text))?;
    }
    Ok(())
}

impl Args {
    fn max_tokens(&self, config: &GenerationConfig) -> usize {
        self.max_tokens
            .or(config.max_new_tokens)
            .unwrap_or(DEFAULT_MAX_TOKENS)
    }

    /// Text or messages, from the options or from standard input.
    fn prompt(&self) -> anyhow::Result<Prompt> {
        let given = self.prompt.text()?;
        if !self.chat.chat {
            let text = given.map_or_else(|| read_text(Path::new("-")), Ok)?;
            return Ok(Prompt::Text(text));
        }
        let mut request = self.chat.request()?;
        let has_messages = self.chat.messages.is_some() || !self.chat.message.is_empty();
        match given {
            Some(text) => request.messages.push(Message::new("user", text).into()),
            None if has_messages => {}
            None => {
                // The line break that a terminal or echo adds is not part of the message.
                let text = read_text(Path::new("-"))?;
                request
                    .messages
                    .push(Message::new("user", text.trim_end()).into());
            }
        }
        Ok(Prompt::Chat(Box::new(request)))
    }
}

impl PromptArgs {
    fn text(&self) -> anyhow::Result<Option<String>> {
        match (&self.prompt, &self.prompt_file) {
            (Some(text), _) => Ok(Some(text.clone())),
            (None, Some(path)) => read_text(path).map(Some),
            (None, None) => Ok(None),
        }
    }
}

impl ChatArgs {
    /// The messages of the options, in order: system, file, single messages.
    fn request(&self) -> anyhow::Result<ChatRequest> {
        let mut messages: Vec<Value> = Vec::new();
        messages.extend(
            self.system
                .iter()
                .map(|text| Message::new("system", text.as_str()).into()),
        );
        if let Some(path) = &self.messages {
            messages.extend(read_list(path)?);
        }
        messages.extend(
            self.message
                .iter()
                .map(|RoleText(role, text)| Message::new(role.as_str(), text.as_str()).into()),
        );
        let mut request = ChatRequest::new(messages);
        if let Some(path) = &self.tools {
            request.tools = read_list(path)?;
        }
        request.enable_thinking = match (self.thinking, self.no_thinking) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        };
        let arguments = self
            .template_arg
            .iter()
            .map(|Assignment(name, value)| (name.clone(), value.clone()));
        request.kwargs = arguments.collect::<Map<_, _>>();
        request.now = self.now;
        Ok(request)
    }
}

impl SamplingArgs {
    /// The options over the model's defaults.
    fn over(&self, defaults: SamplingParams) -> SamplingParams {
        SamplingParams {
            temperature: self.temperature.unwrap_or(defaults.temperature),
            top_k: self.top_k.unwrap_or(defaults.top_k),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            min_p: self.min_p.unwrap_or(defaults.min_p),
            repetition_penalty: self
                .repetition_penalty
                .unwrap_or(defaults.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(defaults.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(defaults.frequency_penalty),
            logit_bias: self
                .logit_bias
                .iter()
                .map(|LogitBias(id, bias)| (*id, *bias))
                .collect(),
        }
    }
}

/// The text of a file; `-` is standard input.
fn read_text(path: &Path) -> anyhow::Result<String> {
    let name = if path == Path::new("-") {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    };
    let mut bytes = Vec::new();
    let read = |bytes: &mut Vec<u8>| match path == Path::new("-") {
        true => std::io::stdin()
            .lock()
            .take(MAX_INPUT_BYTES + 1)
            .read_to_end(bytes),
        false => std::fs::File::open(path)?
            .take(MAX_INPUT_BYTES + 1)
            .read_to_end(bytes),
    };
    read(&mut bytes).with_context(|| format!("cannot read {name}"))?;
    anyhow::ensure!(
        bytes.len() as u64 <= MAX_INPUT_BYTES,
        "{name} has more than {MAX_INPUT_BYTES} bytes"
    );
    String::from_utf8(bytes).with_context(|| format!("{name} is not UTF-8 text"))
}

/// The list in a JSON file.
fn read_list(path: &Path) -> anyhow::Result<Vec<Value>> {
    serde_json::from_str(&read_text(path)?)
        .with_context(|| format!("{} is not a JSON list", path.display()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn parse(arguments: &[&str]) -> Result<Args, clap::Error> {
        match Cli::try_parse_from(["jetblock", "generate"].iter().chain(arguments))?.command {
            Command::Generate(args) => Ok(*args),
            other => panic!("parsed as {other:?}"),
        }
    }

    fn chat(arguments: &[&str]) -> ChatRequest {
        match parse(arguments).unwrap().prompt().unwrap() {
            Prompt::Chat(request) => *request,
            Prompt::Text(text) => panic!("raw text {text:?}"),
        }
    }

    #[test]
    fn prompts_are_raw_text_by_default() {
        let args = parse(&["--prompt", "Once"]).unwrap();
        assert!(matches!(args.prompt().unwrap(), Prompt::Text(text) if text == "Once"));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "Twice\n").unwrap();
        let args = parse(&["--prompt-file", file.path().to_str().unwrap()]).unwrap();
        assert!(matches!(args.prompt().unwrap(), Prompt::Text(text) if text == "Twice\n"));
        std::fs::write(file.path(), b"\xff").unwrap();
        assert!(
            args.prompt()
                .unwrap_err()
                .to_string()
                .ends_with("is not UTF-8 text")
        );
    }

    #[test]
    fn messages_are_put_in_order() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            r#"[{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]"#,
        )
        .unwrap();
        let path = file.path().to_str().unwrap();
        let request = chat(&[
            "--chat",
            "--prompt",
            "5",
            "--message",
            "user:3:",
            "--message",
            "assistant:4",
            "--messages",
            path,
            "--system",
            "0",
        ]);
        let contents: Vec<&str> = request
            .messages
            .iter()
            .map(|m| m["content"].as_str().unwrap())
            .collect();
        assert_eq!(contents, ["0", "1", "2", "3:", "4", "5"]);
        assert_eq!(
            (request.add_generation_prompt, request.enable_thinking),
            (true, None)
        );
    }

    #[test]
    fn chat_options_reach_the_template() {
        let request = chat(&[
            "--chat",
            "-p",
            "x",
            "--no-thinking",
            "--template-arg",
            "effort=\"low\"",
            "--now",
            "2026-11-23",
        ]);
        assert_eq!(request.enable_thinking, Some(false));
        assert_eq!(request.kwargs["effort"], "low");
        assert_eq!(request.now, Some("2026-11-23".parse().unwrap()));
        assert_eq!(
            chat(&["--chat", "-p", "x", "--thinking"]).enable_thinking,
            Some(true)
        );
    }

    #[test]
    fn contradictions_are_errors() {
        for bad in [
            &["--prompt", "a", "--prompt-file", "b"][..],
            &["--system", "a"],
            &["--chat", "--thinking", "--no-thinking"],
            &["--chat", "--message", "Hello"],
            &["--chat", "--template-arg", "a"],
            &["--chat", "--template-arg", "a=b"],
            &["--chat", "--now", "today"],
            &["--logit-bias", "1:2"],
            &["--n", "0"],
            &["--operands", "f16"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sampling_options_go_over_the_models_defaults() {
        let args = parse(&[
            "--temperature",
            "0",
            "--presence-penalty",
            "-0.5",
            "--logit-bias",
            "3=-1.5",
        ])
        .unwrap();
        let defaults = SamplingParams {
            top_p: 0.95,
            temperature: 0.7,
            ..SamplingParams::default()
        };
        let expected = SamplingParams {
            top_p: 0.95,
            temperature: 0.0,
            presence_penalty: -0.5,
            logit_bias: vec![(3, -1.5)],
            ..SamplingParams::default()
        };
        assert_eq!(args.sampling.over(defaults), expected);
    }

    #[test]
    fn length_is_asked_recommended_or_standard() {
        let recommended = GenerationConfig {
            max_new_tokens: Some(7),
            ..GenerationConfig::default()
        };
        assert_eq!(
            parse(&["--max-tokens", "3"])
                .unwrap()
                .max_tokens(&recommended),
            3
        );
        assert_eq!(parse(&[]).unwrap().max_tokens(&recommended), 7);
        assert_eq!(
            parse(&[]).unwrap().max_tokens(&GenerationConfig::default()),
            DEFAULT_MAX_TOKENS
        );
    }
}
