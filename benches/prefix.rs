//! Time to the first token of a prompt of which a part was kept, in memory or in a folder, against computing it all.
//!
//! The kept part is what a process leaves that was asked with the same first tokens and then others. Each figure is of a
//! fresh engine, from the request to its first token: look-up, reading, checking and restoring are in it. Files come from the
//! system's page cache. Processor time of all threads, so that neighbours do not count, and time on the wall; medians.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use jetblock_benches::{Clock, median};
use jetblock_models::{Model, ModelDigests, Options, SequenceState};
use jetblock_numerics::paint;
use jetblock_ops::sampling::SamplingParams;
use jetblock_runtime::{Engine, EngineOptions, Event, PrefixFolder, Record, Request};
use jetblock_simd::{Cpu, Level};
use jetblock_tensor::Digest;

#[derive(Parser)]
struct Args {
    /// Model folders or GGUF files
    #[arg(required = true)]
    models: Vec<PathBuf>,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 2048)]
    prompt: usize,
    /// Shares of it that are kept, in percent
    #[arg(long, value_delimiter = ',', default_value = "50,90,99")]
    kept: Vec<usize>,
    #[arg(long, default_value_t = 5)]
    reps: usize,
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

/// Where the kept part is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Nowhere,
    Memory,
    Folder,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let cpu = Cpu::new(args.threads, Level::best())?;
    for path in &args.models {
        let model = Arc::new(Model::load(path, Options::default(), &mut |_| {})?);
        let start = Instant::now();
        let weights = ModelDigests::compute(path, &cpu, &mut |_| {})?.weights;
        println!(
            "{}: prompt of {} tokens, {} thread(s), {}; its digest takes {:.0} ms",
            path.file_name().unwrap_or_default().display(),
            args.prompt,
            args.threads,
            cpu.level(),
            1e3 * start.elapsed().as_secs_f64(),
        );
        measure(&args, &model, weights, &cpu)?;
    }
    Ok(())
}

fn measure(args: &Args, model: &Arc<Model>, weights: Digest, cpu: &Cpu) -> anyhow::Result<()> {
    let vocab_size = model.config().vocab_size as u32;
    let ids: Vec<u32> = (0..args.prompt)
        .map(|position| paint::hash(0, position as u32) % vocab_size)
        .collect();
    let mut cases = vec![(Place::Nowhere, 0, 0, None)];
    let mut folders = Vec::new();
    for &percent in &args.kept {
        let cut = (args.prompt * percent / 100).min(args.prompt - 1);
        let folder = tempfile::tempdir()?;
        let state = keep(model, weights, cpu, &ids[..cut], folder.path())?;
        for place in [Place::Memory, Place::Folder] {
            cases.push((place, percent, folders.len(), Some((cut, state.clone()))));
        }
        folders.push(folder);
    }
    let mut seconds = vec![(Vec::new(), Vec::new()); cases.len()];
    let mut want = None;
    for _ in 0..args.reps {
        for ((place, _, folder, kept), (process, wall)) in cases.iter().zip(&mut seconds) {
            let mut engine = engine(model, cpu, *place != Place::Nowhere);
            match (place, kept) {
                (Place::Memory, Some((cut, state))) => {
                    let cache = engine.prefix_cache().expect("it has bytes");
                    cache.keep(&ids[..*cut], state);
                }
                (Place::Folder, _) => {
                    let path = folders[*folder].path();
                    engine.keep_prefixes_in(open(path, model, weights)?);
                }
                _ => {}
            }
            let (start, start_wall) = (Clock::Process.now(), Instant::now());
            let first = first_token(&mut engine, &ids)?;
            process.push((Clock::Process.now() - start).as_secs_f64());
            wall.push(start_wall.elapsed().as_secs_f64());
            anyhow::ensure!(
                *want.get_or_insert(first) == first,
                "other bits from {place:?}"
            );
            let reused = engine
                .prefix_cache()
                .map_or(0, |cache| cache.stats().tokens_reused);
            let cut = kept.as_ref().map_or(0, |(cut, _)| *cut as u64);
            anyhow::ensure!(reused == cut, "{reused} tokens were reused, expected {cut}");
        }
    }
    println!("kept  where      processor time       wall  of computing all  bytes in folder");
    let all = median(&seconds[0].0).median;
    for ((place, percent, folder, _), (process, wall)) in cases.iter().zip(&seconds) {
        let process = median(process).median;
        let bytes = match place {
            Place::Folder => bytes(folders[*folder].path())?.to_string(),
            _ => "-".to_string(),
        };
        println!(
            "{percent:>3} %  {:<9} {:>12.1} ms {:>7.1} ms {:>14.1} %  {bytes:>15}",
            format!("{place:?}").to_lowercase(),
            1e3 * process,
            1e3 * median(wall).median,
            100.0 * process / all,
        );
    }
    println!();
    Ok(())
}

fn engine(model: &Arc<Model>, cpu: &Cpu, keeps: bool) -> Engine {
    let options = EngineOptions {
        prefix_cache_bytes: if keeps { 16 << 30 } else { 0 },
        ..EngineOptions::default()
    };
    Engine::new(model.clone(), cpu.clone(), options)
}

fn open(path: &Path, model: &Arc<Model>, weights: Digest) -> std::io::Result<PrefixFolder> {
    PrefixFolder::open(path, 64 << 30, model.clone(), weights)
}

/// What a process leaves in the folder that was asked something else after `ids`; the state after them.
fn keep(
    model: &Arc<Model>,
    weights: Digest,
    cpu: &Cpu,
    ids: &[u32],
    path: &Path,
) -> anyhow::Result<SequenceState> {
    let mut engine = engine(model, cpu, true);
    engine.keep_prefixes_in(open(path, model, weights)?);
    let other = [ids, &[0]].concat();
    first_token(&mut engine, &other)?;
    engine.prefix_cache().expect("it has bytes").flush();
    let state = open(path, model, weights)?.take(&other, 0);
    state.ok_or_else(|| anyhow::anyhow!("no state was kept"))
}

/// The first token, and the bits of its log-probability.
fn first_token(engine: &mut Engine, ids: &[u32]) -> anyhow::Result<(u32, u32)> {
    engine.submit(Request {
        prompt: ids.to_vec(),
        sampling: SamplingParams::default(),
        seed: 1,
        sample_index: 0,
        max_tokens: 1,
        stop_tokens: Vec::new(),
        log_probs: true,
        forced: None,
        record: Record::Nothing,
    })?;
    while !engine.is_idle() {
        for event in engine.step()? {
            match event {
                Event::Token {
                    token, log_prob, ..
                } => {
                    return Ok((token, log_prob.unwrap_or_default().to_bits()));
                }
                Event::Failed { error, .. } => anyhow::bail!(error),
                Event::Finished { .. } => {}
            }
        }
    }
    anyhow::bail!("no token came")
}

fn bytes(path: &Path) -> std::io::Result<u64> {
    let mut sum = 0;
    for item in std::fs::read_dir(path)? {
        sum += item?.metadata()?.len();
    }
    Ok(sum)
}
