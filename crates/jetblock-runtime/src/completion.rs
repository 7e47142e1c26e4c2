//! From the tokens of one sample to what is read: reasoning, answer, calls.

use serde::Serialize;
use serde_json::Value;

use crate::engine::{Event, FinishReason, RequestId, TokenRecord};
use crate::{
    Cascade, Delta, Prompt, ReasoningSplitter, Session, SessionError, SkipSpecialTokens,
    StopMatcher, StreamDecoder, THINK_END, TextRequest, ToolCall, ToolCallError, ToolCallSplitter,
};

/// One finished sample.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Completion {
    /// The answer, up to the first tool call. Empty where the model was still thinking when it was stopped.
    pub content: String,
    /// What stood before `</think>`, where the prompt opened a think block.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reasoning: String,
    /// Functions that the model called.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Calls that cannot be read, as they came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_error: Option<ToolCallError>,
    /// The tokens drawn or forced, the stop token included.
    pub tokens: Vec<u32>,
    /// ln p of each token.
    pub log_probs: Vec<f32>,
    /// Which of the tokens were forced by the thinking budget, by index.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub forced: Vec<usize>,
    /// How each token came about, where asked for.
    #[serde(skip)]
    pub records: Vec<TokenRecord>,
    /// `stop_token`, `stop_string`, `max_tokens`, `max_tokens_in_reasoning` or `error: ...`.
    pub finish_reason: String,
}

/// A sample on its way from tokens to text.
pub(crate) struct Sample {
    pub(crate) id: RequestId,
    decoder: StreamDecoder,
    stops: StopMatcher,
    splitter: ReasoningSplitter,
    /// `</think>`, where it is a single token.
    end_think: Option<u32>,
    /// Bytes that came out of the decoder.
    decoded: usize,
    /// For requests with tools whose calls can be read.
    calls: Option<ToolCallSplitter>,
    tools: Vec<Value>,
    stop_tokens: Vec<u32>,
    completion: Completion,
}

impl Sample {
    pub(crate) fn new(
        session: &Session,
        id: RequestId,
        prompt: &str,
        request: &TextRequest,
    ) -> Result<Sample, SessionError> {
        let skip = if request.show_special_tokens {
            SkipSpecialTokens::No
        } else {
            SkipSpecialTokens::Yes
        };
        let end_think = session.tokenizer.token_to_id(THINK_END);
        let (format, tools) = match (&request.prompt, &session.chat_template) {
            (Prompt::Chat(chat), Some(template)) if !chat.tools.is_empty() => {
                let format = Cascade::detect(template, chat).tool_calls;
                (format, chat.tools.clone())
            }
            _ => (None, Vec::new()),
        };
        let mut decoder = session.tokenizer.decode_stream(skip);
        let calls = format.iter().flat_map(|format| format.markers());
        let markers = calls.filter_map(|marker| session.tokenizer.token_to_id(marker));
        for marker in markers.chain(end_think) {
            decoder = decoder.show(marker);
        }
        let stops = request
            .stop
            .iter()
            .chain(&session.generation_config.stop_strings)
            .cloned();
        Ok(Sample {
            id,
            decoder,
            stops: StopMatcher::new(stops)?,
            splitter: ReasoningSplitter::for_prompt(prompt, end_think.is_some()),
            end_think,
            decoded: 0,
            calls: format.map(ToolCallSplitter::new),
            tools,
            stop_tokens: session.generation_config.eos_token_id.ids().to_vec(),
            completion: Completion::default(),
        })
    }

    /// Whether a stop string was found, so that no more tokens are wanted.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stops.found().is_some()
    }

    pub(crate) fn into_completion(self) -> Completion {
        self.completion
    }

    /// Takes an event of this sample; returns text that can no longer change.
    pub(crate) fn hear(&mut self, event: &Event) -> Result<Delta, SessionError> {
        let done = &mut self.completion;
        if !done.finish_reason.is_empty() {
            return Ok(Delta::default());
        }
        let text = match event {
            Event::Token {
                token,
                log_prob,
                forced,
                record,
                ..
            } => {
                if *forced {
                    done.forced.push(done.tokens.len());
                }
                done.tokens.push(*token);
                done.log_probs.extend(log_prob);
                done.records.extend(record.as_deref().cloned());
                if self.stop_tokens.contains(token) {
                    return Ok(Delta::default());
                }
                let text = self.decode(*token)?;
                self.stops.push(&text)
            }
            Event::Finished { reason, .. } => {
                let text = self.flush()?;
                self.completion.finish_reason = match reason {
                    FinishReason::StopToken(_) => "stop_token".into(),
                    FinishReason::MaxTokens => "max_tokens".into(),
                };
                text
            }
            Event::Failed { error, .. } => {
                done.finish_reason = format!("error: {error}");
                self.flush()?
            }
        };
        let mut delta = self.splitter.push(&text);
        if self.is_stopped() {
            self.completion.finish_reason = "stop_string".into();
        }
        let is_finished = !self.completion.finish_reason.is_empty();
        if is_finished {
            if self.splitter.is_reasoning() && self.completion.finish_reason == "max_tokens" {
                self.completion.finish_reason = "max_tokens_in_reasoning".into();
            }
            let rest = self.splitter.finish();
            delta.reasoning += &rest.reasoning;
            delta.content += &rest.content;
        }
        if let Some(calls) = &mut self.calls {
            delta.content = calls.push(&delta.content);
            if is_finished {
                let (rest, calls) = calls.finish(&self.tools);
                delta.content += &rest;
                match calls {
                    Ok(calls) => self.completion.tool_calls = calls,
                    Err(error) => self.completion.tool_call_error = Some(error),
                }
            }
        }
        self.completion.reasoning += &delta.reasoning;
        self.completion.content += &delta.content;
        Ok(delta)
    }

    /// The text that a token completes; tells the splitter where `</think>` stands in it.
    fn decode(&mut self, token: u32) -> Result<String, SessionError> {
        let text = self.decoder.push(token)?;
        self.decoded += text.len();
        if self.end_think == Some(token) {
            self.splitter
                .end_at(self.decoded - THINK_END.len().min(text.len()));
        }
        Ok(text)
    }

    fn flush(&mut self) -> Result<String, SessionError> {
        let last = self.decoder.finish()?;
        Ok(self.stops.push(&last) + &self.stops.finish())
    }
}
