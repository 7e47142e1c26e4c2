//! Text in, text out: tokenizer, chat template, sampler, scheduler, streaming generation.
#![forbid(unsafe_code)]

mod chat_template;
mod civil_time;
mod engine;
mod error;
mod generation_config;
mod message;
mod prefix_cache;
mod python_json;
mod reasoning;
mod session;
mod speculate;
mod stop;
mod tokenizer;
mod tokenizer_config;
pub mod verify;

pub use chat_template::{
    ADDITIONAL_TEMPLATES_FOLDER, CHAT_TEMPLATE_FILE, ChatRequest, ChatTemplate, FUEL,
};
pub use civil_time::CivilTime;
pub use engine::{
    Engine, EngineOptions, Event, FinishReason, Request, RequestError, RequestId, SpeculationStats,
};
pub use error::TextError;
pub use generation_config::{GENERATION_CONFIG_FILE, GenerationConfig};
pub use message::{FunctionCall, Message, ToolCall};
pub use prefix_cache::{PrefixCache, PrefixStats};
pub use reasoning::{Delta, ReasoningSplitter, THINK_END, THINK_START, prompt_opens_thinking};
pub use session::{Completion, Prompt, Session, SessionError, TextRequest};
pub use stop::{MAX_STOP_BYTES, MAX_STOP_STRINGS, StopMatcher, StopTokens};
pub use tokenizer::{
    AddSpecialTokens, MAX_TEXT_BYTES, SkipSpecialTokens, StreamDecoder, TOKENIZER_FILE, Tokenizer,
};
pub use tokenizer_config::{AddedToken, TOKENIZER_CONFIG_FILE, TokenizerConfig};
