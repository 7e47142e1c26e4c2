//! The proof: one request, computed under many schedules, compared by digest of every logit and all state.

mod run;
mod schedule;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use jetblock_models::model::Kernels;
use jetblock_models::{Model, ModelError};
use jetblock_tensor::Digest;
use serde::Serialize;

pub(crate) use run::{Ears, feed};
pub use run::{Outcome, Pools, RunError, run};
pub use schedule::{Axis, Schedule, Space};

/// The request that every run computes.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its tokens; all are fed, in whatever pieces, and every position's logits are compared.
    pub ids: Vec<u32>,
}

/// What all runs gave.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Runs compared with the baseline.
    pub runs: usize,
    /// Runs with the baseline's bits.
    pub identical: usize,
    /// One line for each axis, in order.
    pub axes: Vec<AxisReport>,
    /// Digest of the baseline's logits `[T, V]`.
    pub logits: String,
    /// Digest of the baseline's state after the last token.
    pub state: String,
    /// The first run that differed, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_difference: Option<String>,
}

/// What the runs of one axis gave.
#[derive(Clone, Debug, Serialize)]
pub struct AxisReport {
    /// The axis.
    pub name: &'static str,
    /// Its runs.
    pub runs: usize,
    /// Runs with the baseline's bits.
    pub identical: usize,
}

/// How to compute a run in a new process; returns the outcome's digests.
pub type Spawn<'a> = dyn FnMut() -> Result<Outcome, RunError> + 'a;

/// Computes `runs` schedules and compares each with the baseline. `progress` hears after each run and may end it all.
pub fn verify<K: Kernels>(
    kernels: &K,
    model: &Model,
    subject: &Subject,
    space: &Space,
    runs: usize,
    spawn: &mut Spawn<'_>,
    progress: &mut dyn FnMut(Axis) -> ControlFlow<()>,
) -> Result<Report, RunError> {
    let mut pools = Pools::default();
    let baseline = run(kernels, model, subject, &space.baseline(), &mut pools)?;
    check_rows_differ(&baseline)?;
    let mut report = Report {
        logits: baseline.logits.to_string(),
        state: baseline.state.to_string(),
        ..Report::default()
    };
    let mut axes: BTreeMap<Axis, AxisReport> = BTreeMap::new();
    for (axis, schedule) in space.schedules(runs) {
        let outcome = match axis {
            Axis::FreshProcess => spawn()?,
            _ => run(kernels, model, subject, &schedule, &mut pools)?,
        };
        let same = outcome.fingerprint() == baseline.fingerprint();
        let line = axes.entry(axis).or_insert(AxisReport {
            name: axis.name(),
            runs: 0,
            identical: 0,
        });
        line.runs += 1;
        line.identical += usize::from(same);
        report.runs += 1;
        report.identical += usize::from(same);
        if !same && report.first_difference.is_none() {
            report.first_difference = Some(describe(axis, &schedule, &baseline, &outcome));
        }
        check_interrupted(progress(axis))?;
    }
    report.axes = axes.into_values().collect();
    Ok(report)
}

/// How many different answers the same schedules give with other kernels (the control).
pub fn distinct<K: Kernels>(
    kernels: &K,
    model: &Model,
    subject: &Subject,
    space: &Space,
    runs: usize,
    progress: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<(usize, usize), RunError> {
    let mut pools = Pools::default();
    let mut seen = BTreeSet::new();
    let schedules: Vec<_> = space
        .schedules(runs)
        .into_iter()
        .filter(|(axis, _)| *axis != Axis::FreshProcess)
        .collect();
    for (_, schedule) in &schedules {
        seen.insert(run(kernels, model, subject, schedule, &mut pools)?.fingerprint());
        check_interrupted(progress())?;
    }
    Ok((schedules.len(), seen.len()))
}

fn check_interrupted(flow: ControlFlow<()>) -> Result<(), RunError> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(RunError::Interrupted),
    }
}

/// A proof over rows that are all alike would prove nothing.
fn check_rows_differ(baseline: &Outcome) -> Result<(), RunError> {
    let distinct: BTreeSet<Digest> = baseline.rows.iter().copied().collect();
    // A short repetition in the text may repeat a row; a model that ignores its input repeats them all.
    if distinct.len() * 2 < baseline.rows.len() {
        Err(RunError::Vacuous {
            rows: baseline.rows.len(),
            distinct: distinct.len(),
        })
    } else {
        Ok(())
    }
}

fn describe(axis: Axis, schedule: &Schedule, want: &Outcome, got: &Outcome) -> String {
    let row = want.rows.iter().zip(&got.rows).position(|(w, g)| w != g);
    let at = match row {
        Some(row) => format!("first differing logits row {row}"),
        None => "logits equal, state differs".to_string(),
    };
    format!("axis {}: {at}; {schedule:?}", axis.name())
}

impl From<ModelError> for RunError {
    fn from(e: ModelError) -> RunError {
        RunError::Model(e)
    }
}
