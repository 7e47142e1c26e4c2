//! Continuous batching: requests join and leave a running batch, prompts are fed in pieces beside decoding rows.
//!
//! The engine decides *when* a row is computed, never how: a request's tokens depend on the request alone
//! (NUMERICS.md), so the order of submission, the size of the batch and the step budget cannot change them.

use std::collections::VecDeque;
use std::sync::Arc;

use jetblock_models::model::Contract;
use jetblock_models::{
    LayerRows, LogitRows, Model, ModelError, Observe, Piece, PieceResult, SequenceState, Workspace,
};
use jetblock_ops::sampling::{Sampling, SamplingParams};
use jetblock_ops::softmax;
use jetblock_simd::{Cpu, fp_env};
use jetblock_tensor::{Digest, digest};

use crate::prefix_cache::{PrefixCache, PrefixFolder, common_prefix};
use crate::speculate::{self, DraftLength};

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
    /// Tokens that are not left to the draw.
    pub forced: Option<Arc<dyn ForcedTokens>>,
    /// What is kept of how each token came about.
    pub record: Record,
}

/// What is kept of how each token of a request came about, for a receipt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Record {
    /// Nothing.
    #[default]
    Nothing,
    /// The digest of its logits.
    Logits,
    /// That, and a short digest of the hidden state after each layer. Nothing is guessed ahead for such a request.
    Layers,
}

/// How a token came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRecord {
    /// Digest of the logits it was drawn from, `f32[V]`.
    pub logits: Digest,
    /// For each layer, of the row that gave those logits; empty unless asked for.
    pub layers: Vec<LayerDigest>,
}

/// The first 8 bytes of the digest of a row's hidden state after a layer, `f32[D]`.
pub type LayerDigest = [u8; 8];

/// The short digest of a row's hidden state.
pub(crate) fn layer_digest(row: &[f32]) -> LayerDigest {
    let Digest(bytes) = digest::f32s(&[row.len()], row);
    *bytes.first_chunk().expect("a digest has 32 bytes")
}

/// Decides single tokens of an output in place of the draw (NUMERICS.md, section 11).
///
/// The answer is a function of the output alone, so that it is the same in every batch and after every rollback.
pub trait ForcedTokens: std::fmt::Debug + Send + Sync {
    /// The token that follows this output, `None` where it is drawn.
    fn next(&self, output: &[u32]) -> Option<u32>;
}

/// Names a submitted request in events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u64);

/// Something that happened in a step.
#[derive(Clone, Debug)]
pub enum Event {
    /// A token was drawn, or forced.
    Token {
        /// The request.
        id: RequestId,
        /// The token.
        token: u32,
        /// ln p(token), where asked for.
        log_prob: Option<f32>,
        /// Whether the request's [`ForcedTokens`] chose it.
        forced: bool,
        /// How it came about, where asked for.
        record: Option<Box<TokenRecord>>,
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
    /// Most tokens guessed ahead of a decoding sequence, from what followed the same words before; 0 guesses none.
    pub speculate: usize,
    /// Bytes of sequence states kept for prompts that begin alike; 0 keeps none.
    pub prefix_cache_bytes: usize,
    /// Prompt tokens from one kept state to the next; doubled as often as it takes to keep at most 16 of a prompt. A state is
    /// kept before a prompt's last token too, and at the end of the output.
    pub prefix_interval: usize,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions {
            step_rows: 256,
            max_sequences: 64,
            speculate: 0,
            prefix_cache_bytes: 0,
            prefix_interval: 256,
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
    prefixes: Option<PrefixCache>,
    speculation: SpeculationStats,
}

/// How well guesses did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct SpeculationStats {
    /// Steps in which a sequence decoded.
    pub decode_steps: u64,
    /// Tokens drawn in them.
    pub tokens: u64,
    /// Tokens guessed.
    pub drafted: u64,
    /// Guesses that were drawn.
    pub accepted: u64,
}

struct Sequence {
    id: RequestId,
    request: Request,
    state: SequenceState,
    /// Prompt and output.
    tokens: Vec<u32>,
    draft_length: DraftLength,
}

impl Sequence {
    /// Tokens that are drawn or given and not fed yet.
    fn pending(&self) -> usize {
        let pending = self.tokens.len() - self.state.tokens();
        assert!(pending > 0, "a sequence with nothing to feed never ends");
        pending
    }
    fn output(&self) -> &[u32] {
        &self.tokens[self.request.prompt.len()..]
    }
    /// Whether prompt tokens before the last are left to feed.
    fn in_prompt(&self) -> bool {
        self.state.tokens() + 1 < self.request.prompt.len()
    }
}

/// Most states kept of a prompt before its last token: for a long one, intervals double.
const MAX_KEPT: usize = 16;

/// Tokens from one kept state of a prompt to the next.
fn spacing(prompt: usize, interval: usize) -> usize {
    interval * (prompt / interval).div_ceil(MAX_KEPT).next_power_of_two()
}

/// The next number of tokens after `fed` at which a prompt's state is kept, if it has one.
fn next_kept(fed: usize, prompt: usize, interval: usize) -> Option<usize> {
    let (last, interval) = (prompt - 1, spacing(prompt, interval));
    (fed < last).then(|| last.min((fed / interval + 1) * interval))
}

/// What a sequence computes in a step.
struct Share {
    /// Of the tokens that are known.
    rows: usize,
    /// Guesses behind them.
    draft: Vec<u32>,
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
            prefix_interval: options.prefix_interval.max(1),
            ..options
        };
        Engine {
            workspace: model.workspace(),
            model,
            cpu,
            options,
            waiting: VecDeque::new(),
            running: Vec::new(),
            next_id: 0,
            prefixes: (options.prefix_cache_bytes > 0)
                .then(|| PrefixCache::new(options.prefix_cache_bytes)),
            speculation: SpeculationStats::default(),
        }
    }

    /// The states kept for prompts that begin alike, if the options ask for any.
    pub fn prefix_cache(&mut self) -> Option<&mut PrefixCache> {
        self.prefixes.as_mut()
    }

    /// Looks for states of prompts in this folder too. What is to be kept is written there when memory has no room for it, and
    /// by [`PrefixCache::flush`].
    pub fn keep_prefixes_in(&mut self, folder: PrefixFolder) {
        let bytes = self.options.prefix_cache_bytes;
        let prefixes = self.prefixes.get_or_insert_with(|| PrefixCache::new(bytes));
        prefixes.set_folder(folder);
    }

    /// How well guesses did so far.
    pub fn speculation(&self) -> SpeculationStats {
        self.speculation
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
        // What each sequence is fed, and the state to go back to where it is fed guesses.
        let mut fed = Vec::new();
        let mut before = Vec::new();
        for (sequence, share) in self.running.iter().zip(&shares) {
            let start = sequence.state.tokens();
            fed.push(
                [
                    &sequence.tokens[start..start + share.rows],
                    &share.draft[..],
                ]
                .concat(),
            );
            before.push((!share.draft.is_empty()).then(|| sequence.state.clone()));
        }
        let recorded: Vec<Record> = self.running.iter().map(|s| s.request.record).collect();
        let mut pieces = Vec::new();
        let mut indices = Vec::new();
        for (index, (sequence, ids)) in self.running.iter_mut().zip(&fed).enumerate() {
            if ids.is_empty() {
                continue;
            }
            let logits = if sequence.state.tokens() + ids.len() < sequence.tokens.len() {
                LogitRows::None
            } else if shares[index].draft.is_empty() {
                LogitRows::Last
            } else {
                LogitRows::All
            };
            pieces.push(Piece {
                ids,
                state: &mut sequence.state,
                logits,
            });
            indices.push(index);
        }
        // Of each piece: whether the row that a token is drawn from is shown, and what was seen of it.
        let mut layers: Vec<Option<Vec<LayerDigest>>> = pieces
            .iter()
            .zip(&indices)
            .map(|(piece, &index)| {
                let record = recorded[index];
                (record == Record::Layers && piece.logits == LogitRows::Last).then(Vec::new)
            })
            .collect();
        let width = self.model.config().hidden_size;
        let mut see = |rows: LayerRows<'_>| {
            let Some(seen) = &mut layers[rows.piece] else {
                return;
            };
            // A long piece comes in parts; the last row of the last one stays.
            seen.truncate(rows.layer);
            seen.push(layer_digest(&rows.hidden[rows.hidden.len() - width..]));
        };
        let see: Option<&mut Observe<'_>> = match recorded.contains(&Record::Layers) {
            true => Some(&mut see),
            false => None,
        };
        let results =
            self.model
                .forward_with(&Contract, &mut pieces, &self.cpu, &mut self.workspace, see)?;
        let mut events = Vec::new();
        let mut done = vec![false; self.running.len()];
        for ((index, result), layers) in indices.into_iter().zip(results).zip(layers) {
            let sequence = &mut self.running[index];
            let computed = Computed {
                result,
                draft: &shares[index].draft,
                before: before[index].take(),
                layers: layers.unwrap_or_default(),
                vocab_size: self.model.config().vocab_size,
            };
            done[index] =
                computed.conclude(sequence, &self.cpu, &mut self.speculation, &mut events);
            if let Some(prefixes) = &mut self.prefixes {
                let fed = sequence.state.tokens();
                let prompt = sequence.request.prompt.len();
                let spacing = spacing(prompt, self.options.prefix_interval);
                let at_kept = fed + 1 == prompt || fed < prompt && fed.is_multiple_of(spacing);
                // What the next turn of a conversation begins with.
                if at_kept || done[index] {
                    prefixes.keep(&sequence.tokens[..fed], &sequence.state);
                }
            }
        }
        let mut done = done.into_iter();
        self.running
            .retain(|_| !done.next().expect("one flag for each sequence"));
        Ok(events)
    }

    fn admit(&mut self) {
        let mut at = 0;
        while self.running.len() < self.options.max_sequences && at < self.waiting.len() {
            if self.is_prefix_coming(&self.waiting[at].1.prompt) {
                at += 1;
                continue;
            }
            let (id, request) = self.waiting.remove(at).expect("the index is in range");
            let tokens = request.prompt.clone();
            let kept = self
                .prefixes
                .as_mut()
                .and_then(|prefixes| prefixes.take(&tokens));
            self.running.push(Sequence {
                id,
                request,
                state: kept.unwrap_or_else(|| self.model.new_state()),
                tokens,
                draft_length: DraftLength::new(self.options.speculate),
            });
        }
    }

    /// Whether a running prompt is about to leave a longer prefix of `prompt` in the cache than is there now: then it is
    /// worth waiting for. A sequence that leaves, for whatever reason, keeps nobody waiting.
    fn is_prefix_coming(&self, prompt: &[u32]) -> bool {
        let Some(prefixes) = &self.prefixes else {
            return false;
        };
        let here = prefixes.longest(prompt);
        self.running.iter().any(|sequence| {
            let own = &sequence.request.prompt;
            let common = common_prefix(own, &prompt[..prompt.len() - 1]);
            let next = next_kept(
                sequence.state.tokens(),
                own.len(),
                self.options.prefix_interval,
            );
            next.is_some_and(|next| here < next && next <= common)
        })
    }

    /// The rows of this step: decoding sequences first, then prompts in order of arrival, then guesses.
    fn share_rows(&self) -> Vec<Share> {
        let mut left = self.options.step_rows;
        let share = |_: &Sequence| Share {
            rows: 0,
            draft: Vec::new(),
        };
        let mut shares: Vec<Share> = self.running.iter().map(share).collect();
        for prompts in [false, true] {
            for (share, sequence) in shares.iter_mut().zip(&self.running) {
                if sequence.in_prompt() != prompts {
                    continue;
                }
                let (fed, prompt) = (sequence.state.tokens(), sequence.request.prompt.len());
                let kept = self
                    .prefixes
                    .as_ref()
                    .and_then(|_| next_kept(fed, prompt, self.options.prefix_interval));
                let rows = kept.map_or(sequence.pending(), |kept| kept - fed);
                share.rows = rows.min(left);
                left -= share.rows;
            }
        }
        for (share, sequence) in shares.iter_mut().zip(&self.running) {
            // Not while tokens are left to feed, and none behind the last one asked for.
            let wanted = sequence.request.max_tokens - sequence.output().len();
            let len = sequence.draft_length.get().min(left).min(wanted - 1);
            let may_guess = sequence.request.record != Record::Layers;
            if may_guess && share.rows == sequence.pending() && !sequence.in_prompt() && len > 0 {
                share.draft = speculate::draft(&sequence.tokens, len);
                left -= share.draft.len();
            }
        }
        shares
    }
}

/// What a step has computed for one sequence.
struct Computed<'a> {
    result: PieceResult,
    /// The guesses among its rows, and the state before them.
    draft: &'a [u32],
    before: Option<SequenceState>,
    /// Of the row that the token is drawn from, where asked for.
    layers: Vec<LayerDigest>,
    vocab_size: usize,
}

impl Computed<'_> {
    /// Draws a token, and one more for each guess that was drawn; true when the sequence is complete.
    fn conclude(
        self,
        sequence: &mut Sequence,
        cpu: &Cpu,
        stats: &mut SpeculationStats,
        events: &mut Vec<Event>,
    ) -> bool {
        let draft = self.draft;
        let logits = match (self.result, self.before.as_ref()) {
            (Ok(logits), _) => logits,
            // A guess may be what the model refuses: the request itself may still be fine.
            (Err(_), Some(before)) => {
                sequence.state = before.clone();
                sequence.draft_length.stop();
                return false;
            }
            (Err(error), None) => {
                events.push(Event::Failed {
                    id: sequence.id,
                    error: error.to_string(),
                });
                return true;
            }
        };
        if logits.is_empty() {
            return false;
        }
        let rows = logits.len() / self.vocab_size;
        let known = &logits[(rows - 1 - draft.len()) * self.vocab_size..];
        let (mut accepted, mut is_done) = (0, false);
        for row in known.chunks_exact(self.vocab_size) {
            is_done = draw(sequence, row, &self.layers, cpu, events);
            if is_done || draft.get(accepted) != sequence.tokens.last() {
                break;
            }
            accepted += 1;
        }
        stats.decode_steps += 1;
        stats.tokens += 1 + accepted as u64;
        if let Some(before) = self.before {
            stats.drafted += draft.len() as u64;
            stats.accepted += accepted as u64;
            sequence.draft_length.learn(draft.len(), accepted);
            if accepted < draft.len() {
                sequence.state = before;
            }
        }
        is_done
    }
}

/// Draws the next token of a sequence; true when the sequence is complete.
fn draw(
    sequence: &mut Sequence,
    logits: &[f32],
    layers: &[LayerDigest],
    cpu: &Cpu,
    events: &mut Vec<Event>,
) -> bool {
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
    let forced = request
        .forced
        .as_ref()
        .and_then(|forced| forced.next(sequence.output()));
    let token = match forced {
        Some(token) => sampling.check_forced(token).map(|()| token),
        None => sampling.cpu(cpu),
    };
    let drawn = token.and_then(|token| {
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
    let record = (request.record != Record::Nothing).then(|| {
        Box::new(TokenRecord {
            logits: digest::f32s(&[logits.len()], logits),
            layers: layers.to_vec(),
        })
    });
    events.push(Event::Token {
        id,
        token,
        log_prob,
        forced: forced.is_some(),
        record,
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
