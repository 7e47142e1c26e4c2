//! Cascade mode: a model that thinks before it answers, or does not, as the request says.
//!
//! Each generation of Nemotron has a switch of its own, and the other's is plain text to it:
//!
//! | templates of | thinking is switched by |
//! |---|---|
//! | Nemotron 3 | the variable `enable_thinking`; 3.5 also has `medium_effort`, which asks for short reasoning |
//! | Nemotron Nano v2, Nemotron-H reasoning | `/think` or `/no_think` in a system or user message; the last one counts |
//!
//! Which switch a template has is found out by using it: small conversations are rendered with and without.
//! A request names what it wants ([`Think`]) and gets it by the right switch; what would have no effect is an error.

use serde_json::{Value, json};

use crate::chat_template::ChatRequest;
use crate::tool_calls::ToolCallFormat;
use crate::{ChatTemplate, CivilTime, Message, THINK_END, prompt_opens_thinking};

const VARIABLE: &str = "enable_thinking";
const MEDIUM: &str = "medium_effort";
const ON: &str = "/think";
const OFF: &str = "/no_think";

/// Whether the model thinks before it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Think {
    /// It thinks.
    On,
    /// It answers at once.
    Off,
    /// It thinks briefly.
    Medium,
}

impl std::fmt::Display for Think {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Think::On => "on",
            Think::Off => "off",
            Think::Medium => "medium",
        })
    }
}

/// How a template is told whether to think.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThinkSwitch {
    /// By `enable_thinking` (Nemotron 3).
    Variable,
    /// By `/think` and `/no_think` in messages (Nemotron Nano v2).
    Markers,
    /// Not at all.
    None,
}

/// What a chat template can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cascade {
    /// Its switch for thinking.
    pub switch: ThinkSwitch,
    /// Whether a prompt that thinks opens the think block itself. Where it does not, the model decides, and may well
    /// follow words in messages (Qwen 3 does).
    pub opens_thinking: bool,
    /// Whether it has `medium_effort`.
    pub medium_effort: bool,
    /// Whether it shows tools to the model.
    pub tools: bool,
    /// How it writes the calls of an assistant, if that is a format that can be read back.
    pub tool_calls: Option<ToolCallFormat>,
}

/// Why a request cannot have what it asks for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CascadeError {
    /// The template cannot switch thinking.
    #[error(
        "think is {asked}, but the model's chat template has no switch for it: neither the variable {VARIABLE} nor {ON} and {OFF} in messages change its prompt"
    )]
    NoSwitch {
        /// The request.
        asked: Think,
    },
    /// The template has no medium effort.
    #[error(
        "think is medium, but the model's chat template has no {MEDIUM}, expected on or off (or a thinking budget)"
    )]
    NoMediumEffort,
    /// A marker of the other generation.
    #[error(
        "messages[{index}] contains {marker}, which is plain text to this model: its chat template switches thinking by {VARIABLE}. Ask with think (--think on|off), or mark the text as literal (--literal-markers)"
    )]
    MarkerIsText {
        /// The message.
        index: usize,
        /// What it contains.
        marker: &'static str,
    },
    /// A variable that the template does not read.
    #[error(
        "the variable {name} has no effect on the model's chat template, {}", expected_instead(*switch)
    )]
    NoSuchVariable {
        /// The variable.
        name: &'static str,
        /// What the template has.
        switch: ThinkSwitch,
    },
    /// Message and request disagree.
    #[error("messages[{index}] says {marker}, but think is {asked}")]
    Contradiction {
        /// The message.
        index: usize,
        /// What it contains.
        marker: &'static str,
        /// The request.
        asked: Think,
    },
    /// The template has the switch and did not follow it here.
    #[error("think is {asked}, but the prompt ends in {end:?}")]
    NotObeyed {
        /// The request.
        asked: Think,
        /// The last characters of the prompt.
        end: String,
    },
    /// The template ignores tools.
    #[error("the request has tools, but the model's chat template does not show them to the model")]
    NoTools,
}

fn expected_instead(switch: ThinkSwitch) -> &'static str {
    match switch {
        ThinkSwitch::Variable => "which has enable_thinking only",
        ThinkSwitch::Markers => {
            "which reads /think and /no_think in messages. Ask with think (--think on|off)"
        }
        ThinkSwitch::None => "which has no switch for thinking",
    }
}

/// Whether a request has anything that a template may be unable to do; most have not, and nothing is tried for them.
pub(crate) fn is_asked(request: &ChatRequest) -> bool {
    request.think.is_some()
        || !request.tools.is_empty()
        || [VARIABLE, MEDIUM]
            .iter()
            .any(|name| request.kwargs.contains_key(*name))
        || last_marker(&request.messages).is_some()
}

impl Cascade {
    /// Finds out what the template that this request uses can do.
    pub fn detect(template: &ChatTemplate, request: &ChatRequest) -> Cascade {
        let probe = Probe {
            template,
            name: template.template_name(request).ok(),
        };
        let variable = |name: &str, value: bool| {
            let mut request = probe.request("x");
            request.kwargs.insert(name.into(), value.into());
            probe.render(&request)
        };
        let differ = |a: &Option<String>, b: &Option<String>| a.is_some() && b.is_some() && a != b;
        let marked = |marker: &str| probe.render(&probe.request(&format!("x {marker}")));
        let (on, off) = (marked(ON), marked(OFF));
        let removed = |prompt: &Option<String>, marker: &str| {
            prompt.as_ref().is_some_and(|text| !text.contains(marker))
        };
        let (with, without) = (variable(VARIABLE, true), variable(VARIABLE, false));
        let switch = if differ(&with, &without) {
            ThinkSwitch::Variable
        } else if differ(&on, &off) && removed(&on, ON) && removed(&off, OFF) {
            ThinkSwitch::Markers
        } else {
            ThinkSwitch::None
        };
        let mut with_tools = probe.request("x");
        with_tools.tools = vec![probe_tool()];
        let shown = probe.render(&with_tools);
        Cascade {
            switch,
            opens_thinking: [with, on]
                .iter()
                .flatten()
                .any(|p| prompt_opens_thinking(p)),
            medium_effort: differ(&variable(MEDIUM, true), &variable(MEDIUM, false)),
            tools: shown.is_some_and(|text| text.contains(PROBE)),
            tool_calls: probe
                .render(&probe.call())
                .and_then(|prompt| ToolCallFormat::of_prompt(&prompt, PROBE)),
        }
    }

    /// The request with its [`Think`] turned into what the template reads.
    pub(crate) fn apply(&self, request: &ChatRequest) -> Result<ChatRequest, CascadeError> {
        self.check_variables(request)?;
        if !request.tools.is_empty() && !self.tools {
            return Err(CascadeError::NoTools);
        }
        let last = last_marker(&request.messages);
        if self.switch == ThinkSwitch::Variable
            && self.opens_thinking
            && !request.literal_markers
            && let Some((index, marker)) = last
        {
            return Err(CascadeError::MarkerIsText { index, marker });
        }
        let mut request = request.clone();
        let Some(asked) = request.think else {
            return Ok(request);
        };
        if asked == Think::Medium && !self.medium_effort {
            return Err(CascadeError::NoMediumEffort);
        }
        match self.switch {
            ThinkSwitch::None => return Err(CascadeError::NoSwitch { asked }),
            ThinkSwitch::Variable => {
                let mut set = |name: &str, value: bool| {
                    request.kwargs.insert(name.to_owned(), value.into());
                };
                set(VARIABLE, asked != Think::Off);
                if asked == Think::Medium {
                    set(MEDIUM, true);
                }
            }
            ThinkSwitch::Markers => {
                let wanted = if asked == Think::Off { OFF } else { ON };
                match last {
                    Some((_, marker)) if marker == wanted => {}
                    Some((index, marker)) => {
                        return Err(CascadeError::Contradiction {
                            index,
                            marker,
                            asked,
                        });
                    }
                    None => add_marker(&mut request.messages, wanted),
                }
            }
        }
        Ok(request)
    }

    /// Variables that the template does not read would be dropped without a word.
    fn check_variables(&self, request: &ChatRequest) -> Result<(), CascadeError> {
        let switch = self.switch;
        let no_such = |name| Err(CascadeError::NoSuchVariable { name, switch });
        if request.kwargs.contains_key(VARIABLE) && switch != ThinkSwitch::Variable {
            return no_such(VARIABLE);
        }
        if request.kwargs.get(MEDIUM) == Some(&Value::Bool(true)) && !self.medium_effort {
            return no_such(MEDIUM);
        }
        Ok(())
    }
}

/// Checks that a rendered prompt is what was asked for.
pub(crate) fn check_obeyed(request: &ChatRequest, prompt: &str) -> Result<(), CascadeError> {
    let Some(asked) = request.think.filter(|_| request.add_generation_prompt) else {
        return Ok(());
    };
    let obeyed = match asked {
        Think::Off => !prompt_opens_thinking(prompt),
        // Some templates leave it to the model to open the block.
        Think::On | Think::Medium => !prompt.trim_end().ends_with(THINK_END),
    };
    if obeyed {
        return Ok(());
    }
    let start = prompt.char_indices().rev().nth(29).map_or(0, |(at, _)| at);
    let end = prompt[start..].to_owned();
    Err(CascadeError::NotObeyed { asked, end })
}

/// The last system or user message with a marker that stands as a word of its own, and the marker.
fn last_marker(messages: &[Value]) -> Option<(usize, &'static str)> {
    let of_text = |text: &str| {
        let mut words = text.split_whitespace().rev();
        words.find_map(|word| [ON, OFF].into_iter().find(|marker| word == *marker))
    };
    let of_message = |message: &Value| match &message["content"] {
        Value::String(text) => of_text(text),
        Value::Array(parts) => parts
            .iter()
            .rev()
            .filter_map(|part| part.as_str().or(part["text"].as_str()))
            .find_map(of_text),
        _ => None,
    };
    let marked = |(index, message): (usize, &Value)| {
        matches!(message["role"].as_str(), Some("system" | "user"))
            .then(|| of_message(message))?
            .map(|marker| (index, marker))
    };
    messages.iter().enumerate().rev().find_map(marked)
}

/// Puts a marker where NVIDIA's model cards have it: into the system message.
fn add_marker(messages: &mut Vec<Value>, marker: &str) {
    let Some(system) = messages.first_mut().filter(|m| m["role"] == "system") else {
        messages.insert(0, Message::new("system", marker).into());
        return;
    };
    match &mut system["content"] {
        Value::String(text) if text.is_empty() => *text = marker.into(),
        Value::String(text) => *text = format!("{text} {marker}"),
        Value::Array(parts) => parts.push(json!({"type": "text", "text": marker})),
        other => *other = marker.into(),
    }
}

/// A name that no template contains.
const PROBE: &str = "jetblock_probe";

fn probe_tool() -> Value {
    json!({"type": "function", "function": {"name": PROBE, "description": "x",
        "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}})
}

/// Renders small conversations; what a template refuses counts as something it cannot do.
struct Probe<'a> {
    template: &'a ChatTemplate,
    name: Option<&'a str>,
}

impl Probe<'_> {
    fn request(&self, text: &str) -> ChatRequest {
        ChatRequest {
            template: self.name.map(str::to_owned),
            // Any time does: the same one is printed in every probe.
            now: "2000-01-01".parse::<CivilTime>().ok(),
            ..ChatRequest::new([Message::new("user", text)])
        }
    }

    /// A conversation in which the assistant has made a call.
    fn call(&self) -> ChatRequest {
        let mut request = self.request("x");
        request.tools = vec![probe_tool()];
        request.messages.push(json!({"role": "assistant", "content": "", "tool_calls": [
            {"id": "call_00000", "type": "function", "function": {"name": PROBE, "arguments": {"a": "b"}}}]}));
        request.messages.push(
            json!({"role": "tool", "content": "c", "name": PROBE, "tool_call_id": "call_00000"}),
        );
        request
    }

    fn render(&self, request: &ChatRequest) -> Option<String> {
        self.template.render_as_is(request).ok()
    }
}
