//! The options that make a prompt: text, messages, tools.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context;
use jetblock_runtime::{ChatRequest, CivilTime, Message, Prompt, Think};
use serde_json::{Map, Value};

/// Files with prompts and messages are read whole.
const MAX_INPUT_BYTES: u64 = 64 << 20;

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
    /// Whether the model thinks before it answers, by its template's own switch [default: the template's]
    #[arg(long, value_name = "MODE", requires = "chat")]
    pub(crate) think: Option<ThinkMode>,
    /// Pass /think and /no_think in messages on as text where they switch nothing
    #[arg(long, requires = "chat")]
    pub(crate) literal_markers: bool,
    /// A further variable of the template, its value in JSON; may be repeated
    #[arg(long, value_name = "NAME=JSON", requires = "chat")]
    pub(crate) template_arg: Vec<Assignment>,
    /// Date (and time) for templates that print it, such as 2026-11-23; the clock is never read
    #[arg(long, value_name = "DATE", requires = "chat")]
    pub(crate) now: Option<CivilTime>,
}

/// Ways to think, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ThinkMode {
    On,
    Off,
    Medium,
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

/// Text or messages, from the options or from standard input.
pub(super) fn prompt(prompt: &PromptArgs, chat: &ChatArgs) -> anyhow::Result<Prompt> {
    let given = prompt.text()?;
    if !chat.chat {
        let text = given.map_or_else(|| read_text(Path::new("-")), Ok)?;
        return Ok(Prompt::Text(text));
    }
    let mut request = chat.request()?;
    let has_messages = chat.messages.is_some() || !chat.message.is_empty();
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
        request.think = self.think.map(|mode| match mode {
            ThinkMode::On => Think::On,
            ThinkMode::Off => Think::Off,
            ThinkMode::Medium => Think::Medium,
        });
        request.literal_markers = self.literal_markers;
        let arguments = self
            .template_arg
            .iter()
            .map(|Assignment(name, value)| (name.clone(), value.clone()));
        request.kwargs = arguments.collect::<Map<_, _>>();
        request.now = self.now;
        Ok(request)
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
    use super::super::tests::parse;
    use super::*;

    fn prompt_of(arguments: &[&str]) -> Prompt {
        let args = parse(arguments).unwrap();
        prompt(&args.prompt, &args.chat).unwrap()
    }

    fn chat(arguments: &[&str]) -> ChatRequest {
        match prompt_of(arguments) {
            Prompt::Chat(request) => *request,
            Prompt::Text(text) => panic!("raw text {text:?}"),
        }
    }

    #[test]
    fn prompts_are_raw_text_by_default() {
        assert!(matches!(prompt_of(&["--prompt", "Once"]), Prompt::Text(text) if text == "Once"));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "Twice\n").unwrap();
        let arguments = ["--prompt-file", file.path().to_str().unwrap()];
        assert!(matches!(prompt_of(&arguments), Prompt::Text(text) if text == "Twice\n"));
        std::fs::write(file.path(), b"\xff").unwrap();
        let args = parse(&arguments).unwrap();
        let error = prompt(&args.prompt, &args.chat).unwrap_err().to_string();
        assert!(error.ends_with("is not UTF-8 text"));
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
        assert_eq!((request.add_generation_prompt, request.think), (true, None));
    }

    #[test]
    fn chat_options_reach_the_template() {
        let request = chat(&[
            "--chat",
            "-p",
            "x",
            "--think",
            "off",
            "--literal-markers",
            "--template-arg",
            "effort=\"low\"",
            "--now",
            "2026-11-23",
        ]);
        assert_eq!(
            (request.think, request.literal_markers),
            (Some(Think::Off), true)
        );
        assert_eq!(request.kwargs["effort"], "low");
        assert_eq!(request.now, Some("2026-11-23".parse().unwrap()));
        for (name, think) in [("on", Think::On), ("medium", Think::Medium)] {
            assert_eq!(
                chat(&["--chat", "-p", "x", "--think", name]).think,
                Some(think)
            );
        }
        assert_eq!(chat(&["--chat", "-p", "x"]).think, None);
    }
}
