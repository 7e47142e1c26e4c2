//! `jetblock logits`: every logit of given tokens, fed in given pieces, as a `.npy` file.

use std::path::PathBuf;

use anyhow::Context;
use jetblock_models::{LogitRows, Piece};
use jetblock_tensor::digest;
use serde_json::json;

use crate::Verdict;
use crate::args::{Global, List, ModelArgs};
use crate::npy;
use crate::output::Output;
use crate::saved::write_whole;

/// Arguments of `jetblock logits`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Token ids, separated by commas
    #[arg(long, value_name = "IDS")]
    pub(crate) ids: List<u32>,
    /// Lengths of the pieces in which the tokens are fed; a piece of 1 is a decode step [default: one piece]
    #[arg(long, value_name = "LENGTHS")]
    pub(crate) prefill: Option<List<usize>>,
    /// File to write: f32, [tokens, vocabulary], C order
    #[arg(long, value_name = "FILE.npy")]
    pub(crate) out: PathBuf,
}

pub(crate) fn run(args: &Args, global: &Global, output: &Output) -> anyhow::Result<Verdict> {
    let pieces = pieces(args.ids.0.len(), args.prefill.as_ref())?;
    let cpu = global.cpu()?;
    let folder = args.model.folder()?;
    let model = args.model.load(&folder, output)?;
    let vocab_size = model.config().vocab_size;
    let mut state = model.new_state();
    let mut workspace = model.workspace();
    let mut logits = Vec::with_capacity(args.ids.0.len() * vocab_size);
    let mut rest = &args.ids.0[..];
    for len in pieces {
        let (ids, after) = rest.split_at(len);
        rest = after;
        let mut batch = [Piece {
            ids,
            state: &mut state,
            logits: LogitRows::All,
        }];
        let results = model.forward(&mut batch, &cpu, &mut workspace)?;
        for rows in results {
            logits.extend(rows?);
        }
    }
    let shape = [args.ids.0.len(), vocab_size];
    write_whole(&args.out, |out| npy::write_f32(out, &shape, &logits))
        .with_context(|| format!("cannot write {}", args.out.display()))?;
    let digest = digest::f32s(&shape, &logits);
    if output.is_json() {
        let state = state.digest().to_string();
        output.print_json(
            &json!({"shape": shape, "logits": digest.to_string(), "state": state, "out": args.out}),
        )?;
    } else {
        output.remark(&format!(
            "wrote {} x {} logits, digest {digest}",
            shape[0], shape[1]
        ));
    }
    Ok(Verdict::Passed)
}

/// The lengths of the pieces, which together are all tokens.
fn pieces(tokens: usize, lengths: Option<&List<usize>>) -> anyhow::Result<Vec<usize>> {
    let Some(List(lengths)) = lengths else {
        return Ok(vec![tokens]);
    };
    anyhow::ensure!(
        !lengths.contains(&0),
        "--prefill has a piece of length 0, expected at least 1 token in each"
    );
    let sum = lengths
        .iter()
        .try_fold(0_usize, |sum, len| sum.checked_add(*len));
    anyhow::ensure!(
        sum == Some(tokens),
        "--prefill sums to {}, expected the number of --ids, {tokens}",
        sum.map_or("more than any list holds".into(), |sum| sum.to_string())
    );
    Ok(lengths.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_all_tokens() {
        assert_eq!(pieces(5, None).unwrap(), [5]);
        assert_eq!(pieces(5, Some(&List(vec![3, 1, 1]))).unwrap(), [3, 1, 1]);
        let error = |lengths: Vec<usize>| pieces(5, Some(&List(lengths))).unwrap_err().to_string();
        assert_eq!(
            error(vec![3, 1]),
            "--prefill sums to 4, expected the number of --ids, 5"
        );
        assert_eq!(
            error(vec![5, 0]),
            "--prefill has a piece of length 0, expected at least 1 token in each"
        );
        assert!(error(vec![usize::MAX, 6]).contains("more than any list holds"));
    }
}
