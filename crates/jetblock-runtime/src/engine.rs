//! Continuous batching: requests join and leave a running batch, prompts are fed in pieces beside decoding rows.
//!
//! The engine decides *when* a row is computed, never how: a request's tokens depend on the request alone
//! (NUMERICS.md), so the order of submission, the size of the batch and the step budget cannot change them.

use std::collections::VecDeque;
use std::sync::Arc;

use jetblock_models::{LogitRows, Model, ModelError, Piece, SequenceState, Workspace};
use jetblock_ops::sampling::{Sampling, SamplingParams};
use jetblock_ops::softmax;
use jetblock_simd::{Cpu, fp_env};

/// What to generate.
#[derive(Clone, Debug)]
pub struct Request {
    /// Prompt token ids; at least one.
    pub prompt: Vec<u32>,
    /// How tokens are drawn.
    pub sampling: SamplingParams,
    /// Key of the random generator.
    pub seed: u64,
    /// Which of several samples of the same request this is; part of the generator's counter.
    pub sample_index: u32,
    /// Stop after this many tokens.
    pub max_tokens: usize,
    /// Stop when one of these is drawn (it is reported, not fed).
    pub stop_tokens: Vec<u32>,
    /// Report each token's log-probability under the unmodified logits.
    pub log_probs: bool,
}

/// Names a submitted request in events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u64);

/// Something that happened in a step.
#[derive(Clone, Debug)]
pub enum Event {
    /// A token was drawn.
    Token {
        /// The request.
        id: RequestId,
        /// The token.
        token: u32,
        /// ln p(token), where asked for.
        log_prob: Option<f32>,
    },
    /// The request is complete and has left the engine.
    Finished {
        /// The request.
        id: RequestId,
        /// Why.
        reason: FinishReason,
    },
    /// The request cannot continue and has left the engine; others are not affected.
    Failed {
        /// The request.
        id: RequestId,
        /// Why.
        error: String,
    },
}

/// Why a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// This stop token was drawn.
    StopToken(u32),
    /// `max_tokens` were drawn.
    MaxTokens,
}

/// How much work a step may hold. None of it changes a bit.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// Rows in one step: decoding rows first, prompt pieces in the rest.
    pub step_rows: usize,
    /// Sequences running at once; further requests wait.
    pub max_sequences: usize,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions {
            step_rows: 256,
            max_sequences: 64,
        }
    }
}

/// A model, its running sequences and its queue.
pub struct Engine {
    model: Arc<Model>,
    cpu: Cpu,
    options: EngineOptions,
    workspace: Workspace,
    waiting: VecDeque<(RequestId, Request)>,
    running: Vec<Sequence>,
    next_id: u64,
}

struct Sequence {
    id: RequestId,
    request: Request,
    state: SequenceState,
    /// Prompt and output.
    tokens: Vec<u32>,
}

impl Sequence {
    fn pending(&self) -> usize {
        self.tokens.len() - self.state.tokens()
    }
    fn output(&self) -> &[u32] {
        &self.tokens[self.request.prompt.len()..]
    }
}

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Nothing to continue.
    #[error("the prompt has no tokens, expected at least one")]
    EmptyPrompt,
    /// No room for an answer.
    #[error("max_tokens is 0, expected at least 1")]
    NoTokens,
    /// A token the model does not have.
    #[error("prompt token {index} is {id}, expected less than the vocabulary size {vocab_size}")]
    TokenOutOfRange {
        /// Position in the prompt.
        index: usize,
        /// The token.
        id: u32,
        /// Vocabulary size.
        vocab_size: usize,
    },
    /// Invalid sampling parameters.
    #[error(transparent)]
    Sampling(#[from] jetblock_ops::OpError),
}

impl Engine {
    /// An engine with no requests.
    pub fn new(model: Arc<Model>, cpu: Cpu, options: EngineOptions) -> Engine {
        let options = EngineOptions {
            step_rows: options.step_rows.max(1),
            max_sequences: options.max_sequences.max(1),
        };
        Engine {
            workspace: model.workspace(),
            model,
            cpu,
            options,
            waiting: VecDeque::new(),
            running: Vec::new(),
            next_id: 0,
        }
    }

    /// Queues a request.
    pub fn submit(&mut self, request: Request) -> Result<RequestId, RequestError> {
        let vocab_size = self.model.config().vocab_size;
        if request.prompt.is_empty() {
            return Err(RequestError::EmptyPrompt);
        }
        if request.max_tokens == 0 {
            return Err(RequestError::NoTokens);
        }
        if let Some(index) = request
            .prompt
            .iter()
            .position(|&id| id as usize >= vocab_size)
        {
            return Err(RequestError::TokenOutOfRange {
                index,
                id: request.prompt[index],
                vocab_size,
            });
        }
        request.sampling.check()?;
        let id = RequestId(self.next_id);
        self.next_id += 1;
        self.waiting.push_back((id, request));
        Ok(id)
    }

    /// Drops a request wherever it is; false if it is not here (any more).
    pub fn cancel(&mut self, id: RequestId) -> bool {
        let before = self.waiting.len() + self.running.len();
        self.waiting.retain(|(waiting, _)| *waiting != id);
        self.running.retain(|sequence| sequence.id != id);
        before != self.waiting.len() + self.running.len()
    }

    /// Whether nothing is left to do.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Computes one step: at most `step_rows` rows, each running sequence at most one piece.
    pub fn step(&mut self) -> Result<Vec<Event>, ModelError> {
        let _env = fp_env::Guard::new();
        self.admit();
        let shares = self.share_rows();
        let mut pieces = Vec::new();
        let mut indices = Vec::new();
        for (index, (sequence, &rows)) in self.running.iter_mut().zip(&shares).enumerate() {
            if rows == 0 {
                continue;
            }
            let fed = sequence.state.tokens();
            let complete = fed + rows == sequence.tokens.len();
            pieces.push(Piece {
                ids: &sequence.tokens[fed..fed + rows],
                state: &mut sequence.state,
                logits: if complete {
                    LogitRows::Last
                } else {
                    LogitRows::None
                },
            });
            indices.push(index);
        }
        let results = self
            .model
            .forward(&mut pieces, &self.cpu, &mut self.workspace)?;
        let mut events = Vec::new();
        let mut done = vec![false; self.running.len()];
        for (index, result) in indices.into_iter().zip(results) {
            let sequence = &mut self.running[index];
            match result {
                Ok(logits) if logits.is_empty() => {}
                Ok(logits) => done[index] = draw(sequence, &logits, &self.cpu, &mut events),
                Err(error) => {
                    events.push(Event::Failed {
                        id: sequence.id,
                        error: error.to_string(),
                    });
                    done[index] = true;
                }
            }
        }
        let mut done = done.into_iter();
        self.running
            .retain(|_| !done.next().expect("one flag for each sequence"));
        Ok(events)
    }

    fn admit(&mut self) {
        while self.running.len() < self.options.max_sequences {
            let Some((id, request)) = self.waiting.pop_front() else {
                break;
            };
            let tokens = request.prompt.clone();
            self.running.push(Sequence {
                id,
                request,
                state: self.model.new_state(),
                tokens,
            });
        }
    }

    /// Rows of this step for each running sequence: decoding ones first, then prompts in order of arrival.
    fn share_rows(&self) -> Vec<usize> {
        let mut left = self.options.step_rows;
        let mut shares = vec![0; self.running.len()];
        for prompts in [false, true] {
            for (share, sequence) in shares.iter_mut().zip(&self.running) {
                if (sequence.pending() > 1) == prompts {
                    *share = sequence.pending().min(left);
                    left -= *share;
                }
            }
        }
        shares
    }
}

/// Draws the next token of a sequence; true when the sequence is complete.
fn draw(sequence: &mut Sequence, logits: &[f32], cpu: &Cpu, events: &mut Vec<Event>) -> bool {
    let id = sequence.id;
    let request = &sequence.request;
    let sampling = Sampling {
        logits,
        params: &request.sampling,
        prompt_ids: &request.prompt,
        output_ids: sequence.output(),
        seed: request.seed,
        sample_index: request.sample_index,
        position: sequence.tokens.len() as u64,
    };
    let drawn = sampling.cpu(cpu).and_then(|token| {
        let log_prob = request
            .log_probs
            .then(|| softmax::log_prob(logits, token as usize, cpu))
            .transpose()?;
        Ok((token, log_prob))
    });
    let (token, log_prob) = match drawn {
        Ok(drawn) => drawn,
        Err(error) => {
            events.push(Event::Failed {
                id,
                error: error.to_string(),
            });
            return true;
        }
    };
    events.push(Event::Token {
        id,
        token,
        log_prob,
    });
    let stopped = request.stop_tokens.contains(&token);
    sequence.tokens.push(token);
    let reason = if stopped {
        FinishReason::StopToken(token)
    } else if sequence.output().len() >= sequence.request.max_tokens {
        FinishReason::MaxTokens
    } else {
        return false;
    };
    events.push(Event::Finished { id, reason });
    true
}
