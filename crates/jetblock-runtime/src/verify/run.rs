//! Computing the subject under one schedule.

use std::collections::HashMap;

use jetblock_models::model::Kernels;
use jetblock_models::{
    LayerRows, LogitRows, Model, ModelError, Observe, Piece, SequenceState, Workspace,
};
use jetblock_simd::{Cpu, CpuError, Level};
use jetblock_tensor::{Digest, digest};

use super::Subject;
use super::schedule::{Draws, Schedule};

/// What a run gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Digest of the logits `[T, V]`.
    pub logits: Digest,
    /// Digest of the state after the last token.
    pub state: Digest,
    /// Digest of each logits row, to locate a difference; empty when the run happened in another process.
    pub rows: Vec<Digest>,
}

impl Outcome {
    /// What is compared.
    pub fn fingerprint(&self) -> (Digest, Digest) {
        (self.logits, self.state)
    }
}

/// Why a run has no outcome.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The model refused.
    #[error(transparent)]
    Model(ModelError),
    /// The level or thread count is not available.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// The request itself failed.
    #[error("the request failed: {0}")]
    Failed(String),
    /// The model's rows do not depend on its input, so equality would prove nothing.
    #[error("only {distinct} of {rows} logits rows differ, so equal bits would prove nothing")]
    Vacuous {
        /// Rows compared.
        rows: usize,
        /// Different ones.
        distinct: usize,
    },
    /// A process of its own could not be run.
    #[error("fresh process: {0}")]
    Process(String),
    /// Whoever hears of the progress wanted no more.
    #[error("interrupted")]
    Interrupted,
}

/// One [`Cpu`] for each thread count and level, with the scratch memory that later runs find used.
#[derive(Default)]
pub struct Pools(HashMap<(usize, Level), (Cpu, Workspace)>);

impl Pools {
    fn get(
        &mut self,
        model: &Model,
        threads: usize,
        level: Level,
    ) -> Result<&mut (Cpu, Workspace), RunError> {
        use std::collections::hash_map::Entry;
        Ok(match self.0.entry((threads, level)) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert((Cpu::new(threads, level)?, model.workspace())),
        })
    }
}

/// Another sequence of the batch.
struct Neighbour {
    state: SequenceState,
    ids: Vec<u32>,
}

/// Hears the logits of a position.
pub(crate) type HearLogits<'a> = dyn FnMut(&Cpu, usize, &[f32]) -> Result<(), RunError> + 'a;

/// Who hears of the subject's rows while it is fed.
pub(crate) struct Ears<'a> {
    /// The first position whose logits are wanted.
    pub(crate) from: usize,
    /// Hears each position's logits, in order.
    pub(crate) logits: &'a mut HearLogits<'a>,
    /// Is shown the hidden state of its rows after each layer; `piece` is 0.
    pub(crate) layers: Option<&'a mut Observe<'a>>,
}

/// Computes the subject under a schedule.
pub fn run<K: Kernels>(
    kernels: &K,
    model: &Model,
    subject: &Subject,
    schedule: &Schedule,
    pools: &mut Pools,
) -> Result<Outcome, RunError> {
    let vocab_size = model.config().vocab_size;
    let mut logits: Vec<f32> = Vec::with_capacity(subject.ids.len() * vocab_size);
    let mut rows = Vec::with_capacity(subject.ids.len());
    let mut hear = |_: &Cpu, _, row: &[f32]| {
        logits.extend(row);
        rows.push(digest::f32s(&[vocab_size], row));
        Ok(())
    };
    let ears = Ears {
        from: 0,
        logits: &mut hear,
        layers: None,
    };
    let state = feed(kernels, model, subject, schedule, pools, ears)?;
    Ok(Outcome {
        logits: digest::f32s(&[subject.ids.len(), vocab_size], &logits),
        state: state.digest(),
        rows,
    })
}

/// Feeds the subject under a schedule; returns its state after the last token.
pub(crate) fn feed<K: Kernels>(
    kernels: &K,
    model: &Model,
    subject: &Subject,
    schedule: &Schedule,
    pools: &mut Pools,
    mut ears: Ears<'_>,
) -> Result<SequenceState, RunError> {
    let (cpu, workspace) = pools.get(model, schedule.threads, schedule.level)?;
    let vocab_size = model.config().vocab_size;
    let mut draws = Draws::new(schedule.neighbours, 1);
    let mut state = model.new_state();
    let mut neighbours: Vec<Neighbour> = (1..schedule.batch)
        .map(|_| Neighbour {
            state: model.new_state(),
            ids: Vec::new(),
        })
        .collect();
    for (step, &rows) in schedule.pieces.iter().enumerate() {
        let fed = state.tokens();
        for neighbour in &mut neighbours {
            prepare_neighbour(neighbour, model, schedule, &mut draws);
        }
        let wanted = if fed + rows > ears.from {
            LogitRows::All
        } else {
            LogitRows::None
        };
        let piece = Piece {
            ids: &subject.ids[fed..fed + rows],
            state: &mut state,
            logits: wanted,
        };
        let logits = forward(
            kernels,
            model,
            schedule.slot,
            piece,
            &mut neighbours,
            cpu,
            workspace,
            ears.layers.as_deref_mut(),
        )?;
        for (row, position) in logits.chunks_exact(vocab_size).zip(fed..) {
            if position >= ears.from {
                (ears.logits)(cpu, position, row)?;
            }
        }
        if schedule.snapshot_after == Some(step) {
            let snapshot = state.clone();
            let detour: Vec<u32> = (0..3).map(|_| draws.below(vocab_size) as u32).collect();
            let piece = Piece {
                ids: &detour,
                state: &mut state,
                logits: LogitRows::All,
            };
            forward(kernels, model, 0, piece, &mut [], cpu, workspace, None)?;
            state = snapshot;
        }
    }
    Ok(state)
}

/// Gives a neighbour its tokens for the step and, in hostile schedules, sometimes a bad fate.
fn prepare_neighbour(
    neighbour: &mut Neighbour,
    model: &Model,
    schedule: &Schedule,
    draws: &mut Draws,
) {
    let cancelled = schedule.hostile && draws.below(6) == 0;
    // A sequence whose layer refused its NaN leaves the batch, as it would in the engine.
    if cancelled || neighbour.state.failed().is_some() || neighbour.state.tokens() > 256 {
        neighbour.state = model.new_state();
    }
    if schedule.hostile && draws.below(4) == 0 {
        neighbour.state.poison_for_tests();
    }
    let rows = 1 + draws.below(schedule.neighbour_rows);
    neighbour.ids = (0..rows)
        .map(|_| draws.below(model.config().vocab_size) as u32)
        .collect();
}

/// One step: the request at its slot among the neighbours; returns the request's logits.
fn forward<K: Kernels>(
    kernels: &K,
    model: &Model,
    slot: usize,
    piece: Piece<'_>,
    neighbours: &mut [Neighbour],
    cpu: &Cpu,
    workspace: &mut Workspace,
    layers: Option<&mut Observe<'_>>,
) -> Result<Vec<f32>, RunError> {
    let mut pieces: Vec<Piece<'_>> = neighbours
        .iter_mut()
        .map(|n| Piece {
            ids: &n.ids,
            state: &mut n.state,
            logits: LogitRows::Last,
        })
        .collect();
    pieces.insert(slot, piece);
    let mut results = match layers {
        None => model.forward_with(kernels, &mut pieces, cpu, workspace, None)?,
        Some(layers) => {
            let mut see = |rows: LayerRows<'_>| {
                if rows.piece == slot {
                    layers(LayerRows { piece: 0, ..rows });
                }
            };
            model.forward_with(kernels, &mut pieces, cpu, workspace, Some(&mut see))?
        }
    };
    results
        .swap_remove(slot)
        .map_err(|e| RunError::Failed(e.to_string()))
}
