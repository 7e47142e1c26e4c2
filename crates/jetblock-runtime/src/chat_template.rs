//! Messages to prompt: renders the checkpoint's own Jinja template with the conventions of Hugging Face Transformers.
//!
//! Templates are written for Jinja2 inside Transformers, so this follows both: blocks are trimmed, `tojson` writes
//! what `json.dumps` writes, Python's string and dict methods exist, special tokens, `tools`, `documents` and
//! `add_generation_prompt` are variables. Two things differ on purpose:
//!
//! * `strftime_now` prints the time given in the request and fails without one; the clock is never read.
//! * A render has a budget ([`FUEL`]) and a recursion limit, so that loops, recursion and growing texts end in an
//!   error. The budget does not cover values nested into each other until they spell out to something huge: a
//!   template belongs to the checkpoint and deserves the same trust; requests bring variables only, never code.

use std::collections::BTreeMap;
use std::path::Path;

use minijinja::value::{Kwargs, Serde, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value as Jinja, syntax::SyntaxConfig};
use serde_json::{Map, Value};

use crate::cascade::{Cascade, Think, check_obeyed, is_asked};
use crate::civil_time::CivilTime;
use crate::error::{catch_panic, read_optional_file};
use crate::message::normalize;
use crate::python_json::{DumpOptions, dumps};
use crate::{TextError, TokenizerConfig};

/// The file's name in a model folder; it goes before the template in `tokenizer_config.json`.
pub const CHAT_TEMPLATE_FILE: &str = "chat_template.jinja";

/// The folder with further templates, `NAME.jinja`, beside the default one.
pub const ADDITIONAL_TEMPLATES_FOLDER: &str = "additional_chat_templates";

/// The budget of one render: instructions, and 64 bytes of text made or passed through a filter, cost 1 each.
pub const FUEL: u64 = 2_000_000;

const MAX_TEMPLATE_BYTES: u64 = 4 << 20;
const MAX_DEPTH: usize = 200;

/// The chat templates of a model.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    names: Vec<String>,
    special_tokens: BTreeMap<&'static str, String>,
}

/// What a prompt is made of.
#[derive(Clone, Debug, Default)]
pub struct ChatRequest {
    /// The messages, as [`Message`](crate::Message) or as raw JSON objects with a `role`.
    pub messages: Vec<Value>,
    /// Tool descriptions in the OpenAI format (`{"type": "function", "function": {...}}`).
    pub tools: Vec<Value>,
    /// Documents for templates that quote them.
    pub documents: Vec<Value>,
    /// Whether the prompt ends with the header of the assistant's turn.
    pub add_generation_prompt: bool,
    /// Whether the model thinks before it answers, by the template's own switch; `None` leaves it to the template.
    pub think: Option<Think>,
    /// Whether `/think` and `/no_think` in messages may be mere text; otherwise they are refused where they are.
    pub literal_markers: bool,
    /// Further variables of the template, such as `truncate_history_thinking`. They win over the standard ones.
    pub kwargs: Map<String, Value>,
    /// The template's name; `None` takes `tool_use` for requests with tools where it exists, else `default`.
    pub template: Option<String>,
    /// What `strftime_now` prints.
    pub now: Option<CivilTime>,
}

impl ChatRequest {
    /// A request for the assistant's next turn.
    pub fn new(messages: impl IntoIterator<Item = impl Into<Value>>) -> ChatRequest {
        let messages = messages.into_iter().map(Into::into).collect();
        ChatRequest {
            messages,
            add_generation_prompt: true,
            ..ChatRequest::default()
        }
    }
}

impl ChatTemplate {
    /// Loads the templates of a model folder, `None` if it has none.
    pub fn open(
        folder: &Path,
        config: &TokenizerConfig,
    ) -> Result<Option<ChatTemplate>, TextError> {
        let mut sources = config.chat_templates.clone();
        let default = folder.join(CHAT_TEMPLATE_FILE);
        if let Some(bytes) = read_optional_file(&default, MAX_TEMPLATE_BYTES)? {
            sources.insert("default".into(), utf8(CHAT_TEMPLATE_FILE, bytes)?);
        }
        if let Ok(entries) = std::fs::read_dir(folder.join(ADDITIONAL_TEMPLATES_FOLDER)) {
            for entry in entries.flatten() {
                let path = entry.path();
                let (Some(name), Some("jinja")) = (
                    path.file_stem().and_then(|s| s.to_str()),
                    path.extension().and_then(|s| s.to_str()),
                ) else {
                    continue;
                };
                if let Some(bytes) = read_optional_file(&path, MAX_TEMPLATE_BYTES)? {
                    sources.insert(name.into(), utf8(name, bytes)?);
                }
            }
        }
        if sources.is_empty() {
            return Ok(None);
        }
        ChatTemplate::new(sources, config).map(Some)
    }

    /// A model with one template.
    pub fn from_source(
        source: impl Into<String>,
        config: &TokenizerConfig,
    ) -> Result<ChatTemplate, TextError> {
        ChatTemplate::new(BTreeMap::from([("default".into(), source.into())]), config)
    }

    /// Parses templates by name.
    pub fn new(
        sources: BTreeMap<String, String>,
        config: &TokenizerConfig,
    ) -> Result<ChatTemplate, TextError> {
        let mut environment = environment();
        let names = sources.keys().cloned().collect();
        for (name, source) in sources {
            let source = without_generation_tags(&source);
            catch_panic(|| environment.add_template_owned(name, source))
                .map_err(panicked)?
                .map_err(failed)?;
        }
        Ok(ChatTemplate {
            environment,
            names,
            special_tokens: config.special_tokens.clone(),
        })
    }

    /// The names of the templates.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The prompt, to be encoded with [`AddSpecialTokens::No`](crate::AddSpecialTokens::No).
    pub fn render(&self, request: &ChatRequest) -> Result<String, TextError> {
        if !is_asked(request) {
            return self.render_as_is(request);
        }
        self.template_name(request)?;
        let request = Cascade::detect(self, request).apply(request)?;
        let prompt = self.render_as_is(&request)?;
        check_obeyed(&request, &prompt)?;
        Ok(prompt)
    }

    /// Renders without a look at [`ChatRequest::think`] and at what the template can do.
    pub(crate) fn render_as_is(&self, request: &ChatRequest) -> Result<String, TextError> {
        let name = self.template_name(request)?;
        let template = self.environment.get_template(name).map_err(failed)?;
        let variables = self.variables(request)?;
        catch_panic(|| template.render(variables))
            .map_err(panicked)?
            .map_err(failed)
    }

    /// The name of the template that a request uses.
    pub(crate) fn template_name<'a>(
        &'a self,
        request: &'a ChatRequest,
    ) -> Result<&'a str, TextError> {
        let has = |name: &str| self.names.iter().any(|have| have == name);
        match &request.template {
            Some(name) if has(name) => Ok(name),
            None if !request.tools.is_empty() && has("tool_use") => Ok("tool_use"),
            None if has("default") => Ok("default"),
            None if self.names.len() == 1 => Ok(&self.names[0]),
            name => Err(TextError::UnknownChatTemplate {
                name: name.as_deref().unwrap_or("default").into(),
                have: self.names.clone(),
            }),
        }
    }

    fn variables(&self, request: &ChatRequest) -> Result<Jinja, TextError> {
        let messages: Vec<Value> = request
            .messages
            .iter()
            .enumerate()
            .map(|(i, message)| normalize(i, message))
            .collect::<Result<_, _>>()?;
        let list_or_none = |list: &[Value]| {
            if list.is_empty() {
                Value::Null
            } else {
                list.into()
            }
        };
        let mut variables: BTreeMap<&str, Jinja> = BTreeMap::new();
        for (role, text) in &self.special_tokens {
            variables.insert(role, Jinja::from(text.as_str()));
        }
        variables.insert("messages", Jinja::from(Serde(messages)));
        variables.insert("tools", Jinja::from(Serde(list_or_none(&request.tools))));
        variables.insert(
            "documents",
            Jinja::from(Serde(list_or_none(&request.documents))),
        );
        variables.insert(
            "add_generation_prompt",
            request.add_generation_prompt.into(),
        );
        let now = request.now;
        let strftime_now = move |format: &str| match now {
            Some(now) => now
                .strftime(format)
                .map_err(|e| Error::new(ErrorKind::InvalidOperation, e)),
            None => Err(Error::new(ErrorKind::InvalidOperation, NO_TIME)),
        };
        variables.insert("strftime_now", Jinja::from_function(strftime_now));
        for (name, value) in &request.kwargs {
            variables.insert(name, Jinja::from(Serde(value)));
        }
        Ok(Jinja::from_pairs(variables))
    }
}

const NO_TIME: &str =
    "strftime_now: the template prints the current time, which must be given with the request";

/// Marks the error of `raise_exception` among those of the engine.
const REFUSED: &str = "raise_exception: ";

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build();
    environment.set_syntax(syntax.expect("the standard delimiters are valid"));
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(|state, value, method, args| {
        state.consume_fuel(method_cost(value, method, args))?;
        minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
    });
    environment.set_recursion_limit(MAX_DEPTH);
    environment.set_fuel(Some(FUEL));
    environment.add_filter("tojson", tojson);
    // Jinja2's answers: `none` cannot be iterated, texts and mappings are sequences, an undefined value is an empty one.
    environment.add_test("iterable", |value: &Jinja| {
        is_sequence(value) || value.kind() == ValueKind::Iterable
    });
    environment.add_test("sequence", is_sequence);
    environment.add_function("raise_exception", |message: &str| -> Result<Jinja, Error> {
        Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("{REFUSED}{message}"),
        ))
    });
    environment
}

fn is_sequence(value: &Jinja) -> bool {
    use ValueKind::{Bytes, Map, Seq, String, Undefined};
    matches!(value.kind(), Bytes | Map | Seq | String | Undefined)
}

/// What a Python method costs at most: one for every 64 bytes or items that it reads or makes.
fn method_cost(value: &Jinja, method: &str, args: &[Jinja]) -> u64 {
    let len = |value: &Jinja| {
        value
            .as_str()
            .map_or_else(|| value.len().unwrap_or(0), str::len) as u64
    };
    let work = match (method, args) {
        ("replace", [from, to, ..]) => (len(value) / len(from).max(1) + 1).saturating_mul(len(to)),
        ("join", [items, ..]) => len(items).saturating_mul(len(value)),
        _ => 0,
    };
    len(value).saturating_add(work) / 64
}

/// The `tojson` of Transformers: `json.dumps`, nothing escaped for HTML.
fn tojson(
    state: &State,
    value: &Jinja,
    ensure_ascii: Option<bool>,
    indent: Option<Jinja>,
    kwargs: Kwargs,
) -> Result<Jinja, Error> {
    let invalid =
        |message: String| Error::new(ErrorKind::InvalidOperation, format!("tojson: {message}"));
    let mut options = DumpOptions::default();
    if let Some(ensure_ascii) = ensure_ascii.or(kwargs.get("ensure_ascii")?) {
        options.ensure_ascii = ensure_ascii;
    }
    if let Some(indent) = indent
        .or(kwargs.get("indent")?)
        .filter(|v: &Jinja| !v.is_none())
    {
        let spaces = usize::try_from(indent.clone()).map(|n| " ".repeat(n.min(MAX_INDENT)));
        options.indent = Some(spaces.unwrap_or_else(|_| indent.to_string()));
        options.item_separator = ",".into();
    }
    if let Some(separators) = kwargs.get::<Option<Vec<String>>>("separators")? {
        let Ok([item, key]) = <[String; 2]>::try_from(separators) else {
            return Err(invalid("separators are two texts".into()));
        };
        (options.item_separator, options.key_separator) = (item, key);
    }
    options.sort_keys = kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    kwargs.assert_all_used()?;
    let text = dumps(value, &options).map_err(invalid)?;
    state.consume_fuel(text.len() as u64 / 4)?;
    Ok(Jinja::from(text))
}

/// Wider indentation would only serve to make the text huge.
const MAX_INDENT: usize = 64;

/// Transformers marks the assistant's text with `{% generation %}` blocks for training; they print nothing.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start + 2);
        out.push_str(before);
        rest = tag;
        let Some(end) = tag.find("%}") else { break };
        let name = tag[..end].trim_matches(['-', '+']).trim();
        // A tag with the same effect on the whitespace around it.
        let replacement = match name {
            "generation" => "if true",
            "endgeneration" => "endif",
            _ => continue,
        };
        out.push_str(&tag[..end].replacen(name, replacement, 1));
        rest = &tag[end..];
    }
    out.push_str(rest);
    out
}

fn utf8(file: &str, bytes: Vec<u8>) -> Result<String, TextError> {
    String::from_utf8(bytes)
        .map_err(|e| TextError::value(format!("the text of {file}"), "UTF-8", e.utf8_error()))
}

fn failed(source: Error) -> TextError {
    // Errors inside macros and includes arrive wrapped.
    let mut error: &dyn std::error::Error = &source;
    loop {
        let refused = error
            .downcast_ref::<Error>()
            .and_then(Error::detail)
            .and_then(|text| text.strip_prefix(REFUSED));
        if let Some(message) = refused {
            return TextError::Refused {
                message: message.into(),
            };
        }
        match error.source() {
            Some(next) => error = next,
            None => {
                return TextError::ChatTemplate {
                    source: Box::new(source),
                };
            }
        }
    }
}

fn panicked(message: String) -> TextError {
    failed(Error::new(ErrorKind::InvalidOperation, message))
}
