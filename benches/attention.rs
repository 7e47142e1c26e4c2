//! Attention against the limits of the machine, on one thread, in its processor time.
//!
//! Each case takes turns with the limits it is compared with: fused multiply-adds in f32 (the bf16 kind may exceed
//! them in the scores) and reading memory. Caches cycle through enough copies to come from memory each time.

use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use jetblock_benches::{Clock, Spread, limits, median, rate};
use jetblock_numerics::paint::uniform_vec;
use jetblock_ops::attention::{Attention, KvCache, KvCacheConfig, KvDtype};
use jetblock_ops::linear::OperandKind;
use jetblock_ops::{Columns, Segment};
use jetblock_simd::{Cpu, Level};

/// What the read bandwidth is measured on.
const READ_BYTES: usize = 192 << 20;
/// The least time of one measurement.
const LEAST: Duration = Duration::from_millis(10);

#[derive(Parser)]
#[command(about = "Attention against the limits of the machine, on one thread")]
struct Args {
    /// Instruction-set level; the best one if absent.
    #[arg(long)]
    isa: Option<Level>,
    /// Turns a case takes.
    #[arg(long, default_value_t = 9)]
    turns: usize,
    /// Only these formats: kind-cache dtype.
    #[arg(long, value_delimiter = ',', default_values_t = ["bf16-bf16", "bf16-f32", "bf16-fp8", "bf16-nvfp4", "f32-bf16", "f32-f32", "f32-fp8", "f32-nvfp4"].map(String::from))]
    formats: Vec<String>,
    /// Caches of one case together, in MiB: the default is well beyond the last cache, 0 means one cache.
    #[arg(long, default_value_t = 192)]
    caches: usize,
}

/// What is computed: query heads, key/value heads, head dimension, tokens before, rows.
#[derive(Clone, Copy)]
struct Case(usize, usize, usize, usize, usize);

const CASES: [Case; 7] = [
    Case(12, 2, 64, 0, 512),
    Case(32, 2, 128, 0, 512),
    Case(32, 2, 128, 3584, 512),
    Case(12, 2, 64, 4095, 1),
    Case(32, 2, 128, 4095, 1),
    Case(32, 2, 128, 8191, 1),
    Case(2, 2, 128, 8191, 1),
];

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let cpu = Cpu::new(1, args.isa.unwrap_or_else(Level::best))?;
    println!(
        "level {}; medians of {} turns [quartiles]",
        cpu.level(),
        args.turns
    );
    println!(
        "{:10} {:>5} {:>4} {:>6} {:>4}  {:>8}  {:>18}  {:>6}  {:>18}",
        "format",
        "heads",
        "hd",
        "start",
        "rows",
        "GFLOP/s",
        "of f32 peak",
        "GB/s",
        "of read bandwidth"
    );
    let memory = vec![1_f32; READ_BYTES / 4];
    for format in &args.formats {
        let named = [OperandKind::Bf16, OperandKind::F32]
            .into_iter()
            .flat_map(|kind| KvDtype::ALL.map(|dtype| (kind, dtype)))
            .find(|(kind, dtype)| *format == format!("{}-{dtype}", kind.name()));
        let (kind, dtype) = named.with_context(|| format!("unknown format {format:?}"))?;
        for case in CASES {
            let Case(heads, kv_heads, head_dim, start, rows) = case;
            let config = KvCacheConfig {
                num_key_value_heads: kv_heads,
                head_dim,
                kind,
                dtype,
                k_scale: 1.0,
                v_scale: 1.0,
            };
            let [flops, of_peak, bytes, of_bandwidth] =
                measure(&args, &cpu, case, config, &memory)?;
            println!(
                "{format:10} {:>5} {head_dim:>4} {start:>6} {rows:>4}  {:8.1}  {}  {:6.2}  {}",
                format!("{heads}/{kv_heads}"),
                flops.median / 1e9,
                share(of_peak),
                bytes.median / 1e9,
                share(of_bandwidth)
            );
        }
    }
    Ok(())
}

fn share(spread: Spread) -> String {
    let Spread {
        low, median, high, ..
    } = spread;
    format!(
        "{:4.0} % [{:3.0} {:4.0}]",
        median * 100.0,
        low * 100.0,
        high * 100.0
    )
}

fn measure(
    args: &Args,
    cpu: &Cpu,
    case: Case,
    config: KvCacheConfig,
    memory: &[f32],
) -> anyhow::Result<[Spread; 4]> {
    let Case(heads, kv_heads, head_dim, start, rows) = case;
    let (width, kv_width) = (heads * head_dim, kv_heads * head_dim);
    let (q, kv) = (
        uniform_vec(1, rows * width),
        uniform_vec(2, (start + rows) * kv_width),
    );
    let filled = || {
        let mut cache = KvCache::new(config)?;
        let rows = 0..start + rows;
        cache.append(
            Columns::whole(&kv, kv_width),
            Columns::whole(&kv, kv_width),
            rows,
        )?;
        anyhow::Ok(cache)
    };
    let mut caches = vec![filled()?];
    while caches.len() * caches[0].bytes() < args.caches << 20 {
        caches.push(filled()?);
    }
    let mut next = caches.iter().cycle();
    let mut regions = memory.chunks(memory.len() / 8).cycle();
    let mut out = vec![0.0; q.len()];
    let admitted: usize = (start + 1..=start + rows).sum();
    let work = (admitted * heads * head_dim * 4) as f64;
    let mut figures = [const { vec![] }; 4];
    for _ in 0..args.turns {
        let peak = rate(Clock::Thread, LEAST, || limits::fma_flops(cpu.level()));
        let bandwidth = rate(Clock::Thread, LEAST, || {
            limits::read_bytes(cpu.level(), regions.next().expect("a cycle"))
        });
        let calls = rate(Clock::Thread, LEAST, || {
            let op = Attention {
                q: Columns::whole(&q, width),
                segments: &[Segment {
                    rows: 0..rows,
                    start,
                }],
                caches: &[next.next().expect("a cycle")],
                num_attention_heads: heads,
                split: Attention::DEFAULT_SPLIT,
            };
            op.cpu(&mut out, cpu).expect("the shapes agree");
            1.0
        });
        let (flops, bytes) = (calls * work, calls * caches[0].bytes() as f64);
        for (figures, figure) in
            figures
                .iter_mut()
                .zip([flops, flops / peak, bytes, bytes / bandwidth])
        {
            figures.push(figure);
        }
    }
    Ok(figures.map(|figures| median(&figures)))
}
