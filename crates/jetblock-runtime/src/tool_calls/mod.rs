//! Function calls in a model's output.
//!
//! Each format has one reading. Output that departs from it, names a tool or parameter that the request does not
//! have, or gives a value that is not of the parameter's type is an error with the text as it came, never a guess.

mod list;
mod schema;
#[cfg(test)]
mod tests;
mod xml;

use serde::Serialize;
use serde_json::Value;

use crate::{FunctionCall, StopMatcher, ToolCall};
use schema::Tools;

/// How calls are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolCallFormat {
    /// Nemotron 3, Qwen3-Coder: `<tool_call><function=NAME><parameter=P>VALUE</parameter>...</function></tool_call>`,
    /// one element for each call.
    Xml,
    /// Nemotron Nano v2: `<TOOLCALL>[{"name": ..., "arguments": {...}}, ...]</TOOLCALL>`.
    List,
}

/// Output in which calls cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("malformed tool call: {reason}")]
pub struct ToolCallError {
    /// What was expected and what was found.
    pub reason: String,
    /// The output from the first call on.
    pub raw: String,
}

impl ToolCallFormat {
    /// The format in which a prompt shows a call of the function `name`.
    pub(crate) fn of_prompt(prompt: &str, name: &str) -> Option<ToolCallFormat> {
        let after = |open: &str| prompt.rsplit_once(open).map(|(_, call)| call.trim_start());
        if after("<tool_call>").is_some_and(|call| call.starts_with(&format!("<function={name}>")))
        {
            return Some(ToolCallFormat::Xml);
        }
        let is_list = |call: &str| call.starts_with("[{") && call.contains(name);
        after("<TOOLCALL>")
            .is_some_and(is_list)
            .then_some(ToolCallFormat::List)
    }

    /// What opens and what closes a call.
    pub fn markers(self) -> [&'static str; 2] {
        match self {
            ToolCallFormat::Xml => ["<tool_call>", "</tool_call>"],
            ToolCallFormat::List => ["<TOOLCALL>", "</TOOLCALL>"],
        }
    }

    /// The calls in an answer, in order; `text` begins with the first call. `tools` are those of the request.
    pub fn parse(self, text: &str, tools: &[Value]) -> Result<Vec<ToolCall>, ToolCallError> {
        let tools = Tools::new(tools);
        let mut scanner = Scanner { rest: text };
        let mut read = || {
            let [open, close] = self.markers();
            let mut calls = Vec::new();
            scanner.space();
            while !scanner.rest.is_empty() {
                scanner.expect(open)?;
                match self {
                    ToolCallFormat::Xml => calls.push(xml::function(&mut scanner, &tools)?),
                    ToolCallFormat::List => calls.extend(list::functions(&mut scanner, &tools)?),
                }
                scanner.space();
                scanner.expect(close)?;
                scanner.space();
            }
            Ok(calls)
        };
        let calls: Vec<FunctionCall> = read().map_err(|reason: String| ToolCallError {
            reason,
            raw: text.to_owned(),
        })?;
        let numbered = calls.into_iter().enumerate();
        Ok(numbered
            .map(|(index, function)| ToolCall {
                id: Some(format!("call_{index}")),
                kind: "function".into(),
                function,
            })
            .collect())
    }
}

/// Parts an answer that arrives in pieces into its text and its calls.
#[derive(Clone, Debug)]
pub struct ToolCallSplitter {
    format: ToolCallFormat,
    /// Looks for the first call.
    open: StopMatcher,
    /// The answer from there on.
    raw: String,
}

impl ToolCallSplitter {
    /// A splitter for answers that write calls in this format.
    pub fn new(format: ToolCallFormat) -> ToolCallSplitter {
        let [open, _] = format.markers();
        ToolCallSplitter {
            format,
            open: StopMatcher::new([open]).expect("the marker is a valid stop string"),
            raw: String::new(),
        }
    }

    /// Takes more of the answer; returns what is certain to stand before the first call.
    pub fn push(&mut self, text: &str) -> String {
        if self.open.found().is_some() {
            self.raw.push_str(text);
            return String::new();
        }
        let (before, after) = self.open.push_until(text);
        if let Some(after) = after {
            let [open, _] = self.format.markers();
            self.raw = format!("{open}{after}");
        }
        before
    }

    /// The text that was held back, and the calls.
    pub fn finish(&mut self, tools: &[Value]) -> (String, Result<Vec<ToolCall>, ToolCallError>) {
        let calls = self.format.parse(&self.raw, tools);
        (self.open.finish(), calls)
    }
}

/// Text that is read from front to back.
struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    /// Skips whitespace.
    fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// Takes `text` if it comes next.
    fn take(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, text: &str) -> Result<(), String> {
        match self.take(text) {
            true => Ok(()),
            false => Err(format!("expected {text}, got {}", self.shown())),
        }
    }

    /// What stands before `end`, which is taken too.
    fn until(&mut self, end: &str) -> Result<&'a str, String> {
        let (before, rest) = self
            .rest
            .split_once(end)
            .ok_or_else(|| format!("expected {end}, got the end of the output"))?;
        self.rest = rest;
        Ok(before)
    }

    /// The next characters, for errors.
    fn shown(&self) -> String {
        if self.rest.is_empty() {
            return "the end of the output".into();
        }
        let text: String = self.rest.chars().take(24).collect();
        format!("{text:?}")
    }
}
