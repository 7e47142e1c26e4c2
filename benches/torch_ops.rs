//! Operators of PyTorch models on one thread, in its processor time. `peers/torch_ops.py` prints the same lines for PyTorch.

use std::time::Duration;

use clap::Parser;
use jetblock_benches::{Clock, median, rate};
use jetblock_numerics::paint::uniform_vec;
use jetblock_ops::OpError;
use jetblock_ops::conv::{Conv, ConvParams, ConvWeight};
use jetblock_ops::group_norm::GroupNorm;
use jetblock_ops::layer_norm::LayerNorm;
use jetblock_ops::linear::OperandKind;
use jetblock_ops::matmul::{Layout, Matmul};
use jetblock_ops::pool::{Pool, Pooling, Window};
use jetblock_ops::reduce::{Reduce, Reduction};
use jetblock_ops::sdpa::{Heads, Mask, Sdpa};
use jetblock_ops::sort::Sort;
use jetblock_ops::upsample::{Mode, Upsample};
use jetblock_simd::{Cpu, Level};

/// The least time of one measurement.
const LEAST: Duration = Duration::from_millis(100);
const KINDS: [OperandKind; 2] = [OperandKind::F32, OperandKind::Bf16];

/// Name; C, N, kernel, stride, height = width, groups; transposed. Shapes of UNets, VAEs and mobile networks.
const CONVS: [(&str, [usize; 6], bool); 12] = [
    ("conv 320, 64 x 64", [320, 320, 3, 1, 64, 1], false),
    ("conv 128, 256 x 256", [128, 128, 3, 1, 256, 1], false),
    ("conv 1280, 16 x 16", [1280, 1280, 3, 1, 16, 1], false),
    ("conv 1280, 8 x 8", [1280, 1280, 3, 1, 8, 1], false),
    ("conv 320, pointwise", [320, 320, 1, 1, 64, 1], false),
    ("conv 4 to 320", [4, 320, 3, 1, 64, 1], false),
    ("conv 320 to 4", [320, 4, 3, 1, 64, 1], false),
    ("conv 320, stride 2", [320, 320, 3, 2, 64, 1], false),
    ("conv 320, depthwise", [320, 320, 3, 1, 64, 320], false),
    (
        "conv 192, depthwise 7 x 7",
        [192, 192, 7, 1, 56, 192],
        false,
    ),
    ("conv 256, 32 groups", [256, 256, 3, 1, 56, 32], false),
    ("conv 256 to 128, transposed", [256, 128, 4, 2, 64, 1], true),
];

#[derive(Parser)]
#[command(about = "Operators of PyTorch models, on one thread")]
struct Args {
    /// Instruction-set level; the best one if absent.
    #[arg(long)]
    isa: Option<Level>,
    /// Measurements of each; the median is printed.
    #[arg(long, default_value_t = 5)]
    turns: usize,
    /// Only lines that contain this text.
    #[arg(long, default_value = "")]
    only: String,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let cpu = Cpu::new(1, args.isa.unwrap_or_else(Level::best))?;
    println!("level {}", cpu.level());
    let bench = Bench { args, cpu };
    for (name, shape, transposed) in CONVS {
        bench.conv(name, shape, transposed)?;
    }
    bench.products()?;
    bench.norms()?;
    bench.rows()?;
    bench.images()
}

struct Bench {
    args: Args,
    cpu: Cpu,
}

impl Bench {
    /// Prints milliseconds of one call of `f`.
    fn measure(
        &self,
        name: &str,
        mut f: impl FnMut(&Cpu) -> Result<(), OpError>,
    ) -> anyhow::Result<()> {
        if !name.contains(&self.args.only) {
            return Ok(());
        }
        f(&self.cpu)?;
        let mut turn = || {
            rate(Clock::Thread, LEAST, || {
                f(&self.cpu).expect("the first call succeeded");
                1.0
            })
        };
        let spread = median(&(0..self.args.turns).map(|_| turn()).collect::<Vec<_>>());
        let (middle, best) = (1e3 / spread.median, 1e3 / spread.best);
        println!("{name:<36} {middle:>9.3} ms (best {best:.3})");
        Ok(())
    }

    fn conv(&self, name: &str, shape: [usize; 6], transposed: bool) -> anyhow::Result<()> {
        let [inputs, outputs, kernel, stride, size, groups] = shape;
        let padding = if transposed { 1 } else { kernel / 2 };
        let params = ConvParams {
            in_channels: inputs,
            out_channels: outputs,
            kernel_size: [1, kernel, kernel],
            stride: [1, stride, stride],
            padding: [0, padding, padding],
            dilation: [1; 3],
            groups,
            transposed: transposed.then_some([0; 3]),
        };
        let x = uniform_vec(1, inputs * size * size);
        let weight = uniform_vec(2, inputs / groups * outputs * kernel * kernel);
        let output: usize = params.output_size([1, size, size])?.iter().product();
        let mut out = vec![0.0; outputs * output];
        for kind in KINDS {
            let packed = ConvWeight::pack(&self.cpu, kind, params, &weight)?;
            let op = Conv {
                x: (&x[..]).into(),
                batch: 1,
                input_size: [1, size, size],
                weight: &packed,
                bias: None,
            };
            self.measure(&format!("{name}, {}", kind.name()), |cpu| {
                op.cpu((&mut out[..]).into(), cpu)
            })?;
        }
        Ok(())
    }

    fn products(&self) -> anyhow::Result<()> {
        let x = uniform_vec(3, 8 * 1024 * 1024);
        let mut out = vec![0.0; 8 * 1024 * 1024];
        for kind in KINDS {
            let op = Matmul {
                kind,
                a: (&x[..8 * 512 * 512]).into(),
                b: (&x[..8 * 512 * 512]).into(),
                layout: Layout::Plain,
                batch: 8,
                m: 512,
                k: 512,
                n: 512,
            };
            self.measure(&format!("bmm 8 x 512, {}", kind.name()), |cpu| {
                op.cpu((&mut out[..8 * 512 * 512]).into(), cpu)
            })?;
            for (keys, name) in [(4096, "self"), (77, "cross")] {
                let op = Sdpa {
                    kind,
                    q: Heads::contiguous(&x[..8 * 4096 * 40], [8, 4096, 40]),
                    k: Heads::contiguous(&x[..8 * keys * 40], [8, keys, 40]),
                    v: Heads::contiguous(&x[..8 * keys * 40], [8, keys, 40]),
                    mask: Mask::None,
                    scale: None,
                    batch: 1,
                    heads: 8,
                    kv_heads: 8,
                    queries: 4096,
                    keys,
                    head_dim: 40,
                    value_dim: 40,
                };
                let name = format!("{name} attention 8 x 4096 x 40, {}", kind.name());
                self.measure(&name, |cpu| op.cpu((&mut out[..8 * 4096 * 40]).into(), cpu))?;
            }
        }
        Ok(())
    }

    fn norms(&self) -> anyhow::Result<()> {
        let x = uniform_vec(4, 4096 * 320);
        let mut out = vec![0.0; x.len()];
        let (weight, bias) = (Some(&x[..320]), Some(&x[320..640]));
        let layer = LayerNorm {
            x: &x,
            row_len: 320,
            weight,
            bias,
            eps: 1e-5,
        };
        self.measure("layer_norm 4096 x 320", |cpu| layer.cpu(&mut out, cpu))?;
        let group = GroupNorm {
            x: &x,
            channels: 320,
            positions: 4096,
            groups: 32,
            weight,
            bias,
            eps: 1e-5,
        };
        self.measure("group_norm 320 x 4096", |cpu| group.cpu(&mut out, cpu))
    }

    fn rows(&self) -> anyhow::Result<()> {
        let x = uniform_vec(5, 1024 * 1024);
        let mut out = vec![0.0; 1024 * 1024];
        for (name, len, inner) in [("rows", 1024, 1), ("columns", 1024, 1024)] {
            let op = Reduce {
                reduction: Reduction::Sum,
                x: &x,
                len,
                inner,
            };
            self.measure(&format!("sum of 1024 {name} of 1024"), |cpu| {
                op.cpu(&mut out[..1024], cpu)
            })?;
        }
        let (x, mut indices) = (&x[..131_072], vec![0; 131_072]);
        for (name, k) in [("sort 131072", 131_072), ("topk 50 of 131072", 50)] {
            let op = Sort {
                x,
                row_len: 131_072,
                k,
                descending: true,
            };
            self.measure(name, |cpu| op.cpu(&mut out[..k], &mut indices[..k], cpu))?;
        }
        Ok(())
    }

    fn images(&self) -> anyhow::Result<()> {
        let x = uniform_vec(6, 320 * 64 * 64);
        let mut out = vec![0.0; 320 * 128 * 128];
        let input_size = [1, 64, 64];
        for (name, mode) in [("nearest", Mode::Nearest), ("bilinear", Mode::Linear)] {
            let op = Upsample {
                x: &x,
                input_size,
                output_size: [1, 128, 128],
                mode,
                align_corners: false,
                scale_factor: [0.0; 3],
            };
            self.measure(&format!("upsample 320, 64 to 128, {name}"), |cpu| {
                op.cpu(&mut out, cpu)
            })?;
        }
        let window = Window {
            kernel_size: [1, 2, 2],
            stride: [1, 2, 2],
            padding: [0; 3],
            dilation: [1; 3],
            ceil_mode: false,
        };
        let pooling = Pooling::Avg {
            window,
            count_include_pad: true,
            divisor: None,
        };
        let op = Pool {
            x: &x,
            input_size,
            pooling,
        };
        self.measure("avg_pool 320, 64 to 32", |cpu| {
            op.cpu(&mut out[..320 * 32 * 32], cpu)
        })
    }
}
