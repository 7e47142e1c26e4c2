//! `jetblock quantize`: a model folder with FP8 or NVFP4 weights from one with plain weights.

use std::path::PathBuf;

use clap::ValueEnum;
use jetblock_models::config::WeightFormat;
use jetblock_models::quantize::{Quantize, Recipe};

use crate::Verdict;
use crate::args::Global;
use crate::output::{Output, Unit};

/// Arguments of `jetblock quantize`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Model folder to read (BF16, F16 or F32 weights)
    pub(crate) source: PathBuf,
    /// Model folder to make; it must not exist
    pub(crate) out: PathBuf,
    /// Format of the weights
    #[arg(long, value_enum)]
    pub(crate) format: FormatName,
    /// Layers that keep their weights: nano (as Nemotron 3 Nano was released), all (all but the output table are quantized)
    /// or experts (only routed experts are)
    #[arg(long, default_value = "nano")]
    pub(crate) recipe: Recipe,
    /// A further layer, or module of layers, that keeps its weights; * stands for any text. May be repeated
    #[arg(long, value_name = "PATTERN")]
    pub(crate) exclude: Vec<String>,
}

/// Weight formats by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatName {
    /// 4-bit floats, a scale for each 16
    Nvfp4,
    /// 8-bit floats, a scale for the tensor
    Fp8,
}

pub(crate) fn run(args: &Args, global: &Global, output: &Output) -> anyhow::Result<Verdict> {
    let quantize = Quantize {
        source: &args.source,
        out: &args.out,
        format: match args.format {
            FormatName::Nvfp4 => WeightFormat::Nvfp4,
            FormatName::Fp8 => WeightFormat::Fp8,
        },
        recipe: args.recipe,
        exclude: &args.exclude,
    };
    let cpu = global.cpu()?;
    let bar = output.progress("quantizing", 0, Unit::Bytes);
    let done = quantize.run(&cpu, &mut |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    });
    bar.finish_and_clear();
    let done = done?;
    if output.is_json() {
        output.print_json(&done)?;
        return Ok(Verdict::Passed);
    }
    let bits = done.quantized_bytes as f64 * 8.0 / done.parameters as f64;
    let of_before = done.bytes_after as f64 / done.bytes_before as f64;
    output.print(&format!(
        "{}: {} matrices with {} parameters in {}, {bits:.4} bits each; {} linear layers as they were\n{} bytes, {:.1}% of {}",
        args.out.display(),
        done.matrices,
        done.parameters,
        quantize.format,
        done.excluded.len(),
        done.bytes_after,
        100.0 * of_before,
        done.bytes_before,
    ))?;
    Ok(Verdict::Passed)
}
