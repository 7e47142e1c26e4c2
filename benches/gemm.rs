//! Linear layers against the limits of the machine.
//!
//! Each shape takes turns with the limit it is compared with. Weights cycle through enough copies to come from
//! memory each time, as the layers of a model do.

use std::time::Duration;

use clap::Parser;
use jetblock_benches::{Clock, Spread, limits, median, rate};
use jetblock_numerics::{paint, round};
use jetblock_ops::OpError;
use jetblock_ops::linear::quantized::{self, Codes, QuantizedRow, QuantizedRows, ScaleType};
use jetblock_ops::linear::{
    Epilogue, Linear, OperandKind, PackedMatrix, Prepared, WeightRows, linear,
};
use jetblock_simd::{Cpu, HugeVec, Level};
use jetblock_tensor::DType;

/// What the read bandwidth is measured on.
const READ_BYTES: usize = 192 << 20;
/// The least time of one measurement.
const LEAST: Duration = Duration::from_millis(10);

#[derive(Parser)]
#[command(about = "Linear layers against the limits of the machine")]
struct Args {
    /// Threads; one thread is measured in its processor time, more on the wall.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Instruction-set level; the best one if absent.
    #[arg(long)]
    isa: Option<Level>,
    /// With several threads, count their processor time instead of the wall: what they would reach if none waited.
    #[arg(long)]
    busy: bool,
    /// Turns a shape takes.
    #[arg(long, default_value_t = 9)]
    turns: usize,
    /// N = K.
    #[arg(long, value_delimiter = ',', default_values_t = [1024, 2688, 4096])]
    sizes: Vec<usize>,
    /// M.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8, 16, 24, 64, 512])]
    rows: Vec<usize>,
    /// Only these formats: bf16, f32, f32-bf16 (f32 kind, bf16 weights), f32-f16, nvfp4, fp8, q4_0, q8_0 (bf16 kind, or
    /// f32 kind with `f32-` in front).
    #[arg(long, value_delimiter = ',', default_values_t = ["bf16", "f32", "f32-bf16"].map(String::from))]
    formats: Vec<String>,
    /// Weights of one shape together, in MiB: the default is well beyond the last cache, 0 means one matrix.
    #[arg(long, default_value_t = 192)]
    weights: usize,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

struct Format {
    name: String,
    kind: OperandKind,
    stored: Stored,
}

enum Stored {
    Plain(DType),
    Quantized(quantized::Format),
}

impl Format {
    fn new(name: &str) -> anyhow::Result<Format> {
        let (kind, plain) = match name.strip_prefix("f32-") {
            Some(rest) => (OperandKind::F32, rest),
            None if name == "f32" => (OperandKind::F32, name),
            None => (OperandKind::Bf16, name),
        };
        let (f16, i8) = (ScaleType::F16, Codes::I8);
        let stored = match plain {
            "bf16" => Stored::Plain(DType::BF16),
            "f32" => Stored::Plain(DType::F32),
            "f16" => Stored::Plain(DType::F16),
            "nvfp4" => Stored::Quantized(quantized::Format::NVFP4),
            "fp8" => Stored::Quantized(quantized::Format::FP8),
            "q4_0" => Stored::Quantized(quantized::Format::new(Codes::U4Less8, 32, f16)),
            "q8_0" => Stored::Quantized(quantized::Format::new(i8, 32, f16)),
            _ => anyhow::bail!("unknown format {name:?}"),
        };
        Ok(Format {
            name: name.into(),
            kind,
            stored,
        })
    }

    /// As many copies of a weight `[n, k]` as take `mib` together.
    fn weights(&self, n: usize, k: usize, mib: usize) -> Result<Vec<PackedMatrix>, OpError> {
        let dtype = match self.stored {
            Stored::Plain(dtype) => dtype,
            Stored::Quantized(format) => {
                let first = pack_painted(self.kind, format, n, k)?;
                let copies = (mib << 20).div_ceil(first.bytes()).max(1);
                let others = (1..copies).map(|_| pack_painted(self.kind, format, n, k));
                return std::iter::once(Ok(first)).chain(others).collect();
            }
        };
        let bytes = plain_weight(dtype, n, k);
        let part = WeightRows {
            dtype,
            rows: n,
            bytes: &bytes,
        };
        let copies = (mib << 20).div_ceil(bytes.len()).max(1);
        (0..copies)
            .map(|_| PackedMatrix::pack(self.kind, &[part], k, &mut |_, _| ()))
            .collect()
    }
}

/// Any codes, with block scales near 1.
fn pack_painted(
    kind: OperandKind,
    format: quantized::Format,
    n: usize,
    k: usize,
) -> Result<PackedMatrix, OpError> {
    let scale: &[u8] = match format.blocks.map(|b| b.scale) {
        Some(ScaleType::E4m3) => &[0x38],
        Some(ScaleType::F16) => &[0x00, 0x3C],
        _ => &[],
    };
    let read = |row: usize, out: QuantizedRow<'_>| {
        for (i, code) in out.codes.iter_mut().enumerate() {
            // Without bit 0 of the exponent: no NaN of E4M3.
            *code = paint::hash(1, (row * k + i) as u32) as u8 & 0xF7;
        }
        if !scale.is_empty() {
            out.scales
                .chunks_exact_mut(scale.len())
                .for_each(|s| s.copy_from_slice(scale));
        }
    };
    let part = QuantizedRows {
        rows: n,
        factor: 1.0,
        read: &read,
    };
    PackedMatrix::pack_quantized(kind, format, &[part], k, &mut |_, _| ())
}

/// Bytes of a weight `[n, k]` with values in (-2, 2).
fn plain_weight(dtype: DType, n: usize, k: usize) -> Vec<u8> {
    let values = (0..n * k).map(|i| paint::uniform(1, i as u32));
    match dtype {
        DType::F32 => values.flat_map(f32::to_le_bytes).collect(),
        DType::BF16 => values
            .flat_map(|v| round::f32_to_bf16(v).to_le_bytes())
            .collect(),
        DType::F16 => values
            .flat_map(|v| round::f32_to_f16(v).to_le_bytes())
            .collect(),
    }
}

/// One line of the table.
struct Figure {
    flops: Spread,
    of_peak: Spread,
    bytes: Spread,
    of_bandwidth: Spread,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let cpu = Cpu::new(args.threads, args.isa.unwrap_or(Level::best()))?;
    if !args.json {
        println!(
            "level {}, {} threads; medians of {} turns [quartiles]",
            cpu.level(),
            args.threads,
            args.turns
        );
        println!(
            "{:9} {:>5} {:>4}  {:>8}  {:>20}  {:>8}  {:>20}",
            "format", "N = K", "M", "GFLOP/s", "of peak", "GB/s", "of read bandwidth"
        );
    }
    let mut memory = HugeVec::with_capacity(READ_BYTES / 4);
    memory.extend_with(READ_BYTES / 4, 1_f32);
    for name in &args.formats {
        let format = Format::new(name)?;
        for &size in &args.sizes {
            let weights = format.weights(size, size, args.weights)?;
            for &m in &args.rows {
                let figure = measure(&cpu, &args, &format, &weights, m, &memory)?;
                print(&args, &format.name, size, m, &figure);
            }
        }
    }
    Ok(())
}

fn measure(
    cpu: &Cpu,
    args: &Args,
    format: &Format,
    weights: &[PackedMatrix],
    m: usize,
    memory: &[f32],
) -> anyhow::Result<Figure> {
    let (n, k) = (weights[0].n(), weights[0].k());
    let x = paint::uniform_vec(2, m * k);
    let mut prepared = Prepared::new(format.kind);
    let mut out = vec![0.0; m * n];
    let mut next = weights.iter().cycle();
    let mut regions = memory.chunks(memory.len() / 8).cycle();
    let threads = args.threads as f64;
    let (clock, concurrent) = match args.threads {
        1 => (Clock::Thread, 1.0),
        _ if args.busy => (Clock::Process, threads),
        _ => (Clock::Wall, 1.0),
    };
    let (mut flops, mut of_peak, mut bytes, mut of_bandwidth) = (vec![], vec![], vec![], vec![]);
    for _ in 0..args.turns {
        let peak = threads
            * rate(Clock::Thread, LEAST, || match format.kind {
                OperandKind::Bf16 => limits::dot_pairs_flops(cpu.level()),
                OperandKind::F32 => limits::fma_flops(cpu.level()),
            });
        let bandwidth = rate(Clock::Thread, LEAST, || {
            limits::read_bytes(cpu.level(), regions.next().expect("a cycle"))
        });
        let calls = concurrent
            * rate(clock, LEAST, || {
                let weight = next.next().expect("a cycle");
                prepared.prepare_into(cpu, &x, k).expect("whole rows");
                linear(
                    cpu,
                    Linear {
                        x: &prepared,
                        weight,
                        bias: None,
                        epilogue: Epilogue::None,
                    },
                    &mut out,
                )
                .expect("the lengths agree");
                1.0
            });
        let (work, read) = (
            calls * (2 * m * n * k) as f64,
            calls * weights[0].bytes() as f64,
        );
        flops.push(work);
        of_peak.push(work / peak);
        bytes.push(read);
        of_bandwidth.push(read / bandwidth);
    }
    Ok(Figure {
        flops: median(&flops),
        of_peak: median(&of_peak),
        bytes: median(&bytes),
        of_bandwidth: median(&of_bandwidth),
    })
}

fn print(args: &Args, format: &str, size: usize, m: usize, figure: &Figure) {
    let spread = |s: Spread| format!("{:.2} [{:.2}, {:.2}]", s.median, s.low, s.high);
    if args.json {
        let line = serde_json::json!({
            "format": format, "n": size, "k": size, "m": m, "threads": args.threads,
            "gflops": figure.flops.median / 1e9, "of_peak": figure.of_peak.median,
            "gbytes_per_s": figure.bytes.median / 1e9, "of_read_bandwidth": figure.of_bandwidth.median,
        });
        println!("{line}");
        return;
    }
    println!(
        "{format:9} {size:>5} {m:>4}  {:>8.1}  {:>20}  {:>8.1}  {:>20}",
        figure.flops.median / 1e9,
        spread(figure.of_peak),
        figure.bytes.median / 1e9,
        spread(figure.of_bandwidth)
    );
}
