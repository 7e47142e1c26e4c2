//! The engine decides when a row is computed, never what a request answers; the proof sees a kernel that does not.

use std::path::Path;
use std::sync::Arc;

use jetblock_models::model::{Contract, Kernels};
use jetblock_models::{LogitRows, Model, Options, Piece};
use jetblock_ops::OpError;
use jetblock_ops::attention::Attention;
use jetblock_ops::linear::LinearJob;
use jetblock_ops::rms_norm::RmsNorm;
use jetblock_ops::rms_norm_gated::RmsNormGated;
use jetblock_ops::sampling::{Sampling, SamplingParams};
use jetblock_ops::selective_scan::SelectiveScan;
use jetblock_runtime::verify::{Axis, Pools, Report, Space, Subject, run, verify};
use jetblock_runtime::{Engine, EngineOptions, Event, FinishReason, ForcedTokens, Record, Request};
use jetblock_simd::{Cpu, Level};

fn model() -> Arc<Model> {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/nemotron/tiny_mlp_moe");
    Arc::new(Model::load(&folder, Options::default(), &mut |_| {}).expect("the fixture loads"))
}

/// Requests of one seed: their tokens and their sample index alone tell their draws apart.
fn request(i: u32) -> Request {
    Request {
        prompt: (0..3 + 5 * i).map(|j| (7 * i + 3 * j) % 97).collect(),
        sampling: SamplingParams {
            temperature: 0.9,
            top_p: 0.95,
            ..SamplingParams::default()
        },
        seed: 11,
        sample_index: i % 2,
        max_tokens: 5 + i as usize,
        stop_tokens: Vec::new(),
        log_probs: false,
        forced: None,
        record: Record::Nothing,
    }
}

/// Forces one token of an output.
#[derive(Debug)]
struct ForceAt(usize, u32);

impl ForcedTokens for ForceAt {
    fn next(&self, output: &[u32]) -> Option<u32> {
        (output.len() == self.0).then_some(self.1)
    }
}

/// The meaning of a request: for each token, all tokens before it in one pass and a draw at their number.
fn alone(model: &Model, request: &Request) -> Vec<u32> {
    let cpu = Cpu::single();
    let mut output_ids = Vec::new();
    while output_ids.len() < request.max_tokens {
        let tokens = [&request.prompt[..], &output_ids[..]].concat();
        let mut state = model.new_state();
        let piece = Piece {
            state: &mut state,
            ids: &tokens,
            logits: LogitRows::All,
        };
        let mut results = model
            .forward(&mut [piece], &cpu, &mut model.workspace())
            .expect("a valid piece");
        let logits = results.pop().expect("one piece").expect("no row fails");
        let sampling = Sampling {
            logits: &logits[logits.len() - model.config().vocab_size..],
            params: &request.sampling,
            prompt_ids: &request.prompt,
            output_ids: &output_ids,
            seed: request.seed,
            sample_index: request.sample_index,
            position: tokens.len() as u64,
        };
        let forced = request.forced.as_ref().and_then(|f| f.next(&output_ids));
        output_ids.push(forced.unwrap_or(sampling.reference().expect("finite logits")));
    }
    output_ids
}

/// What each request is answered, in the order of `requests`.
fn answers(
    model: &Arc<Model>,
    requests: &[Request],
    options: EngineOptions,
) -> Vec<(Vec<u32>, FinishReason)> {
    let mut engine = Engine::new(model.clone(), Cpu::single(), options);
    let ids: Vec<_> = requests
        .iter()
        .map(|r| engine.submit(r.clone()).expect("a valid request"))
        .collect();
    let mut answers = vec![(Vec::new(), None); ids.len()];
    while !engine.is_idle() {
        for event in engine.step().expect("valid pieces") {
            match event {
                Event::Token { id, token, .. } => answers
                    [ids.iter().position(|i| *i == id).expect("submitted")]
                .0
                .push(token),
                Event::Finished { id, reason } => {
                    answers[ids.iter().position(|i| *i == id).expect("submitted")].1 = Some(reason)
                }
                Event::Failed { error, .. } => panic!("{error}"),
            }
        }
    }
    answers
        .into_iter()
        .map(|(tokens, reason)| (tokens, reason.expect("every request ends")))
        .collect()
}

#[test]
fn a_request_answers_the_same_in_every_batch() {
    let model = model();
    let mut requests: Vec<Request> = (0..5).map(request).collect();
    requests[2].forced = Some(Arc::new(ForceAt(3, 42)));
    let mut want: Vec<_> = requests
        .iter()
        .map(|r| (alone(&model, r), FinishReason::MaxTokens))
        .collect();
    assert_ne!(
        want[3].0[..5],
        want[1].0[..5],
        "requests must differ for the order to be seen"
    );
    for reversed in [false, true] {
        for (step_rows, max_sequences) in [(1, 1), (4, 3), (512, 64)] {
            let options = EngineOptions {
                step_rows,
                max_sequences,
                ..EngineOptions::default()
            };
            assert_eq!(
                answers(&model, &requests, options),
                want,
                "{options:?}, reversed {reversed}"
            );
        }
        requests.reverse();
        want.reverse();
    }
}

#[test]
fn forced_tokens_are_told_and_move_no_other_draw() {
    let model = model();
    let free = alone(&model, &request(4));
    let run = |at, token| {
        let mut request = request(4);
        request.forced = Some(Arc::new(ForceAt(at, token)));
        let mut engine = Engine::new(model.clone(), Cpu::single(), EngineOptions::default());
        engine.submit(request).expect("a valid request");
        let mut events = Vec::new();
        while !engine.is_idle() {
            events.extend(engine.step().expect("valid pieces"));
        }
        events
    };
    let tokens = |events: &[Event]| -> Vec<(u32, bool)> {
        let token = |event: &Event| match event {
            Event::Token { token, forced, .. } => Some((*token, *forced)),
            _ => None,
        };
        events.iter().filter_map(token).collect()
    };
    // Forcing what would have been drawn changes nothing but the mark.
    let same = tokens(&run(3, free[3]));
    let want = free.iter().enumerate().map(|(i, &token)| (token, i == 3));
    assert_eq!(same, want.collect::<Vec<_>>());
    let other = tokens(&run(3, free[3] ^ 1));
    assert_eq!(other[..3], same[..3]);
    assert_eq!(other[3], (free[3] ^ 1, true));
    assert_ne!(other[4..], same[4..], "the model must have read it");
    // The engine survives a rule that names no token of the model.
    let failed = run(2, 1 << 20);
    assert_eq!(tokens(&failed), same[..2].to_vec());
    let error = "sampling: forced token is id 1048576, expected ids below V = 97";
    assert!(
        matches!(failed.last(), Some(Event::Failed { error: e, .. }) if e == error),
        "{failed:?}"
    );
}

#[test]
fn a_stop_token_ends_an_answer() {
    let model = model();
    let mut request = request(2);
    let (tokens, _) = answers(&model, &[request.clone()], EngineOptions::default()).remove(0);
    let at = (1..tokens.len())
        .find(|&i| !tokens[..i].contains(&tokens[i]))
        .expect("two different tokens");
    request.stop_tokens = vec![tokens[at]];
    let got = answers(&model, &[request], EngineOptions::default()).remove(0);
    assert_eq!(
        got,
        (tokens[..=at].to_vec(), FinishReason::StopToken(tokens[at]))
    );
}

/// The contract's kernels but for one norm that looks at how many rows it has.
struct RowsMatter;

impl Kernels for RowsMatter {
    fn rms_norm(&self, cpu: &Cpu, args: &RmsNorm<'_>, out: &mut [f32]) -> Result<(), OpError> {
        Contract.rms_norm(cpu, args, out)?;
        if out.len() / args.weight.len() % 2 == 1 {
            out[0] = f32::from_bits(out[0].to_bits() ^ 1);
        }
        Ok(())
    }
    fn rms_norm_gated(
        &self,
        cpu: &Cpu,
        args: &RmsNormGated<'_>,
        out: &mut [f32],
    ) -> Result<(), OpError> {
        Contract.rms_norm_gated(cpu, args, out)
    }
    fn grouped_linear(&self, cpu: &Cpu, jobs: Vec<LinearJob<'_>>) -> Result<(), OpError> {
        Contract.grouped_linear(cpu, jobs)
    }
    fn selective_scan(
        &self,
        cpu: &Cpu,
        args: &SelectiveScan<'_>,
        states: &mut [&mut [f32]],
        out: &mut [f32],
    ) -> Result<(), OpError> {
        Contract.selective_scan(cpu, args, states, out)
    }
    fn attention(&self, cpu: &Cpu, args: &Attention<'_>, out: &mut [f32]) -> Result<(), OpError> {
        Contract.attention(cpu, args, out)
    }
}

fn proof<K: Kernels>(kernels: &K, model: &Model) -> Report {
    let subject = Subject {
        ids: (0..24).map(|i| (i * 31 + 7) % 97).collect(),
    };
    let space = Space {
        tokens: 24,
        levels: vec![Level::best()],
        max_threads: 2,
        batch_sizes: vec![1, 2, 5],
    };
    let mut fresh = || {
        run(
            kernels,
            model,
            &subject,
            &space.baseline(),
            &mut Pools::default(),
        )
    };
    verify(
        kernels,
        model,
        &subject,
        &space,
        120,
        &mut fresh,
        &mut |_| std::ops::ControlFlow::Continue(()),
    )
    .expect("every run has an outcome")
}

#[test]
fn the_proof_holds_for_the_contract_and_fails_for_a_kernel_that_counts_rows() {
    let model = model();
    let report = proof(&Contract, &model);
    assert_eq!(
        (report.runs, report.identical),
        (120, 120),
        "{:?}",
        report.first_difference
    );
    assert_eq!(report.axes.len(), Axis::ALL.len());
    let broken = proof(&RowsMatter, &model);
    let found = broken
        .axes
        .iter()
        .filter(|axis| axis.identical < axis.runs)
        .count();
    assert!(
        found >= 5 && broken.first_difference.is_some(),
        "{:?}",
        broken.axes
    );
}
