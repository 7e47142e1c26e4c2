//! Kept prefixes and guesses change when a row is computed, never what a request answers.

mod folder;
mod memory;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use jetblock_models::{LogitRows, Model, Options, Piece, SequenceState};
use jetblock_ops::sampling::SamplingParams;
use jetblock_runtime::{Engine, EngineOptions, Event, Record, Request, RequestId};
use jetblock_simd::Cpu;

pub(crate) fn model() -> Arc<Model> {
    load(Options::default())
}

pub(crate) fn load(options: Options) -> Arc<Model> {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/nemotron/tiny_mlp_moe");
    Arc::new(Model::load(&folder, options, &mut |_| {}).expect("the fixture loads"))
}

pub(crate) fn request(prompt: Vec<u32>, seed: u64, max_tokens: usize) -> Request {
    Request {
        prompt,
        sampling: SamplingParams {
            temperature: 0.8,
            ..SamplingParams::default()
        },
        seed,
        sample_index: 0,
        max_tokens,
        stop_tokens: Vec::new(),
        log_probs: true,
        forced: None,
        record: Record::Nothing,
    }
}

/// Tokens and the bits of their log-probabilities.
pub(crate) type Answer = Vec<(u32, u32)>;

/// Runs what is queued; `each` hears the engine after every step.
pub(crate) fn finish(
    engine: &mut Engine,
    each: &mut dyn FnMut(&mut Engine),
) -> HashMap<RequestId, Answer> {
    let mut answers: HashMap<RequestId, Answer> = HashMap::new();
    while !engine.is_idle() {
        for event in engine.step().expect("valid pieces") {
            match event {
                Event::Token {
                    id,
                    token,
                    log_prob,
                    ..
                } => {
                    let bits = log_prob.expect("asked for").to_bits();
                    answers.entry(id).or_default().push((token, bits));
                }
                Event::Finished { .. } => {}
                Event::Failed { error, .. } => panic!("{error}"),
            }
        }
        each(engine);
    }
    answers
}

pub(crate) fn answer(engine: &mut Engine, request: &Request) -> Answer {
    let id = engine.submit(request.clone()).expect("a valid request");
    finish(engine, &mut |_| {})
        .remove(&id)
        .expect("it was answered")
}

pub(crate) fn engine(model: &Arc<Model>, options: EngineOptions) -> Engine {
    Engine::new(model.clone(), Cpu::single(), options)
}

pub(crate) fn keeping(bytes: usize, interval: usize) -> EngineOptions {
    EngineOptions {
        prefix_cache_bytes: bytes,
        prefix_interval: interval,
        ..EngineOptions::default()
    }
}

pub(crate) fn prompt(len: u32) -> Vec<u32> {
    (0..len).map(|i| (i * 31 + 7) % 97).collect()
}

/// The state after some tokens.
pub(crate) fn fed(model: &Model, tokens: &[u32]) -> SequenceState {
    let mut state = model.new_state();
    feed(model, &mut state, tokens);
    state
}

pub(crate) fn feed(model: &Model, state: &mut SequenceState, tokens: &[u32]) {
    let piece = Piece {
        state,
        ids: tokens,
        logits: LogitRows::None,
    };
    model
        .forward(&mut [piece], &Cpu::single(), &mut model.workspace())
        .expect("valid tokens");
}

/// Ten requests, the `round`-th of a long sequence that share prefixes of many lengths.
pub(crate) fn soak_requests(round: u32) -> Vec<Request> {
    (0..10)
        .map(|i| {
            let (len, family) = (2 + (round * 7 + i * 5) % 19, (round + i) % 5);
            let tokens = (0..len).map(|t| (t * (family + 3) + family) % 97).collect();
            request(tokens, u64::from(i), 2)
        })
        .collect()
}
