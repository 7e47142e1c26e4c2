//! `jetblock eval`: what a dtype of the KV cache costs on a text, against f32.

use std::path::PathBuf;

use anyhow::Context;
use clap::ValueEnum;
use jetblock_models::{LogitRows, Model, Piece, SequenceState, Workspace};
use jetblock_ops::attention::KvDtype;
use jetblock_runtime::{AddSpecialTokens, Session};
use jetblock_simd::Cpu;
use serde::Serialize;

use crate::Verdict;
use crate::args::{Global, Kv, ModelArgs};
use crate::output::{Output, Unit, table};

/// Arguments of `jetblock eval`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// UTF-8 text that the model has not seen
    #[arg(long, value_name = "FILE")]
    pub(crate) text: PathBuf,
    /// Tokens of a window; each starts from an empty state
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    pub(crate) window: usize,
}

/// Rows of logits that are held at a time.
const ROWS: usize = 64;

/// Sums over positions, in binary64.
#[derive(Default)]
struct Sums {
    positions: usize,
    /// Of -log p(next token).
    nats: f64,
    /// Of KL(f32 || this dtype) of the next token's distribution.
    kl: f64,
    same_top: usize,
}

#[derive(Serialize)]
struct Line {
    kv: &'static str,
    nats_per_token: f64,
    perplexity: f64,
    kl_nats: f64,
    top_1_agreement: f64,
    kv_bytes_per_token: usize,
}

#[derive(Serialize)]
struct Report {
    model: String,
    operands: &'static str,
    text: PathBuf,
    tokens: usize,
    window: usize,
    positions: usize,
    lines: Vec<Line>,
}

pub(crate) fn run(args: &Args, global: &Global, output: &Output) -> anyhow::Result<Verdict> {
    anyhow::ensure!(args.window > 1, "--window is at least 2");
    let cpu = global.cpu()?;
    let folder = args.model.folder()?;
    let text = std::fs::read_to_string(&args.text)
        .with_context(|| format!("cannot read {}", args.text.display()))?;
    let with = |kv: Kv| ModelArgs {
        kv: Some(kv),
        ..args.model.clone()
    };
    let Session {
        model: reference,
        tokenizer,
        ..
    } = with(Kv::F32).load_with(&folder, output, Session::open)?;
    let ids = tokenizer.encode(&text, AddSpecialTokens::No)?;
    anyhow::ensure!(
        ids.len() > 1,
        "{} has {} tokens, expected at least 2",
        args.text.display(),
        ids.len()
    );
    let chosen = match args.model.kv {
        Some(kv) => vec![kv],
        None => Kv::value_variants().to_vec(),
    };
    let mut lines = Vec::new();
    let mut positions = 0;
    for kv in chosen {
        let (dtype, model) = (KvDtype::from(kv), with(kv).load(&folder, output)?);
        let bar = output.progress(dtype.name(), ids.len() as u64, Unit::Items);
        let mut sums = Sums::default();
        for window in ids.chunks(args.window) {
            let mut sides = [Side::new(&reference), Side::new(&model)];
            for start in (0..window.len() - 1).step_by(ROWS) {
                let end = window.len().min(start + ROWS);
                let [reference, other] = &mut sides;
                let piece = &window[start..end];
                let (reference, other) = (reference.feed(piece, &cpu)?, other.feed(piece, &cpu)?);
                sums.add(&reference, &other, &window[start + 1..]);
                bar.inc((end - start) as u64);
            }
        }
        bar.finish_and_clear();
        positions = sums.positions;
        lines.push(sums.line(dtype, &model));
    }
    let report = Report {
        model: folder.name(),
        operands: reference.operand_kind().name(),
        text: args.text.clone(),
        tokens: ids.len(),
        window: args.window,
        positions,
        lines,
    };
    if output.is_json() {
        output.print_json(&report)?;
    } else {
        output.print(&report.text())?;
    }
    Ok(Verdict::Passed)
}

/// One of two models that read the same text.
struct Side<'a> {
    model: &'a Model,
    state: SequenceState,
    workspace: Workspace,
}

impl Side<'_> {
    fn new(model: &Model) -> Side<'_> {
        Side {
            model,
            state: model.new_state(),
            workspace: model.workspace(),
        }
    }

    /// Logits of every token of the piece, a row each.
    fn feed(&mut self, ids: &[u32], cpu: &Cpu) -> anyhow::Result<Vec<Vec<f32>>> {
        let mut batch = [Piece {
            ids,
            state: &mut self.state,
            logits: LogitRows::All,
        }];
        let mut results = self.model.forward(&mut batch, cpu, &mut self.workspace)?;
        let logits = results.remove(0)?;
        let vocab_size = self.model.config().vocab_size;
        Ok(logits.chunks(vocab_size).map(<[f32]>::to_vec).collect())
    }
}

impl Sums {
    /// `next` follows the first row's token.
    fn add(&mut self, reference: &[Vec<f32>], other: &[Vec<f32>], next: &[u32]) {
        for ((reference, other), &id) in reference.iter().zip(other).zip(next) {
            let (p, q) = (log_softmax(reference), log_softmax(other));
            self.positions += 1;
            self.nats -= q[id as usize];
            self.kl += p
                .iter()
                .zip(&q)
                .map(|(p, q)| exp(*p) * (p - q))
                .sum::<f64>();
            self.same_top += usize::from(top(&p) == top(&q));
        }
    }

    fn line(&self, dtype: KvDtype, model: &Model) -> Line {
        let n = self.positions as f64;
        Line {
            kv: dtype.name(),
            nats_per_token: self.nats / n,
            perplexity: exp(self.nats / n),
            kl_nats: self.kl / n,
            top_1_agreement: self.same_top as f64 / n,
            kv_bytes_per_token: model.kv_bytes_per_token(dtype),
        }
    }
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let most = logits
        .iter()
        .copied()
        .fold(f32::NEG_INFINITY, jetblock_numerics::max);
    let sum: f64 = logits
        .iter()
        .map(|&x| exp(f64::from(x) - f64::from(most)))
        .sum();
    let log_sum = f64::from(most) + ln(sum);
    logits.iter().map(|&x| f64::from(x) - log_sum).collect()
}

/// The likeliest token, of equal ones the first.
fn top(log_p: &[f64]) -> usize {
    (1..log_p.len()).fold(0, |best, i| if log_p[i] > log_p[best] { i } else { best })
}

#[expect(
    clippy::disallowed_methods,
    reason = "a measurement; no result's bits depend on it"
)]
fn exp(x: f64) -> f64 {
    x.exp()
}

#[expect(
    clippy::disallowed_methods,
    reason = "a measurement; no result's bits depend on it"
)]
fn ln(x: f64) -> f64 {
    x.ln()
}

impl Report {
    fn text(&self) -> String {
        let rows: Vec<_> = self
            .lines
            .iter()
            .map(|line| {
                vec![
                    line.kv.to_string(),
                    line.kv_bytes_per_token.to_string(),
                    format!("{:.4}", line.nats_per_token),
                    format!("{:.3}", line.perplexity),
                    format!("{:.2e}", line.kl_nats),
                    format!("{:.2} %", 100.0 * line.top_1_agreement),
                ]
            })
            .collect();
        let header = [
            "KV",
            "bytes/token",
            "nats/token",
            "perplexity",
            "KL from f32",
            "same top token",
        ];
        format!(
            "{}: operands {}, {} positions of {} in windows of {}\n\n{}",
            self.model,
            self.operands,
            self.positions,
            self.text.display(),
            self.window,
            table(&header, &rows)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_logits_lose_nothing() {
        let rows = vec![vec![1.0, 2.0, -3.0, 2.0], vec![0.5; 4]];
        let mut sums = Sums::default();
        sums.add(&rows, &rows, &[1, 0]);
        assert_eq!((sums.positions, sums.same_top, sums.kl), (2, 2, 0.0));
        let want = -log_softmax(&rows[0])[1] + 4.0_f64.log2() * std::f64::consts::LN_2;
        assert!((sums.nats - want).abs() < 1e-12);
    }

    #[test]
    fn kl_is_that_of_the_definition() {
        // p = (3/4, 1/4), q = (1/4, 3/4): KL = ln(3) / 2, and the top differs.
        let three = 1.098_612_3_f32;
        let mut sums = Sums::default();
        sums.add(&[vec![three, 0.0]], &[vec![0.0, three]], &[0]);
        assert!(
            (sums.kl - 0.5 * f64::from(three)).abs() < 1e-7,
            "{}",
            sums.kl
        );
        assert_eq!(sums.same_top, 0);
    }
}
