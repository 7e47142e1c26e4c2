//! `jetblock verify RECEIPT`: runs a receipt's request again and compares every digest.

use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use jetblock_models::Options;
use jetblock_ops::attention::KvDtype;
use jetblock_ops::linear::OperandKind;
use jetblock_runtime::Session;
use jetblock_runtime::receipt::{self, Comparison, ContractFacts, ModelFacts, Receipt};
use jetblock_runtime::verify::Pools;
use serde::Serialize;

use super::Args;
use crate::Verdict;
use crate::args::Global;
use crate::bundled::{self, Folder};
use crate::commands::diff::facts_text;
use crate::output::{Output, Unit, table};

/// One run of the request.
#[derive(Serialize)]
struct Run {
    /// What is varied.
    schedule: String,
    #[serde(flatten)]
    comparison: Comparison,
}

pub(super) fn run(
    args: &Args,
    file: &Path,
    global: &Global,
    output: &Output,
) -> anyhow::Result<Verdict> {
    let start = Instant::now();
    let receipt = Receipt::open(file)
        .with_context(|| format!("cannot read the receipt {}", file.display()))?;
    let folder = folder(args, &receipt)?;
    let recorded = options(&receipt.contract)?;
    let session = args
        .model
        .load_over(recorded, &folder, output, Session::open)?;
    let cpu = global.cpu()?;
    let digests = folder.digests(&cpu, output)?;
    let model = ModelFacts::of(&session.model, &digests);

    let levels = match global.isa {
        Some(level) => vec![level],
        None => receipt::fast_levels(),
    };
    let replays = receipt::schedules(&receipt, cpu.threads(), &levels);
    let bar = output.progress("comparing", replays.len() as u64, Unit::Items);
    let mut pools = Pools::default();
    let mut runs = Vec::new();
    for replay in &replays {
        let again = receipt::replay(&session, model.clone(), &receipt, replay, &mut pools)?;
        runs.push(Run {
            schedule: replay.name.clone(),
            comparison: receipt::compare(&receipt, &again),
        });
        bar.inc(1);
    }
    bar.finish_and_clear();

    let identical = runs.iter().all(|run| run.comparison.identical);
    if output.is_json() {
        output.print_json(&serde_json::json!({
            "identical": identical,
            "runs": runs,
            "seconds": start.elapsed().as_secs_f64(),
        }))?;
    } else {
        let head = format!(
            "{}: {} tokens after a prompt of {}, {}\nrecorded by JetBlock {} at {} with {} thread(s)\n\n",
            file.display(),
            receipt.output.tokens.len(),
            receipt.request.prompt_tokens.len(),
            match receipt.has_layers() {
                true => "with the hidden states after each layer",
                false => "logits of each",
            },
            receipt.environment.jetblock,
            receipt.environment.isa,
            receipt.environment.threads,
        );
        output.print(&(head + &text(&runs)))?;
    }
    Ok(match identical {
        true => Verdict::Passed,
        false => Verdict::Failed,
    })
}

/// The model that a receipt is about.
fn folder(args: &Args, receipt: &Receipt) -> anyhow::Result<Folder> {
    let name = &receipt.environment.model;
    anyhow::ensure!(
        args.receipt_model.is_some() || name == bundled::NAME,
        "the receipt is of {name}, expected its folder or file after the receipt: jetblock verify RECEIPT MODEL"
    );
    Folder::or_bundled(args.receipt_model.as_deref())
}

/// The options under which a receipt's bits came about.
fn options(contract: &ContractFacts) -> anyhow::Result<Options> {
    let operands = [OperandKind::Bf16, OperandKind::F32];
    let unknown = |field: &str, got: &str| {
        format!("contract.{field} of the receipt is {got:?}, which this version does not know")
    };
    Ok(Options {
        operands: Some(
            *operands
                .iter()
                .find(|kind| kind.name() == contract.operands)
                .with_context(|| unknown("operands", &contract.operands))?,
        ),
        kv_dtype: Some(
            KvDtype::ALL
                .into_iter()
                .find(|dtype| dtype.name() == contract.kv)
                .with_context(|| unknown("kv", &contract.kv))?,
        ),
        split: contract.split,
        hash_ties: contract.hash_ties,
    })
}

fn text(runs: &[Run]) -> String {
    let rows: Vec<_> = runs
        .iter()
        .map(|run| {
            let Comparison { first, steps, .. } = &run.comparison;
            let result = match first {
                None => format!("{steps} of {steps} identical"),
                Some(first) => format!("differs at step {}", first.step),
            };
            vec![run.schedule.clone(), result]
        })
        .collect();
    let mut text = table(&["run again", "steps"], &rows);
    match runs.iter().find(|run| !run.comparison.identical) {
        None => text += "\nidentical: every logit, every token, the text\n",
        Some(run) => {
            let first = run.comparison.first.as_ref().expect("it is not identical");
            text += &format!("\nNOT IDENTICAL: {first}\n");
            text += &facts_text(&run.comparison, "recorded", "here");
        }
    }
    text
}
