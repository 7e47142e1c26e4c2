//! `jetblock diff A B`: compares two receipts.

use std::path::PathBuf;

use anyhow::Context as _;
use jetblock_runtime::receipt::{Comparison, Fact, Receipt, compare};

use crate::Verdict;
use crate::output::Output;

/// Arguments of `jetblock diff`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// A receipt
    pub(crate) left: PathBuf,
    /// Another receipt
    pub(crate) right: PathBuf,
}

pub(crate) fn run(args: &Args, output: &Output) -> anyhow::Result<Verdict> {
    let open = |path: &PathBuf| {
        Receipt::open(path).with_context(|| format!("cannot read the receipt {}", path.display()))
    };
    let comparison = compare(&open(&args.left)?, &open(&args.right)?);
    if output.is_json() {
        output.print_json(&comparison)?;
    } else {
        let mut text = match &comparison.first {
            None => format!("identical: {} steps\n", comparison.steps),
            Some(first) => format!("DIFFERENT: {first}\n"),
        };
        text += &facts_text(&comparison, "left", "right");
        output.print(&text)?;
    }
    Ok(match comparison.identical {
        true => Verdict::Passed,
        false => Verdict::Failed,
    })
}

/// The facts that differ: those that explain a difference, then those that must not.
pub(crate) fn facts_text(comparison: &Comparison, left: &str, right: &str) -> String {
    // A model has thousands of tensors; a few show where it differs.
    const MOST: usize = 8;
    let mut text = String::new();
    let mut list = |heading: String, facts: &[Fact]| {
        if facts.is_empty() {
            return;
        }
        text += &format!("{heading} ({left}, {right})\n");
        for fact in facts.iter().take(MOST) {
            text += &format!("  {fact}\n");
        }
        if facts.len() > MOST {
            text += &format!("  and {} more\n", facts.len() - MOST);
        }
    };
    match comparison.identical {
        true => list(
            "asked differently, answered alike".into(),
            &comparison.causes,
        ),
        false => list("explained by".into(), &comparison.causes),
    }
    list(
        "ran differently, which changes no bit".into(),
        &comparison.environment,
    );
    if !comparison.identical && comparison.causes.is_empty() {
        text += "No recorded fact explains it: the same request gave other bits, which the contract rules out. Suspect the hardware, or a fault in JetBlock.\n";
    }
    text
}
