//! `jetblock bench`: speed, memory and the price of the guarantee, contract and control in one run.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use jetblock_control::Control;
use jetblock_models::model::{Contract, Kernels};
use jetblock_models::{LogitRows, Model, Piece, SequenceState, Workspace};
use jetblock_numerics::paint;
use jetblock_ops::OpError;
use jetblock_ops::attention::{Attention, KvDtype};
use jetblock_ops::linear::LinearJob;
use jetblock_ops::rms_norm::RmsNorm;
use jetblock_ops::rms_norm_gated::RmsNormGated;
use jetblock_ops::selective_scan::SelectiveScan;
use jetblock_simd::Cpu;
use serde::Serialize;

use crate::Verdict;
use crate::args::{Global, List, ModelArgs};
use crate::output::{self, Output, Unit, table};

/// Arguments of `jetblock bench`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Prompt tokens
    #[arg(long, default_value_t = 512)]
    pub(crate) prompt: usize,
    /// Tokens to decode
    #[arg(long, default_value_t = 32)]
    pub(crate) decode: usize,
    /// Batch sizes to decode with, separated by commas
    #[arg(long, value_name = "SIZES", default_value = "1,8")]
    pub(crate) batch: List<usize>,
    /// Repetitions; the median counts
    #[arg(long, default_value_t = 5)]
    pub(crate) reps: usize,
    /// Leave out the control (the usual kernels)
    #[arg(long)]
    pub(crate) no_control: bool,
}

/// One kind of work, measured with both kernels in turn.
#[derive(Serialize)]
struct Line {
    what: String,
    /// Median tokens per second.
    tokens_per_second: f64,
    /// The control's, and the median of the ratios of neighbouring runs (contract over control).
    control_tokens_per_second: Option<f64>,
    ratio: Option<f64>,
}

/// Exact bytes of a KV cache.
#[derive(Serialize)]
struct KvBytes {
    dtype: &'static str,
    per_token: usize,
    /// Of a sequence as long as the prompt.
    per_prompt: usize,
}

#[derive(Serialize)]
struct Report {
    model: String,
    operands: &'static str,
    kv: &'static str,
    threads: usize,
    level: &'static str,
    weights_bytes: usize,
    state_bytes: usize,
    /// Of every dtype the cache could have.
    kv_bytes: Vec<KvBytes>,
    peak_resident_bytes: u64,
    lines: Vec<Line>,
    /// Share of time by op, prefill and decode.
    prefill_share: Vec<(&'static str, f64)>,
    decode_share: Vec<(&'static str, f64)>,
}

pub(crate) fn run(args: &Args, global: &Global, output: &Output) -> anyhow::Result<Verdict> {
    let batches = &args.batch.0;
    anyhow::ensure!(
        args.prompt > 0 && args.decode > 0 && args.reps > 0,
        "--prompt, --decode and --reps are at least 1"
    );
    anyhow::ensure!(
        batches.iter().all(|&b| b > 0),
        "--batch has a size of 0, expected at least 1"
    );
    let folder = args.model.folder()?;
    let cpu = global.cpu()?;
    let model = args.model.load(&folder, output)?;
    // Every sequence has tokens of its own: with equal ones, a batch would ask for the experts of a single token.
    let token = |sequence: usize, position: usize| {
        paint::hash(sequence as u32, position as u32) % model.config().vocab_size as u32
    };
    let ids: Vec<u32> = (0..args.prompt).map(|p| token(0, p)).collect();
    let mut workspace = model.workspace();
    let mut prompt_state = model.new_state();
    feed(
        &Contract,
        &model,
        &mut [&mut prompt_state],
        &ids,
        &cpu,
        &mut workspace,
    )?;
    let peak_resident_bytes = peak_resident();

    let bar = output.progress(
        "measuring",
        ((1 + batches.len()) * args.reps) as u64,
        Unit::Items,
    );
    let mut lines = Vec::new();
    let mut measure = |what: String,
                       tokens: usize,
                       run: &mut dyn FnMut(bool) -> anyhow::Result<()>|
     -> anyhow::Result<()> {
        let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..args.reps {
            let contract = timed(|| run(false))?;
            ours.push(tokens as f64 / contract);
            if !args.no_control {
                let control = timed(|| run(true))?;
                theirs.push(tokens as f64 / control);
                ratios.push(control / contract);
            }
            bar.inc(1);
        }
        let control = (!args.no_control).then(|| (median(&mut theirs), median(&mut ratios)));
        lines.push(Line {
            what,
            tokens_per_second: median(&mut ours),
            control_tokens_per_second: control.map(|c| c.0),
            ratio: control.map(|c| c.1),
        });
        Ok(())
    };
    measure(
        format!("prefill {}", args.prompt),
        args.prompt,
        &mut |control| {
            let mut state = model.new_state();
            match control {
                false => feed(
                    &Contract,
                    &model,
                    &mut [&mut state],
                    &ids,
                    &cpu,
                    &mut workspace,
                ),
                true => feed(
                    &Control,
                    &model,
                    &mut [&mut state],
                    &ids,
                    &cpu,
                    &mut workspace,
                ),
            }
        },
    )?;
    for &batch in batches {
        measure(
            format!("decode, batch {batch}"),
            batch * args.decode,
            &mut |control| {
                let mut states = vec![prompt_state.clone(); batch];
                let mut states: Vec<&mut SequenceState> = states.iter_mut().collect();
                for step in 0..args.decode {
                    let ids: Vec<u32> = (0..batch).map(|s| token(s, args.prompt + step)).collect();
                    match control {
                        false => feed(&Contract, &model, &mut states, &ids, &cpu, &mut workspace)?,
                        true => feed(&Control, &model, &mut states, &ids, &cpu, &mut workspace)?,
                    }
                }
                Ok(())
            },
        )?;
    }
    bar.finish_and_clear();
    let clock = Clock::default();
    let mut state = model.new_state();
    let total = timed(|| {
        feed(
            &clock,
            &model,
            &mut [&mut state],
            &ids,
            &cpu,
            &mut workspace,
        )
    })?;
    let prefill_share = clock.shares(total);
    let clock = Clock::default();
    let total = timed(|| {
        (0..args.decode).try_for_each(|step| {
            feed(
                &clock,
                &model,
                &mut [&mut state],
                &[token(0, args.prompt + step)],
                &cpu,
                &mut workspace,
            )
        })
    })?;
    let report = Report {
        model: folder.name(),
        operands: model.operand_kind().name(),
        kv: model.kv_dtype().name(),
        threads: cpu.threads(),
        level: cpu.level().name(),
        weights_bytes: model.bytes(),
        state_bytes: prompt_state.bytes(),
        kv_bytes: KvDtype::ALL
            .map(|dtype| {
                let per_token = model.kv_bytes_per_token(dtype);
                KvBytes {
                    dtype: dtype.name(),
                    per_token,
                    per_prompt: per_token * args.prompt,
                }
            })
            .into(),
        peak_resident_bytes,
        lines,
        prefill_share,
        decode_share: clock.shares(total),
    };
    if output.is_json() {
        output.print_json(&report)?;
    } else {
        output.print(&report.text())?;
    }
    Ok(Verdict::Passed)
}

/// Feeds the sequences equal shares of the tokens.
fn feed<K: Kernels>(
    kernels: &K,
    model: &Model,
    states: &mut [&mut SequenceState],
    ids: &[u32],
    cpu: &Cpu,
    workspace: &mut Workspace,
) -> anyhow::Result<()> {
    let sequences = states.len();
    let mut pieces: Vec<Piece<'_>> = states
        .iter_mut()
        .zip(ids.chunks(ids.len() / sequences))
        .map(|(state, ids)| Piece {
            state,
            ids,
            logits: LogitRows::Last,
        })
        .collect();
    for result in model.forward_with(kernels, &mut pieces, cpu, workspace, None)? {
        std::hint::black_box(result?);
    }
    Ok(())
}

fn timed(run: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let start = Instant::now();
    run()?;
    Ok(start.elapsed().as_secs_f64())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    if !n.is_multiple_of(2) {
        values[n / 2]
    } else {
        (values[n / 2 - 1] + values[n / 2]) / 2.0
    }
}

/// The most memory this process has had resident, 0 where the system does not say.
fn peak_resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|kib| kib.trim().trim_end_matches("kB").trim().parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}

/// The contract's kernels with a clock on each.
#[derive(Default)]
struct Clock {
    nanoseconds: [AtomicU64; 5],
}

const CLOCKED: [&str; 5] = [
    "linear",
    "selective_scan",
    "attention",
    "rms_norm",
    "rms_norm_gated",
];

impl Clock {
    fn time<T>(&self, op: usize, run: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = run();
        self.nanoseconds[op].fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
        result
    }

    fn shares(&self, total: f64) -> Vec<(&'static str, f64)> {
        let of = |op: usize| self.nanoseconds[op].load(Ordering::Relaxed) as f64 / 1e9 / total;
        let mut shares: Vec<_> = CLOCKED
            .iter()
            .enumerate()
            .map(|(op, name)| (*name, of(op)))
            .collect();
        let rest = 1.0 - shares.iter().map(|(_, share)| share).sum::<f64>();
        shares.push(("everything else", rest));
        shares
    }
}

impl Kernels for Clock {
    fn rms_norm(&self, cpu: &Cpu, args: &RmsNorm<'_>, out: &mut [f32]) -> Result<(), OpError> {
        self.time(3, || Contract.rms_norm(cpu, args, out))
    }
    fn rms_norm_gated(
        &self,
        cpu: &Cpu,
        args: &RmsNormGated<'_>,
        out: &mut [f32],
    ) -> Result<(), OpError> {
        self.time(4, || Contract.rms_norm_gated(cpu, args, out))
    }
    fn grouped_linear(&self, cpu: &Cpu, jobs: Vec<LinearJob<'_>>) -> Result<(), OpError> {
        self.time(0, || Contract.grouped_linear(cpu, jobs))
    }
    fn selective_scan(
        &self,
        cpu: &Cpu,
        args: &SelectiveScan<'_>,
        states: &mut [&mut [f32]],
        out: &mut [f32],
    ) -> Result<(), OpError> {
        self.time(1, || Contract.selective_scan(cpu, args, states, out))
    }
    fn attention(&self, cpu: &Cpu, args: &Attention<'_>, out: &mut [f32]) -> Result<(), OpError> {
        self.time(2, || Contract.attention(cpu, args, out))
    }
}

impl Report {
    fn text(&self) -> String {
        let or_dash =
            |v: Option<f64>, digits: usize| v.map_or("-".to_string(), |v| format!("{v:.digits$}"));
        let speed = |line: &Line| {
            vec![
                line.what.clone(),
                format!("{:.1}", line.tokens_per_second),
                or_dash(line.control_tokens_per_second, 1),
                or_dash(line.ratio, 3),
            ]
        };
        let speeds: Vec<_> = self.lines.iter().map(speed).collect();
        let memory: Vec<_> = [
            ("packed weights", self.weights_bytes as u64),
            ("state of one sequence", self.state_bytes as u64),
            ("peak resident", self.peak_resident_bytes),
        ]
        .map(|(what, bytes)| vec![what.to_string(), output::bytes(bytes)])
        .to_vec();
        let bf16 = self.kv_bytes.iter().find(|kv| kv.dtype == "bf16");
        let of_bf16 = |kv: &KvBytes| match bf16 {
            Some(bf16) if bf16.per_token > 0 => {
                format!(
                    "{:.3} %",
                    100.0 * kv.per_token as f64 / bf16.per_token as f64
                )
            }
            _ => "-".to_string(),
        };
        let caches: Vec<_> = self
            .kv_bytes
            .iter()
            .map(|kv| {
                let bytes = [kv.per_token, kv.per_prompt].map(|bytes| bytes.to_string());
                let [per_token, per_prompt] = bytes;
                vec![kv.dtype.to_string(), per_token, per_prompt, of_bf16(kv)]
            })
            .collect();
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let shares: Vec<_> = self
            .prefill_share
            .iter()
            .zip(&self.decode_share)
            .map(|((name, prefill), (_, decode))| {
                vec![name.to_string(), percent(*prefill), percent(*decode)]
            })
            .collect();
        format!(
            "{}: operands {}, KV {}, {} thread(s), {}\n\n{}\n{}\n{}\n{}",
            self.model,
            self.operands,
            self.kv,
            self.threads,
            self.level,
            table(&["", "tokens/s", "control", "contract/control"], &speeds),
            table(&["memory", ""], &memory),
            table(
                &["KV cache", "bytes/token", "bytes/prompt", "of bf16"],
                &caches
            ),
            table(&["share of time", "prefill", "decode"], &shares),
        )
    }
}
