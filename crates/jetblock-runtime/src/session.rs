//! A model folder ready for text: weights, tokenizer, chat template and defaults, and generation over them.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use jetblock_models::gguf::Gguf;
use jetblock_models::{LoadProgress, Model, ModelError, Options};
use jetblock_ops::sampling::SamplingParams;
use jetblock_simd::Cpu;

use crate::completion::Sample;
use crate::engine::{Engine, EngineOptions, Event, ForcedTokens, Record, Request, RequestError};
use crate::{
    AddSpecialTokens, ChatRequest, ChatTemplate, Completion, Delta, GenerationConfig, Mode,
    PrefixStats, Recommendation, SpeculationStats, TextError, ThinkingBudget, Tokenizer,
    TokenizerConfig, prompt_opens_thinking,
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
    /// How long the model may think; the prompt must open a think block.
    pub thinking_budget: Option<ThinkingBudget>,
    /// What is kept of how each token came about, for a receipt.
    pub record: Record,
}

/// What holds where a request says nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Defaults {
    /// How tokens are drawn.
    pub sampling: SamplingParams,
    /// Most tokens, if anyone has a word on it.
    pub max_tokens: Option<usize>,
    /// NVIDIA's recommendation, where it was taken because the checkpoint says nothing.
    pub recommendation: Option<Recommendation>,
}

/// What a request was answered, and what the engine saved on the way.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Answers {
    /// The prompt's ids.
    pub prompt_tokens: Vec<u32>,
    /// One for each sample.
    pub samples: Vec<Completion>,
    /// How well guesses did.
    pub speculation: SpeculationStats,
    /// The prompt's states that were kept and found.
    pub prefixes: Option<PrefixStats>,
    /// From the request to the first token of any sample. The one thing here that is not the same in every run.
    pub seconds_to_first_token: f64,
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
    /// A thinking budget for a prompt that does not think.
    #[error(
        "the request has a thinking budget, but the prompt does not end with an opened think block (<think>)"
    )]
    BudgetWithoutThinking,
}

impl Session {
    /// Opens a model folder or a GGUF file.
    pub fn open(
        folder: &Path,
        options: Options,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Session, SessionError> {
        if Gguf::is_named(folder) {
            return Session::open_gguf(folder, options, progress);
        }
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
                let text = self.render(request)?;
                let ids = self.tokenizer.encode(&text, AddSpecialTokens::No)?;
                (text, ids)
            }
        })
    }

    /// The sampling parameters of `generation_config.json`.
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

    /// What holds for this prompt where its request says nothing: the checkpoint's word, else, for a chat, what NVIDIA
    /// recommends for the model.
    pub fn defaults(&self, prompt: &Prompt) -> Result<Defaults, SessionError> {
        let config = &self.generation_config;
        let mut defaults = Defaults {
            sampling: self.default_sampling(),
            max_tokens: config.max_new_tokens,
            recommendation: None,
        };
        let Prompt::Chat(request) = prompt else {
            return Ok(defaults);
        };
        if config.says_how_to_sample() {
            return Ok(defaults);
        }
        let thinks = prompt_opens_thinking(&self.render(request)?);
        let mode = match thinks {
            _ if !request.tools.is_empty() => Mode::ToolCalling { thinks },
            true => Mode::Thinking,
            false => Mode::Answering,
        };
        if let Some(recommendation) = Recommendation::of(self.model.config(), mode) {
            defaults.sampling.temperature = recommendation.temperature;
            defaults.sampling.top_p = recommendation.top_p;
            defaults.max_tokens = defaults.max_tokens.or(recommendation.max_tokens);
            defaults.recommendation = Some(recommendation);
        }
        Ok(defaults)
    }

    fn render(&self, request: &ChatRequest) -> Result<String, SessionError> {
        let template = self.chat_template.as_ref();
        Ok(template
            .ok_or(SessionError::NoChatTemplate)?
            .render(request)?)
    }

    /// An engine for this model.
    pub fn engine(&self, cpu: &Cpu, options: EngineOptions) -> Engine {
        Engine::new(self.model.clone(), cpu.clone(), options)
    }

    /// Answers a request on an engine of this session; `on_text` hears each piece of text that can no longer change, with its
    /// sample's index.
    pub fn generate(
        &self,
        request: &TextRequest,
        engine: Engine,
        on_text: &mut dyn FnMut(u32, &Delta),
    ) -> Result<Answers, SessionError> {
        let mut generation = self.start(request, engine)?;
        while !generation.is_finished() {
            for (sample, delta) in generation.step()? {
                on_text(sample, &delta);
            }
        }
        Ok(generation.into_answers())
    }

    /// Begins to answer a request on an engine of this session; [`Generation::step`] goes on with it.
    pub fn start(
        &self,
        request: &TextRequest,
        mut engine: Engine,
    ) -> Result<Generation, SessionError> {
        let start = Instant::now();
        let (text, prompt) = self.encode(&request.prompt)?;
        let budget = self.budget_rule(request.thinking_budget.as_ref(), &prompt)?;
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
                forced: budget.clone(),
                record: request.record,
            })?;
            samples.push(Sample::new(self, id, &text, request)?);
        }
        Ok(Generation {
            engine,
            prompt,
            samples,
            start,
            seconds_to_first_token: None,
        })
    }

    fn budget_rule(
        &self,
        budget: Option<&ThinkingBudget>,
        prompt: &[u32],
    ) -> Result<Option<Arc<dyn ForcedTokens>>, SessionError> {
        let Some(budget) = budget else {
            return Ok(None);
        };
        match budget.rule(prompt, &self.tokenizer)? {
            Some(rule) => Ok(Some(Arc::new(rule))),
            None => Err(SessionError::BudgetWithoutThinking),
        }
    }
}

/// A request on its way to its answers. Dropping it ends it.
pub struct Generation {
    engine: Engine,
    prompt: Vec<u32>,
    samples: Vec<Sample>,
    start: Instant,
    seconds_to_first_token: Option<f64>,
}

impl Generation {
    /// The prompt's tokens.
    pub fn prompt_tokens(&self) -> &[u32] {
        &self.prompt
    }

    /// Whether every sample is complete.
    pub fn is_finished(&self) -> bool {
        self.engine.is_idle()
    }

    /// Computes one step; returns the text that can no longer change, with its sample's index.
    pub fn step(&mut self) -> Result<Vec<(u32, Delta)>, SessionError> {
        let mut deltas = Vec::new();
        for event in self.engine.step()? {
            let (Event::Token { id, .. } | Event::Finished { id, .. } | Event::Failed { id, .. }) =
                &event;
            let elapsed = || self.start.elapsed().as_secs_f64();
            self.seconds_to_first_token.get_or_insert_with(elapsed);
            let Some(index) = self.samples.iter().position(|sample| sample.id == *id) else {
                continue;
            };
            let delta = self.samples[index].hear(&event)?;
            if !delta.is_empty() {
                deltas.push((index as u32, delta));
            }
            if self.samples[index].is_stopped() {
                self.engine.cancel(self.samples[index].id);
            }
        }
        Ok(deltas)
    }

    /// The engine that it runs on.
    pub fn engine(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// The answers; a sample that is not complete has no finish reason.
    pub fn into_answers(mut self) -> Answers {
        Answers {
            speculation: self.engine.speculation(),
            prefixes: self.engine.prefix_cache().map(|cache| cache.stats()),
            prompt_tokens: self.prompt,
            samples: self
                .samples
                .into_iter()
                .map(Sample::into_completion)
                .collect(),
            seconds_to_first_token: self.seconds_to_first_token.unwrap_or_default(),
        }
    }
}
