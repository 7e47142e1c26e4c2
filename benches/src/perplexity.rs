//! Perplexity of a text as `llama-perplexity` counts it: whole pieces of so many tokens, each from an empty state, of
//! which the tokens of the second half are predicted.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use jetblock_models::{LogitRows, Model, Options, Piece};
use jetblock_runtime::{AddSpecialTokens, Session};
use jetblock_simd::Cpu;

/// Rows of logits that are held at a time.
const ROWS: usize = 64;

/// What a model thinks of a text.
#[derive(Clone, Copy, Debug)]
pub struct Perplexity {
    /// e to the mean of -log p.
    pub value: f64,
    /// Pieces of the text; what is left over at its end does not count.
    pub pieces: usize,
}

/// In this process. The model brings its tokenizer.
pub fn of_jetblock(
    path: &Path,
    text: &Path,
    piece_len: usize,
    cpu: &Cpu,
) -> anyhow::Result<Perplexity> {
    let session = Session::open(path, Options::default(), &mut |_| ())
        .with_context(|| format!("cannot load {}", path.display()))?;
    let words =
        fs::read_to_string(text).with_context(|| format!("cannot read {}", text.display()))?;
    // llama-perplexity drops a newline at the end.
    let words = words.strip_suffix('\n').unwrap_or(&words);
    let encode = |special| session.tokenizer.encode(words, special);
    let mut ids = encode(AddSpecialTokens::Yes)?;
    // Where a text begins with a special token, that stands in place of the first token of every piece.
    let first = (ids != encode(AddSpecialTokens::No)?).then(|| ids[0]);
    let mut nats = 0.0;
    let pieces = ids.len() / piece_len;
    ensure!(
        pieces > 0,
        "{} has {} tokens, expected at least {piece_len}",
        text.display(),
        ids.len()
    );
    for piece in ids.chunks_exact_mut(piece_len) {
        piece[0] = first.unwrap_or(piece[0]);
        nats += nats_of_second_half(&session.model, piece, cpu)?;
    }
    let predicted = pieces * (piece_len - 1 - piece_len / 2);
    Ok(Perplexity {
        value: exp(nats / predicted as f64),
        pieces,
    })
}

/// Sum of -log p of the tokens after the one in the middle.
fn nats_of_second_half(model: &Model, ids: &[u32], cpu: &Cpu) -> anyhow::Result<f64> {
    let vocab_size = model.config().vocab_size;
    let (mut state, mut workspace) = (model.new_state(), model.workspace());
    let mut feed = |ids: &[u32], logits| {
        let mut batch = [Piece {
            state: &mut state,
            ids,
            logits,
        }];
        let mut rows = model.forward(&mut batch, cpu, &mut workspace)?;
        anyhow::Ok(rows.remove(0)?)
    };
    let (before, after) = ids.split_at(ids.len() / 2);
    feed(before, LogitRows::None)?;
    let mut nats = 0.0;
    let mut next = after[1..].iter();
    // The last token predicts what is not there.
    for part in after[..after.len() - 1].chunks(ROWS) {
        let logits = feed(part, LogitRows::All)?;
        for (row, &id) in logits.chunks(vocab_size).zip(&mut next) {
            nats += nats_of(row, id);
        }
    }
    Ok(nats)
}

/// -log of the softmax at `id`, in binary64.
fn nats_of(logits: &[f32], id: u32) -> f64 {
    let wide = |x: f32| f64::from(x);
    let most = logits.iter().copied().map(wide).fold(f64::MIN, f64::max);
    let sum: f64 = logits.iter().map(|&x| exp(wide(x) - most)).sum();
    most + ln(sum) - wide(logits[id as usize])
}

/// By llama.cpp's `llama-perplexity`, in the folder of its programs.
pub fn of_llama_cpp(
    bin: &Path,
    gguf: &Path,
    text: &Path,
    piece_len: usize,
    threads: usize,
) -> anyhow::Result<Perplexity> {
    let program = bin.join("llama-perplexity");
    ensure!(program.is_file(), "{} is not a file", program.display());
    let output = Command::new(&program)
        .arg("-m")
        .arg(gguf)
        .arg("-f")
        .arg(text)
        .args(["-c", &piece_len.to_string(), "-t", &threads.to_string()])
        .output()
        .with_context(|| format!("cannot start {}", program.display()))?;
    // The figure and the number of pieces come as messages.
    let said = String::from_utf8_lossy(&output.stderr);
    let number_after = |words: &str| {
        let (_, rest) = said.split_once(words)?;
        rest.split_whitespace().next()
    };
    let value = number_after("Final estimate: PPL =").and_then(|n| n.parse().ok());
    let pieces = number_after("calculating perplexity over").and_then(|n| n.parse().ok());
    match (output.status.success(), value.zip(pieces)) {
        (true, Some((value, pieces))) => Ok(Perplexity { value, pieces }),
        _ => anyhow::bail!("llama-perplexity ended with {}: {said}", output.status),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nats_are_those_of_the_softmax() {
        // p = (3/4, 1/4)
        let three = 1.098_612_3_f32;
        assert!((nats_of(&[three, 0.0], 0) + ln(0.75)).abs() < 1e-7);
        assert!((nats_of(&[three, 0.0], 1) + ln(0.25)).abs() < 1e-7);
        assert!((nats_of(&[1000.0; 8], 5) - ln(8.0)).abs() < 1e-12);
    }
}
