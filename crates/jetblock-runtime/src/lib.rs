//! Text in, text out: tokenizer, chat template, sampler, scheduler, streaming generation.
#![forbid(unsafe_code)]

mod cascade;
mod chat_template;
mod civil_time;
mod completion;
mod engine;
mod error;
mod generation_config;
mod gguf;
mod message;
mod prefix_cache;
mod python_json;
mod reasoning;
pub mod receipt;
mod recommended;
mod session;
mod speculate;
mod stop;
mod thinking_budget;
mod tokenizer;
mod tokenizer_config;
mod tool_calls;
pub mod verify;

pub use cascade::{Cascade, CascadeError, Think, ThinkSwitch};
pub use chat_template::{
    ADDITIONAL_TEMPLATES_FOLDER, CHAT_TEMPLATE_FILE, ChatRequest, ChatTemplate, FUEL,
};
pub use civil_time::CivilTime;
pub use completion::Completion;
pub use engine::{
    Engine, EngineOptions, Event, FinishReason, ForcedTokens, LayerDigest, Record, Request,
    RequestError, RequestId, SpeculationStats, TokenRecord,
};
pub use error::TextError;
pub use generation_config::{GENERATION_CONFIG_FILE, GenerationConfig};
pub use message::{FunctionCall, Message, ToolCall};
pub use prefix_cache::{FolderStats, PrefixCache, PrefixFolder, PrefixStats};
pub use reasoning::{Delta, ReasoningSplitter, THINK_END, THINK_START, prompt_opens_thinking};
pub use recommended::{Mode, Recommendation};
pub use session::{Answers, Defaults, Generation, Prompt, Session, SessionError, TextRequest};
pub use stop::{MAX_STOP_BYTES, MAX_STOP_STRINGS, StopMatcher, StopTokens};
pub use thinking_budget::{BudgetPhase, BudgetRule, ThinkingBudget};
pub use tokenizer::{
    AddSpecialTokens, MAX_TEXT_BYTES, SkipSpecialTokens, StreamDecoder, TOKENIZER_FILE, Tokenizer,
};
pub use tokenizer_config::{AddedToken, TOKENIZER_CONFIG_FILE, TokenizerConfig};
pub use tool_calls::{ToolCallError, ToolCallFormat, ToolCallSplitter};
