//! A model folder ready for text: weights, tokenizer, chat template and defaults, and generation over them.

use std::path::Path;
use std::sync::Arc;

use jetblock_models::{LoadProgress, Model, ModelError, Options};
use jetblock_ops::sampling::SamplingParams;
use jetblock_simd::Cpu;

use crate::engine::{Engine, EngineOptions, Event, FinishReason, Request, RequestError, RequestId};
use crate::{
    AddSpecialTokens, ChatRequest, ChatTemplate, Delta, GenerationConfig, ReasoningSplitter,
    SkipSpecialTokens, StopMatcher, StreamDecoder, THINK_END, TextError, Tokenizer,
    TokenizerConfig,
};

/// A loaded model folder.
#[derive(Debug)]
pub struct Session {
    /// The weights.
    pub model: Arc<Model>,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// The chat template, if the folder has one.
    pub chat_template: Option<ChatTemplate>,
    /// Defaults and end-of-sequence tokens.
    pub generation_config: GenerationConfig,
}

/// What to continue.
#[derive(Clone, Debug)]
pub enum Prompt {
    /// Raw text, encoded as the tokenizer's post-processor says.
    Text(String),
    /// Messages, rendered by the model's chat template.
    Chat(Box<ChatRequest>),
}

/// A request in words.
#[derive(Clone, Debug)]
pub struct TextRequest {
    /// What to continue.
    pub prompt: Prompt,
    /// How tokens are drawn.
    pub sampling: SamplingParams,
    /// Key of the random generator.
    pub seed: u64,
    /// Samples to draw; they differ in their sample index only.
    pub samples: u32,
    /// Most tokens for each sample.
    pub max_tokens: usize,
    /// Texts that end a sample.
    pub stop: Vec<String>,
    /// Whether special tokens are part of the text.
    pub show_special_tokens: bool,
}

/// One finished sample.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Completion {
    /// The answer.
    pub text: String,
    /// What stood before `</think>`, where the prompt opened a think block.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reasoning: String,
    /// The tokens drawn, the stop token included.
    pub tokens: Vec<u32>,
    /// ln p of each token.
    pub log_probs: Vec<f32>,
    /// `stop_token`, `stop_string`, `max_tokens` or `error: ...`.
    pub finish_reason: String,
}

/// Why a session cannot be opened or a request cannot be answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The tokenizer, the template or the request's text.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The request.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Messages for a model without a template.
    #[error(
        "the model has no chat template, expected chat_template.jinja or chat_template in tokenizer_config.json"
    )]
    NoChatTemplate,
}

impl Session {
    /// Opens a model folder.
    pub fn open(
        folder: &Path,
        options: Options,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Session, SessionError> {
        // The small files first: a mistake in them shows before gigabytes are packed.
        let tokenizer_config = TokenizerConfig::open(folder)?;
        let chat_template = ChatTemplate::open(folder, &tokenizer_config)?;
        let generation_config = GenerationConfig::open(folder)?;
        let config =
            jetblock_models::config::ModelConfig::open(folder).map_err(ModelError::from)?;
        let tokenizer = Tokenizer::open(folder, &tokenizer_config, config.vocab_size)?;
        let model = Arc::new(Model::load(folder, options, progress)?);
        Ok(Session {
            model,
            tokenizer,
            chat_template,
            generation_config,
        })
    }

    /// The prompt as text and ids.
    pub fn encode(&self, prompt: &Prompt) -> Result<(String, Vec<u32>), SessionError> {
        Ok(match prompt {
            Prompt::Text(text) => (
                text.clone(),
                self.tokenizer.encode(text, AddSpecialTokens::Yes)?,
            ),
            Prompt::Chat(request) => {
                let text = self
                    .chat_template
                    .as_ref()
                    .ok_or(SessionError::NoChatTemplate)?
                    .render(request)?;
                let ids = self.tokenizer.encode(&text, AddSpecialTokens::No)?;
                (text, ids)
            }
        })
    }

    /// The sampling parameters that the checkpoint recommends.
    pub fn default_sampling(&self) -> SamplingParams {
        let config = &self.generation_config;
        let plain = SamplingParams::default();
        SamplingParams {
            temperature: config.default_temperature(),
            top_k: config.top_k.unwrap_or(plain.top_k),
            top_p: config.top_p.unwrap_or(plain.top_p),
            min_p: config.min_p.unwrap_or(plain.min_p),
            repetition_penalty: config
                .repetition_penalty
                .unwrap_or(plain.repetition_penalty),
            ..plain
        }
    }

    /// Answers a request; `on_text` hears each piece of text that can no longer change, with its sample's index.
    pub fn generate(
        &self,
        request: &TextRequest,
        cpu: &Cpu,
        options: EngineOptions,
        on_text: &mut dyn FnMut(u32, &Delta),
    ) -> Result<Vec<Completion>, SessionError> {
        let (text, prompt) = self.encode(&request.prompt)?;
        let mut engine = Engine::new(self.model.clone(), cpu.clone(), options);
        let mut samples = Vec::new();
        for sample_index in 0..request.samples {
            let id = engine.submit(Request {
                prompt: prompt.clone(),
                sampling: request.sampling.clone(),
                seed: request.seed,
                sample_index,
                max_tokens: request.max_tokens,
                stop_tokens: self.generation_config.eos_token_id.ids().to_vec(),
                log_probs: true,
            })?;
            samples.push(Sample::new(self, id, &text, request)?);
        }
        while !engine.is_idle() {
            for event in engine.step()? {
                let (Event::Token { id, .. }
                | Event::Finished { id, .. }
                | Event::Failed { id, .. }) = &event;
                let Some(index) = samples.iter().position(|sample| sample.id == *id) else {
                    continue;
                };
                let delta = samples[index].hear(&event)?;
                if !delta.is_empty() {
                    on_text(index as u32, &delta);
                }
                if samples[index].stops.found().is_some() {
                    engine.cancel(samples[index].id);
                }
            }
        }
        Ok(samples
            .into_iter()
            .map(|sample| sample.completion)
            .collect())
    }
}

/// A sample on its way from tokens to text.
struct Sample {
    id: RequestId,
    decoder: StreamDecoder,
    stops: StopMatcher,
    splitter: ReasoningSplitter,
    stop_tokens: Vec<u32>,
    completion: Completion,
}

impl Sample {
    fn new(
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
        let mut decoder = session.tokenizer.decode_stream(skip);
        if let Some(end) = session.tokenizer.token_to_id(THINK_END) {
            decoder = decoder.show(end);
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
            splitter: ReasoningSplitter::for_prompt(prompt),
            stop_tokens: session.generation_config.eos_token_id.ids().to_vec(),
            completion: Completion::default(),
        })
    }

    /// Takes an event of this sample; returns text that can no longer change.
    fn hear(&mut self, event: &Event) -> Result<Delta, SessionError> {
        let done = &mut self.completion;
        if !done.finish_reason.is_empty() {
            return Ok(Delta::default());
        }
        let text = match event {
            Event::Token {
                token, log_prob, ..
            } => {
                done.tokens.push(*token);
                done.log_probs.extend(log_prob);
                if self.stop_tokens.contains(token) {
                    return Ok(Delta::default());
                }
                self.stops.push(&self.decoder.push(*token)?)
            }
            Event::Finished { reason, .. } => {
                done.finish_reason = match reason {
                    FinishReason::StopToken(_) => "stop_token".into(),
                    FinishReason::MaxTokens => "max_tokens".into(),
                };
                self.flush()?
            }
            Event::Failed { error, .. } => {
                done.finish_reason = format!("error: {error}");
                self.flush()?
            }
        };
        let mut delta = self.splitter.push(&text);
        if self.stops.found().is_some() {
            self.completion.finish_reason = "stop_string".into();
        }
        if !self.completion.finish_reason.is_empty() {
            let rest = self.splitter.finish();
            delta.reasoning += &rest.reasoning;
            delta.content += &rest.content;
        }
        self.completion.reasoning += &delta.reasoning;
        self.completion.text += &delta.content;
        Ok(delta)
    }

    fn flush(&mut self) -> Result<String, SessionError> {
        let last = self.decoder.finish()?;
        Ok(self.stops.push(&last) + &self.stops.finish())
    }
}
