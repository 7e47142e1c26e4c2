//! Whole models in JetBlock and in the programs people use instead, in one run.
//!
//! Everything takes turns: each work on each number of threads goes round the engines before the next turn begins, so
//! that what disturbs the machine disturbs all of them. A ratio is taken inside a turn, and medians are reported.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{bail, ensure};
use clap::Parser;
use jetblock_benches::engine::{Engine, JetBlock, LlamaCpp, Transformers, Work};
use jetblock_benches::{Clock, Spread, limits, machine, median, perplexity, rate};
use jetblock_models::gguf::Gguf;
use jetblock_simd::{Cpu, HugeVec, Level};
use serde_json::{Value, json};

/// What the read bandwidth is measured on.
const READ_BYTES: usize = 192 << 20;
const ENGINES: [&str; 3] = ["JetBlock", "llama.cpp", "transformers"];

#[derive(Parser)]
#[command(about = "Whole models in JetBlock, llama.cpp and transformers, in alternating turns")]
struct Args {
    /// Model folders or GGUF files; `benches/peers/make_model.py` makes the two folders of the published figures.
    #[arg(required = true)]
    models: Vec<PathBuf>,
    /// Folder with llama.cpp's llama-bench, llama-batched-bench and, for --text, llama-perplexity.
    #[arg(long, value_name = "FOLDER")]
    llama_cpp: Option<PathBuf>,
    /// The models as GGUF files for llama.cpp, in the same order, separated by commas [default: the models].
    #[arg(
        long,
        value_name = "FILES",
        value_delimiter = ',',
        requires = "llama_cpp"
    )]
    gguf: Vec<PathBuf>,
    /// Also compare the perplexity of this text with llama.cpp's.
    #[arg(long, value_name = "FILE", requires = "llama_cpp")]
    text: Option<PathBuf>,
    /// Tokens of a piece of the text; those of its second half are predicted.
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    piece: usize,
    /// A Python interpreter that has torch and transformers.
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
    /// Numbers of threads, separated by commas.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2])]
    threads: Vec<usize>,
    /// Turns; medians count.
    #[arg(long, default_value_t = 5)]
    turns: usize,
    /// Tokens of the prefill.
    #[arg(long, default_value_t = 512)]
    prompt: usize,
    /// Batch sizes of the decoding, separated by commas.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8])]
    batch: Vec<usize>,
    /// Steps of the decoding.
    #[arg(long, default_value_t = 32)]
    steps: usize,
    /// Tokens in each sequence before its decoding.
    #[arg(long, default_value_t = 128)]
    context: usize,
    /// Instruction-set level of JetBlock; the best one if absent.
    #[arg(long)]
    isa: Option<Level>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// One engine in the run of one model: at work, or absent with the reason.
type Place = Result<Box<dyn Engine>, String>;

/// One line of the table: tokens per second of each engine, one value a turn.
struct Row {
    model: String,
    work: Work,
    threads: usize,
    speeds: [Vec<f64>; ENGINES.len()],
}

/// What two engines think of the same text.
struct PerplexityRow {
    model: String,
    pieces: usize,
    piece_len: usize,
    jetblock: f64,
    llama_cpp: f64,
}

/// What was found out about the machine, one value a turn.
#[derive(Default)]
struct Conditions {
    read_bytes_per_second: Vec<f64>,
    busy_cores: Vec<f64>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let positive = [args.turns, args.prompt, args.steps, args.context];
    ensure!(
        positive.iter().chain(&args.batch).all(|&n| n > 0),
        "--turns, --prompt, --batch, --steps and --context are at least 1"
    );
    ensure!(args.piece >= 4, "--piece is at least 4");
    ensure!(
        args.gguf.is_empty() || args.gguf.len() == args.models.len(),
        "{} GGUF files for {} models, expected one each",
        args.gguf.len(),
        args.models.len()
    );
    let mut conditions = Conditions::default();
    let mut report = Report {
        rows: Vec::new(),
        perplexities: Vec::new(),
        notes: Vec::new(),
        level: args.isa.unwrap_or_else(Level::best),
        turns: args.turns,
    };
    for (i, folder) in args.models.iter().enumerate() {
        let own = Some(folder).filter(|path| Gguf::is_named(path));
        let gguf = args.gguf.get(i).or(own);
        if let Some(text) = &args.text {
            report
                .perplexities
                .push(compare_perplexity(&args, text, folder, gguf)?);
        }
        measure(&args, folder, gguf, &mut conditions, &mut report)?;
    }
    if args.json {
        println!("{:#}", report.json(&conditions));
    } else {
        report.print(&conditions);
    }
    Ok(())
}

/// A model's perplexity in JetBlock and llama.cpp.
fn compare_perplexity(
    args: &Args,
    text: &Path,
    folder: &Path,
    gguf: Option<&PathBuf>,
) -> anyhow::Result<PerplexityRow> {
    let (Some(bin), Some(gguf)) = (&args.llama_cpp, gguf) else {
        bail!("--text needs the models as GGUF files and --llama-cpp");
    };
    let name = name(folder);
    eprintln!("{name}: perplexity");
    let (level, threads) = (args.isa.unwrap_or_else(Level::best), machine::cores());
    // The peer first: whether its program is there shows at once.
    let llama_cpp = perplexity::of_llama_cpp(bin, gguf, text, args.piece, threads)?;
    let cpu = Cpu::new(threads, level)?;
    let jetblock = perplexity::of_jetblock(folder, text, args.piece, &cpu)?;
    ensure!(
        jetblock.pieces == llama_cpp.pieces,
        "{name}: {} has {} pieces of {} tokens, but llama.cpp counts {}: the tokenizers disagree",
        text.display(),
        jetblock.pieces,
        args.piece,
        llama_cpp.pieces
    );
    Ok(PerplexityRow {
        model: name,
        pieces: jetblock.pieces,
        piece_len: args.piece,
        jetblock: jetblock.value,
        llama_cpp: llama_cpp.value,
    })
}

fn name(folder: &Path) -> String {
    let name = match Gguf::is_named(folder) {
        true => folder.file_stem(),
        false => folder.file_name(),
    };
    name.unwrap_or(folder.as_os_str())
        .to_string_lossy()
        .into_owned()
}

/// One model in all engines.
fn measure(
    args: &Args,
    folder: &Path,
    gguf: Option<&PathBuf>,
    conditions: &mut Conditions,
    report: &mut Report,
) -> anyhow::Result<()> {
    let name = name(folder);
    let level = report.level;
    let mut places: [Place; ENGINES.len()] = [
        Ok(Box::new(JetBlock::load(folder, level)?)),
        match (&args.llama_cpp, gguf) {
            (Some(bin), Some(gguf)) => place(LlamaCpp::new(bin, gguf)),
            (Some(_), None) => Err("no --gguf".into()),
            (None, _) => Err("no --llama-cpp".into()),
        },
        match &args.python {
            Some(python) => place(Transformers::start(python, folder)),
            None => Err("no --python".into()),
        },
    ];
    let mut works = vec![Work::Prefill {
        tokens: args.prompt,
    }];
    works.extend(args.batch.iter().map(|&batch| Work::Decode {
        batch,
        steps: args.steps,
        context: args.context,
    }));
    let mut rows: Vec<Row> = Vec::new();
    for &work in &works {
        for &threads in &args.threads {
            rows.push(Row {
                model: name.clone(),
                work,
                threads,
                speeds: Default::default(),
            });
        }
    }
    let mut memory = HugeVec::with_capacity(READ_BYTES / 4);
    memory.extend_with(READ_BYTES / 4, 1_f32);
    // Every turn starts with another engine; turn 0 warms up and does not count.
    for turn in 0..=args.turns {
        if turn > 0 {
            eprintln!("{name}: turn {turn} of {}", args.turns);
            conditions.busy_cores.extend(machine::busy_cores());
            conditions.read_bytes_per_second.push(rate(
                Clock::Wall,
                Duration::from_millis(100),
                || limits::read_bytes(level, &memory),
            ));
        }
        for row in &mut rows {
            for i in 0..ENGINES.len() {
                let at = (i + turn) % ENGINES.len();
                let Ok(engine) = &mut places[at] else {
                    continue;
                };
                match engine.tokens_per_second(row.work, row.threads) {
                    Ok(speed) if turn > 0 => row.speeds[at].push(speed),
                    Ok(_) => (),
                    // Without JetBlock there is nothing to compare; a peer's failure is a result.
                    Err(error) if at == 0 => return Err(error),
                    Err(error) => places[at] = Err(format!("{}: {error:#}", row.work)),
                }
            }
        }
    }
    for (engine, place) in ENGINES.iter().zip(&places) {
        report.notes.push(match place {
            Ok(running) => format!("{name}: {engine} {}", running.version()),
            Err(reason) => format!("{name}: {engine} not run: {reason}"),
        });
    }
    report.rows.extend(rows);
    Ok(())
}

fn place<E: Engine + 'static>(engine: anyhow::Result<E>) -> Place {
    match engine {
        Ok(engine) => Ok(Box::new(engine)),
        Err(error) => Err(format!("{error:#}")),
    }
}

struct Report {
    rows: Vec<Row>,
    perplexities: Vec<PerplexityRow>,
    /// Which builds ran, and why others did not.
    notes: Vec<String>,
    level: Level,
    turns: usize,
}

impl Row {
    /// Median tokens per second of an engine that took part in every turn.
    fn speed(&self, engine: usize, turns: usize) -> Option<f64> {
        let speeds = &self.speeds[engine];
        (speeds.len() == turns).then(|| median(speeds).median)
    }

    /// The fastest peer, and how many times its speed JetBlock has.
    fn over_best_peer(&self, turns: usize) -> Option<(&'static str, Spread)> {
        let peers = (1..ENGINES.len()).filter_map(|i| Some((i, self.speed(i, turns)?)));
        let (best, _) = peers.max_by(|a, b| a.1.total_cmp(&b.1))?;
        Some((ENGINES[best], ratio(&self.speeds[0], &self.speeds[best])))
    }
}

/// Ratios of the values of the same turns.
fn ratio(a: &[f64], b: &[f64]) -> Spread {
    let ratios: Vec<f64> = a.iter().zip(b).map(|(a, b)| a / b).collect();
    median(&ratios)
}

impl Report {
    /// JetBlock on several threads against JetBlock on the first number of them.
    fn scaling(&self) -> impl Iterator<Item = (&Row, usize, Spread)> {
        self.rows.iter().filter_map(|row| {
            let same = |r: &&Row| r.model == row.model && r.work == row.work;
            let first = self.rows.iter().find(same)?;
            (first.threads != row.threads).then(|| {
                let ratio = ratio(&row.speeds[0], &first.speeds[0]);
                (row, first.threads, ratio)
            })
        })
    }

    fn print(&self, conditions: &Conditions) {
        let spread = |s: Spread| format!("{:.2} [{:.2}, {:.2}]", s.median, s.low, s.high);
        println!(
            "{}, {} cores, level {}; one thread reads {:.1} GB/s; other work kept {} cores busy",
            machine::processor(),
            machine::cores(),
            self.level,
            median(&conditions.read_bytes_per_second).median / 1e9,
            conditions
                .other_work()
                .map_or("an unknown number of".into(), |s| format!(
                    "{:.2} (at most {:.2})",
                    s.median, s.best
                )),
        );
        self.notes.iter().for_each(|note| println!("{note}"));
        for p in &self.perplexities {
            println!(
                "{}: perplexity over {} pieces of {} tokens: JetBlock {:.3}, llama.cpp {:.3}, ratio {:.4}",
                p.model,
                p.pieces,
                p.piece_len,
                p.jetblock,
                p.llama_cpp,
                p.jetblock / p.llama_cpp
            );
        }
        println!(
            "\ntokens/s, medians of {} turns; ratios are of the same turn [quartiles]",
            self.turns
        );
        let width = self.rows.iter().map(|row| row.model.len()).max();
        let width = width.unwrap_or(0).max("model".len());
        println!(
            "{:width$} {:>7}  {:16} {:>9} {:>10} {:>13}  over the best peer",
            "model", "threads", "work", ENGINES[0], ENGINES[1], ENGINES[2]
        );
        for row in &self.rows {
            let speed = |engine| match row.speed(engine, self.turns) {
                Some(speed) => format!("{speed:.1}"),
                None => "not run".into(),
            };
            println!(
                "{:width$} {:>7}  {:16} {:>9} {:>10} {:>13}  {}",
                row.model,
                row.threads,
                row.work.to_string(),
                speed(0),
                speed(1),
                speed(2),
                row.over_best_peer(self.turns)
                    .map_or("no peer".into(), |(_, ratio)| spread(ratio)),
            );
        }
        for (row, first, ratio) in self.scaling() {
            println!(
                "{}: {} on {} threads over {first}: {}",
                row.model,
                row.work,
                row.threads,
                spread(ratio)
            );
        }
    }

    fn json(&self, conditions: &Conditions) -> Value {
        let spread = |s: Spread| json!({"median": s.median, "quartiles": [s.low, s.high]});
        let rows = self.rows.iter().map(|row| {
            let speeds = ENGINES.iter().enumerate();
            let speeds =
                speeds.map(|(i, name)| (name.to_string(), json!(row.speed(i, self.turns))));
            let best = row.over_best_peer(self.turns);
            json!({
                "model": row.model,
                "threads": row.threads,
                "work": row.work.to_string(),
                "tokens_per_second": speeds.collect::<serde_json::Map<_, _>>(),
                "best_peer": best.map(|(name, _)| name),
                "over_best_peer": best.map(|(_, ratio)| spread(ratio)),
            })
        });
        let scaling = self.scaling().map(|(row, first, ratio)| {
            json!({
                "model": row.model, "work": row.work.to_string(), "threads": row.threads,
                "over_threads": first, "ratio": spread(ratio),
            })
        });
        let perplexities = self.perplexities.iter().map(|p| {
            json!({
                "model": p.model, "pieces": p.pieces, "piece_len": p.piece_len,
                "jetblock": p.jetblock, "llama_cpp": p.llama_cpp,
            })
        });
        json!({
            "machine": {
                "processor": machine::processor(),
                "cores": machine::cores(),
                "level": self.level.name(),
                "read_bytes_per_second": spread(median(&conditions.read_bytes_per_second)),
                "busy_with_other_work": conditions.other_work().map(spread),
            },
            "turns": self.turns,
            "engines": self.notes,
            "perplexity": perplexities.collect::<Vec<_>>(),
            "rows": rows.collect::<Vec<_>>(),
            "jetblock_scaling": scaling.collect::<Vec<_>>(),
        })
    }
}

impl Conditions {
    /// Cores that other work kept busy.
    fn other_work(&self) -> Option<Spread> {
        (!self.busy_cores.is_empty()).then(|| median(&self.busy_cores))
    }
}
