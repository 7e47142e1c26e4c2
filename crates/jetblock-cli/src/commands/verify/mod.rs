//! `jetblock verify`: the matrix of schedules, or a receipt.

mod receipt;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use jetblock_control::Control;
use jetblock_models::gguf::Gguf;
use jetblock_models::model::Contract;
use jetblock_models::{Model, Options};
use jetblock_numerics::rng::{self, Draw};
use jetblock_runtime::receipt::Hex;
use jetblock_runtime::verify::{self, Axis, Outcome, Pools, Report, RunError, Space, Subject};
use jetblock_simd::Level;
use jetblock_tensor::Digest;
use serde::{Deserialize, Serialize};

use crate::Verdict;
use crate::args::{Global, ModelArgs};
use crate::bundled::Folder;
use crate::output::{Output, Unit, table};
use crate::program::Program;

/// Arguments of `jetblock verify`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Where MODEL is a receipt (FILE.json): the model that it is about [default: the bundled demo model]
    pub(crate) receipt_model: Option<PathBuf>,
    /// Runs to compare
    #[arg(long, default_value_t = 1000, conflicts_with = "quick")]
    pub(crate) runs: usize,
    /// 100 runs
    #[arg(long)]
    pub(crate) quick: bool,
    /// Runs of the control beside it (the usual kernels); 0 leaves it out
    #[arg(long, default_value_t = 100)]
    pub(crate) control_runs: usize,
    /// Tokens of the request
    #[arg(long, default_value_t = 48)]
    pub(crate) tokens: usize,
    /// Largest thread count to try
    #[arg(long, default_value_t = 4)]
    pub(crate) max_threads: usize,
    /// Compute the baseline once and print its digests (the fresh processes do)
    #[arg(long, hide = true)]
    pub(crate) child: bool,
}

/// What a fresh process prints.
#[derive(Serialize, Deserialize)]
struct Child {
    logits: String,
    state: String,
}

/// The report with the control beside it.
#[derive(Serialize)]
pub struct Proof {
    model: String,
    numerics_version: u32,
    operands: &'static str,
    kv: &'static str,
    tokens: usize,
    levels: Vec<&'static str>,
    /// What all runs gave.
    #[serde(flatten)]
    pub report: Report,
    /// Runs of the same schedules with the usual kernels.
    control_runs: usize,
    /// Different answers among them.
    control_distinct: usize,
    seconds: f64,
}

pub(crate) fn run(args: &Args, global: &Global, output: &Output) -> anyhow::Result<Verdict> {
    if let Some(file) = args.model.model.as_deref().filter(|path| is_receipt(path)) {
        return receipt::run(args, file, global, output);
    }
    anyhow::ensure!(
        args.receipt_model.is_none(),
        "two models, expected one, or a receipt and its model"
    );
    let folder = args.model.folder()?;
    let model = args.model.load(&folder, output)?;
    if args.child {
        return child(&model, args, output);
    }
    let proof = prove(args, global, output, &folder, &model)?;
    if output.is_json() {
        output.print_json(&proof)?;
    } else {
        output.print(&proof.text())?;
    }
    Ok(proof.verdict())
}

/// Any file but a GGUF file; the receipt's reader says what is wrong with it.
fn is_receipt(path: &Path) -> bool {
    path.is_file() && !Gguf::is_named(path)
}

/// Computes the whole matrix, and the control beside it, showing progress.
pub(crate) fn prove(
    args: &Args,
    global: &Global,
    output: &Output,
    folder: &Folder,
    model: &Model,
) -> anyhow::Result<Proof> {
    let request = ProofRequest {
        folder,
        model,
        options: args.model.options(),
        runs: if args.quick { 100 } else { args.runs },
        control_runs: args.control_runs,
        tokens: args.tokens,
        max_threads: args.max_threads,
        isa: global.isa,
        program: &global.program,
    };
    let comparing = output.progress("comparing", request.runs as u64, Unit::Items);
    let control = output.progress("control", request.control_runs as u64, Unit::Items);
    let proof = request.prove(&mut |stage| {
        match stage {
            ProofStage::Comparing => comparing.inc(1),
            ProofStage::Control => {
                comparing.finish_and_clear();
                control.inc(1);
            }
        }
        ControlFlow::Continue(())
    });
    comparing.finish_and_clear();
    control.finish_and_clear();
    proof
}

/// What is to be proved, of which model.
#[derive(Debug)]
pub struct ProofRequest<'a> {
    /// Where the model came from; fresh processes load it again.
    pub folder: &'a Folder,
    /// The model.
    pub model: &'a Model,
    /// The options it was loaded with.
    pub options: Options,
    /// Runs to compare.
    pub runs: usize,
    /// Runs of the control beside it (the usual kernels); 0 leaves it out.
    pub control_runs: usize,
    /// Tokens of the request; at least 2.
    pub tokens: usize,
    /// Largest thread count to try; at least 1.
    pub max_threads: usize,
    /// The level of the baseline, the best where `None`.
    pub isa: Option<Level>,
    /// How a fresh process of this command is started.
    pub program: &'a Program,
}

/// What a run was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProofStage {
    /// The proof.
    Comparing,
    /// The control.
    Control,
}

impl ProofRequest<'_> {
    /// Computes all runs; `on_run` hears after each and may end it all.
    pub fn prove(
        &self,
        on_run: &mut dyn FnMut(ProofStage) -> ControlFlow<()>,
    ) -> anyhow::Result<Proof> {
        let at_least = |name, got, least| {
            anyhow::ensure!(got >= least, "{name} is {got}, expected at least {least}");
            Ok(())
        };
        at_least("tokens", self.tokens, 2)?;
        at_least("max_threads", self.max_threads, 1)?;
        let start = Instant::now();
        let subject = subject(self.model, self.tokens);
        let space = self.space();
        let mut spawn = || {
            self.spawn()
                .map_err(|e| RunError::Process(format!("{e:#}")))
        };
        let report = verify::verify(
            &Contract,
            self.model,
            &subject,
            &space,
            self.runs,
            &mut spawn,
            &mut |_: Axis| on_run(ProofStage::Comparing),
        )?;
        let (mut control_runs, mut control_distinct) = (0, 0);
        if self.control_runs > 0 {
            (control_runs, control_distinct) = verify::distinct(
                &Control,
                self.model,
                &subject,
                &space,
                self.control_runs,
                &mut || on_run(ProofStage::Control),
            )?;
        }
        Ok(Proof {
            model: self.folder.name(),
            numerics_version: jetblock_numerics::NUMERICS_VERSION,
            operands: self.model.operand_kind().name(),
            kv: self.model.kv_dtype().name(),
            tokens: self.tokens,
            levels: space.levels.iter().map(|level| level.name()).collect(),
            report,
            control_runs,
            control_distinct,
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    fn space(&self) -> Space {
        // The baseline runs at the best level, or at the one that was asked for.
        let mut levels = Level::available();
        levels.reverse();
        if let Some(isa) = self.isa {
            levels.sort_by_key(|level| *level != isa);
        }
        // 1..=33, and on both sides of where kernels change their tiles and tasks.
        let batch_sizes = (1..=33)
            .chain([47, 48, 49, 63, 64, 65, 127, 128, 129])
            .collect();
        Space {
            tokens: self.tokens,
            levels,
            max_threads: self.max_threads,
            batch_sizes,
        }
    }

    fn spawn(&self) -> anyhow::Result<Outcome> {
        let mut command = self.program.command()?;
        command.args([
            "verify",
            "--child",
            "--quiet",
            "--tokens",
            &self.tokens.to_string(),
        ]);
        let options = self.options;
        if let Some(kind) = options.operands {
            command.args(["--operands", kind.name()]);
        }
        if let Some(dtype) = options.kv_dtype {
            command.args(["--kv", dtype.name()]);
        }
        command.args(["--split", &options.split.to_string()]);
        if options.hash_ties {
            command.arg("--hash-ties");
        }
        command.arg("--json");
        let output = command
            .arg(self.folder.path())
            .output()
            .context("cannot start a fresh process")?;
        anyhow::ensure!(
            output.status.success(),
            "it failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        let child: Child = serde_json::from_slice(&output.stdout)
            .context("it printed something else than digests")?;
        let digest = |hex: &str| {
            hex.parse()
                .map(|Hex(bytes)| Digest(bytes))
                .map_err(anyhow::Error::msg)
        };
        Ok(Outcome {
            logits: digest(&child.logits)?,
            state: digest(&child.state)?,
            rows: Vec::new(),
        })
    }
}

/// Tokens drawn from the whole vocabulary by a fixed formula: every model has the same request for its size.
fn subject(model: &Model, tokens: usize) -> Subject {
    let vocab_size = model.config().vocab_size as u64;
    let id = |i: u64| {
        let [low, ..] = rng::words(
            0x4A42,
            Draw {
                position: i,
                sample: 0,
                domain: 0x5355_424A,
            },
        );
        ((u64::from(low) * vocab_size) >> 32) as u32
    };
    Subject {
        ids: (0..tokens as u64).map(id).collect(),
    }
}

fn child(model: &Model, args: &Args, output: &Output) -> anyhow::Result<Verdict> {
    let space = Space {
        tokens: args.tokens,
        levels: vec![Level::best()],
        max_threads: 1,
        batch_sizes: vec![1],
    };
    let outcome = verify::run(
        &Contract,
        model,
        &subject(model, args.tokens),
        &space.baseline(),
        &mut Pools::default(),
    )?;
    output.print_json(&Child {
        logits: outcome.logits.to_string(),
        state: outcome.state.to_string(),
    })?;
    Ok(Verdict::Passed)
}

impl Proof {
    pub(crate) fn verdict(&self) -> Verdict {
        let holds = self.report.runs > 0 && self.report.identical == self.report.runs;
        if holds {
            Verdict::Passed
        } else {
            Verdict::Failed
        }
    }

    pub(crate) fn text(&self) -> String {
        let Proof { report, .. } = self;
        let row = |name: String, runs: usize, identical: usize| {
            vec![name, runs.to_string(), identical.to_string()]
        };
        let mut rows: Vec<Vec<String>> = report
            .axes
            .iter()
            .map(|axis| row(axis.name.replace('_', " "), axis.runs, axis.identical))
            .collect();
        rows.push(row("all".into(), report.runs, report.identical));
        let mut text = format!(
            "{}: one request of {} tokens, every logit and all state compared bit by bit\n\
             operands {}, KV {}, instruction sets {}, numerics version {}\n\n{}\nlogits {}\nstate  {}\n\n",
            self.model,
            self.tokens,
            self.operands,
            self.kv,
            self.levels.join(" "),
            self.numerics_version,
            table(&["what varies", "runs", "identical"], &rows),
            report.logits,
            report.state,
        );
        text += &match &report.first_difference {
            None => format!(
                "{} of {} identical, {:.1} s\n",
                report.identical, report.runs, self.seconds
            ),
            Some(what) => format!(
                "NOT IDENTICAL: {} of {}; {what}\n",
                report.identical, report.runs
            ),
        };
        if self.control_runs > 0 {
            text += &format!(
                "control (the usual kernels under the same schedules): {} different answers in {} runs\n",
                self.control_distinct, self.control_runs
            );
        }
        text
    }
}
