//! Whole models in JetBlock and in the programs it is compared with, behind one interface.
//!
//! All do the same work on weights of the same shape: prefill one prompt with the logits of its last token, or decode
//! a batch of sequences with prompts and tokens of their own, one step at a time. Tokens are drawn evenly from the
//! vocabulary, so that a mixture of experts is asked for as many experts by every engine.

mod jetblock;
mod llama_cpp;
mod transformers;

use std::fmt;

pub use jetblock::JetBlock;
pub use llama_cpp::LlamaCpp;
pub use transformers::Transformers;

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// One prompt of so many tokens, from nothing.
    Prefill {
        /// Tokens of the prompt.
        tokens: usize,
    },
    /// Steps of a batch whose prompts were read before.
    Decode {
        /// Sequences.
        batch: usize,
        /// Steps; each gives one token to every sequence.
        steps: usize,
        /// Tokens of each prompt.
        context: usize,
    },
}

impl Work {
    /// Tokens that are computed while the clock runs.
    pub fn tokens(self) -> usize {
        match self {
            Work::Prefill { tokens } => tokens,
            Work::Decode { batch, steps, .. } => batch * steps,
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Work::Prefill { tokens } => write!(f, "prefill {tokens}"),
            Work::Decode { batch, .. } => write!(f, "decode, batch {batch}"),
        }
    }
}

/// A program with a model.
pub trait Engine {
    /// Does the work once; gives tokens per second on the wall.
    fn tokens_per_second(&mut self, work: Work, threads: usize) -> anyhow::Result<f64>;

    /// Which build it is; known after the first work.
    fn version(&self) -> String;
}
