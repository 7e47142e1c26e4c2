//! Running a receipt's request again, in another batch, other pieces, with other threads and instructions.

use jetblock_models::LayerRows;
use jetblock_models::model::Contract;
use jetblock_ops::sampling::{Sampling, SamplingParams};
use jetblock_simd::Level;

use super::{Environment, ModelFacts, Receipt, Step, text_digest};
use crate::engine::layer_digest;
use crate::receipt::{ContractFacts, Hex, OutputFacts};
use crate::verify::{Ears, Pools, RunError, Schedule, Subject, feed};
use crate::{Session, SessionError};

/// Rows of the request in a step at most, so that few logits are held at once.
const PIECE_ROWS: usize = 64;

/// A receipt's request, run again under one schedule.
#[derive(Clone, Debug)]
pub struct Replay {
    /// What is varied, for people.
    pub name: String,
    /// How it is computed.
    pub schedule: Schedule,
}

/// Why a receipt cannot be run again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// A token that the model does not have.
    #[error(
        "token {id} of the receipt, expected less than the model's vocabulary size {vocab_size}: it is of another model"
    )]
    TokenOutOfRange {
        /// The token.
        id: u32,
        /// Tokens of the model.
        vocab_size: usize,
    },
    /// The model refused.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The tokenizer refused.
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// All levels of this processor but the scalar one, which takes some fifty times as long.
pub fn fast_levels() -> Vec<Level> {
    let mut levels = Level::available();
    levels.reverse();
    if levels.len() > 1 {
        levels.retain(|&level| level != Level::Scalar);
    }
    levels
}

/// The runs that show a receipt's bits: as one prompt, token by token, in pieces among hostile neighbours, and at each level.
pub fn schedules(receipt: &Receipt, threads: usize, levels: &[Level]) -> Vec<Replay> {
    let prompt = receipt.request.prompt_tokens.len();
    let total = prompt + receipt.output.tokens.len() - 1;
    let pieces = |rows: usize, of: usize| -> Vec<usize> {
        let starts = (0..of).step_by(rows);
        starts.map(|start| rows.min(of - start)).collect()
    };
    let best = levels[0];
    let alone = |level, threads| Schedule {
        threads,
        level,
        batch: 1,
        slot: 0,
        pieces: pieces(PIECE_ROWS, total),
        neighbours: 0,
        neighbour_rows: 1,
        hostile: false,
        snapshot_after: None,
    };
    let replay = |name: &str, schedule| Replay {
        name: name.into(),
        schedule,
    };
    let mut prompt_then_tokens = pieces(PIECE_ROWS, prompt);
    prompt_then_tokens.extend(vec![1; total - prompt]);
    let decoded = Schedule {
        pieces: prompt_then_tokens,
        ..alone(best, threads)
    };
    let among_others = Schedule {
        batch: 5,
        slot: 3,
        pieces: pieces(7, total),
        neighbours: 0x5245_4345,
        neighbour_rows: 11,
        hostile: true,
        ..alone(best, threads + 1)
    };
    let mut replays = vec![
        replay("as one prompt", alone(best, threads)),
        replay("token by token", decoded),
        replay("in a batch of 5, in pieces of 7", among_others),
    ];
    let others = levels[1..].iter();
    replays.extend(others.map(|&level| {
        replay(
            &format!("as one prompt, {level}, 1 thread"),
            alone(level, 1),
        )
    }));
    replays
}

/// Runs a receipt's request again, its tokens given, and draws each of them anew; returns what the receipt would be.
pub fn replay(
    session: &Session,
    model: ModelFacts,
    receipt: &Receipt,
    replay: &Replay,
    pools: &mut Pools,
) -> Result<Receipt, ReplayError> {
    let (request, output) = (&receipt.request, &receipt.output);
    let prompt = request.prompt_tokens.len();
    let all = [&request.prompt_tokens[..], &output.tokens].concat();
    let vocab_size = session.model.config().vocab_size;
    if let Some(&id) = all.iter().find(|&&id| id as usize >= vocab_size) {
        return Err(ReplayError::TokenOutOfRange { id, vocab_size });
    }
    let subject = Subject {
        ids: all[..all.len() - 1].to_vec(),
    };
    let params = SamplingParams::from(&request.sampling);
    let first = prompt - 1;
    let (mut steps, mut tokens) = (Vec::new(), Vec::new());
    let mut hear = |cpu: &_, position: usize, logits: &[f32]| {
        let index = position - first;
        let sampling = Sampling {
            logits,
            params: &params,
            prompt_ids: &request.prompt_tokens,
            output_ids: &output.tokens[..index],
            seed: request.seed,
            sample_index: request.sample_index,
            position: position as u64 + 1,
        };
        let forced = output.forced.contains(&index);
        let recorded = output.tokens[index];
        let token = match forced {
            true => sampling.check_forced(recorded).map(|()| recorded),
            false => sampling.cpu(cpu),
        };
        tokens.push(token.map_err(|e| RunError::Failed(e.to_string()))?);
        steps.push(Step {
            logits: jetblock_tensor::digest::f32s(&[logits.len()], logits).into(),
            layers: Vec::new(),
        });
        Ok(())
    };
    let mut layers = vec![Vec::new(); output.tokens.len()];
    let width = session.model.config().hidden_size;
    let mut see = |rows: LayerRows<'_>| {
        let rows_and_positions = rows.hidden.chunks_exact(width).zip(rows.start..);
        for (row, position) in rows_and_positions.skip(first.saturating_sub(rows.start)) {
            layers[position - first].push(Hex(layer_digest(row)));
        }
    };
    let ears = Ears {
        from: first,
        logits: &mut hear,
        layers: match receipt.has_layers() {
            true => Some(&mut see),
            false => None,
        },
    };
    feed(
        &Contract,
        &session.model,
        &subject,
        &replay.schedule,
        pools,
        ears,
    )?;
    for (step, layers) in steps.iter_mut().zip(layers) {
        step.layers = layers;
    }
    let schedule = &replay.schedule;
    Ok(Receipt {
        receipt: receipt.receipt,
        contract: ContractFacts::of(&session.model),
        model,
        request: request.clone(),
        output: OutputFacts {
            text: text_digest(&session.tokenizer, &tokens, &request.stop_tokens)?,
            tokens,
            ..output.clone()
        },
        steps,
        environment: Environment {
            jetblock: env!("CARGO_PKG_VERSION").into(),
            model: receipt.environment.model.clone(),
            os: std::env::consts::OS.into(),
            arch: std::env::consts::ARCH.into(),
            isa: schedule.level.name().into(),
            threads: schedule.threads,
            step_rows: PIECE_ROWS,
            speculate: 0,
        },
    })
}
