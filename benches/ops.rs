//! Operators other than linear and attention on one thread, in its processor time.

use std::hint::black_box;
use std::time::Duration;

use clap::Parser;
use jetblock_benches::{Clock, median, rate};
use jetblock_numerics::paint::uniform_vec;
use jetblock_ops::activation::Activation;
use jetblock_ops::causal_conv1d::{CausalConv1d, Taps};
use jetblock_ops::gated_delta_rule::GatedDeltaRule;
use jetblock_ops::linear_attention::LinearAttention;
use jetblock_ops::rms_norm::RmsNorm;
use jetblock_ops::rms_norm_gated::RmsNormGated;
use jetblock_ops::sampling::{Sampling, SamplingParams};
use jetblock_ops::selective_scan::SelectiveScan;
use jetblock_ops::softmax::{Scale, Softmax};
use jetblock_ops::{Columns, OpError, Segment};
use jetblock_simd::{Cpu, Level};

/// The least time of one measurement.
const LEAST: Duration = Duration::from_millis(20);

/// Sizes of Nemotron 3 Nano.
const HIDDEN: usize = 2688;
const HEADS: usize = 64;
const HEAD_DIM: usize = 64;
const STATE_LEN: usize = 128;
const GROUPS: usize = 8;
const KERNEL: usize = 4;
const INNER: usize = HEADS * HEAD_DIM;
const CHANNELS: usize = INNER + 2 * GROUPS * STATE_LEN;
const VOCAB: usize = 131_072;
/// Heads of layers with linear attention, of 64 like the others.
const LINEAR_HEADS: usize = 8;
const LINEAR_INNER: usize = LINEAR_HEADS * HEAD_DIM;

#[derive(Parser)]
#[command(about = "Operators other than linear and attention, on one thread")]
struct Args {
    /// Instruction-set level; the best one if absent.
    #[arg(long)]
    isa: Option<Level>,
    /// Measurements of each; the median is printed.
    #[arg(long, default_value_t = 9)]
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
    bench.norms()?;
    bench.activations()?;
    bench.softmax()?;
    for rows in [1, 2, 256] {
        bench.causal_conv1d(rows)?;
        bench.selective_scan(rows)?;
    }
    for rows in [1, 64, 1024] {
        bench.gated_delta_rule(rows)?;
        bench.linear_attention(rows)?;
    }
    bench.sampling()
}

struct Bench {
    args: Args,
    cpu: Cpu,
}

impl Bench {
    /// Prints nanoseconds for each of `count` units of work that one call of `f` does.
    fn measure(
        &self,
        name: &str,
        unit: &str,
        count: usize,
        mut f: impl FnMut(&Cpu) -> Result<(), OpError>,
    ) -> anyhow::Result<()> {
        if !name.contains(&self.args.only) {
            return Ok(());
        }
        f(&self.cpu)?;
        let mut turn = || {
            rate(Clock::Thread, LEAST, || {
                f(&self.cpu).expect("the first call succeeded");
                count as f64
            })
        };
        let spread = median(&(0..self.args.turns).map(|_| turn()).collect::<Vec<_>>());
        let (middle, best) = (1e9 / spread.median, 1e9 / spread.best);
        println!("{name:<28} {middle:>10.3} ns per {unit} (best {best:.3})");
        Ok(())
    }

    fn norms(&self) -> anyhow::Result<()> {
        let (x, weight) = (uniform_vec(1, 16 * HIDDEN), uniform_vec(2, HIDDEN));
        let mut out = vec![0.0; x.len()];
        let op = RmsNorm {
            x: &x,
            weight: &weight,
            eps: 1e-5,
        };
        self.measure("rms_norm", "element", x.len(), |cpu| op.cpu(&mut out, cpu))?;

        let (y, weight) = (uniform_vec(3, 16 * INNER), uniform_vec(4, INNER));
        let mut out = vec![0.0; y.len()];
        let op = RmsNormGated {
            y: &y,
            z: Columns::whole(&y, INNER),
            weight: &weight,
            groups: GROUPS,
            eps: 1e-5,
        };
        self.measure("rms_norm_gated", "element", y.len(), |cpu| {
            op.cpu(&mut out, cpu)
        })
    }

    fn activations(&self) -> anyhow::Result<()> {
        let x = uniform_vec(5, 4096);
        let mut out = vec![0.0; x.len()];
        for activation in Activation::ALL {
            let name = format!("{activation:?}").to_lowercase();
            self.measure(&name, "element", x.len(), |cpu| {
                activation.cpu(&x, &mut out, cpu)
            })?;
        }
        Ok(())
    }

    fn softmax(&self) -> anyhow::Result<()> {
        let x = uniform_vec(6, VOCAB);
        let mut out = vec![0.0; x.len()];
        let op = Softmax {
            x: &x,
            row_len: VOCAB,
            scale: Scale::Log,
        };
        self.measure("log_softmax", "element", VOCAB, |cpu| op.cpu(&mut out, cpu))
    }

    fn causal_conv1d(&self, rows: usize) -> anyhow::Result<()> {
        let (x, weight) = (
            uniform_vec(7, rows * CHANNELS),
            uniform_vec(8, KERNEL * CHANNELS),
        );
        let segments = [Segment {
            rows: 0..rows,
            start: 0,
        }];
        let op = CausalConv1d {
            x: Columns::whole(&x, CHANNELS),
            weight: Taps::Fixed(&weight),
            bias: Some(&weight[..CHANNELS]),
            segments: &segments,
        };
        let (mut state, mut out) = (vec![0.0; (KERNEL - 1) * CHANNELS], vec![0.0; x.len()]);
        let name = format!("causal_conv1d, {rows} rows");
        self.measure(&name, "element", x.len(), |cpu| {
            op.cpu(&mut [&mut state], &mut out, cpu)
        })
    }

    fn selective_scan(&self, rows: usize) -> anyhow::Result<()> {
        let x = uniform_vec(9, rows * (CHANNELS + HEADS));
        let columns = |start: usize, width: usize| Columns {
            data: &x,
            row_len: CHANNELS + HEADS,
            columns: start..start + width,
        };
        let segments = [Segment {
            rows: 0..rows,
            start: 0,
        }];
        let op = SelectiveScan {
            x: columns(0, INNER),
            b: columns(INNER, GROUPS * STATE_LEN),
            c: columns(INNER + GROUPS * STATE_LEN, GROUPS * STATE_LEN),
            dt_raw: columns(CHANNELS, HEADS),
            dt_bias: &[0.5; HEADS],
            a: &[-1.0; HEADS],
            d: &[1.0; HEADS],
            groups: GROUPS,
            dt_limit: (0.0, f32::INFINITY),
            segments: &segments,
        };
        // In decoding, the states of other layers pass through the cache between two uses of one.
        let copies = if rows <= 2 { 32 } else { 1 };
        let mut states = vec![vec![0.0; INNER * STATE_LEN]; copies];
        let mut out = vec![0.0; rows * INNER];
        let name = format!("selective_scan, {rows} rows");
        let mut turn = 0;
        self.measure(&name, "head and token", rows * HEADS, |cpu| {
            turn = (turn + 1) % copies;
            op.cpu(&mut [&mut states[turn]], &mut out, cpu)
        })
    }

    fn gated_delta_rule(&self, rows: usize) -> anyhow::Result<()> {
        let x = uniform_vec(11, 3 * rows * LINEAR_INNER);
        let [q, k, v] = [0, 1, 2].map(|i| linear_columns(&x, i));
        let (decay, beta) = (
            vec![-0.1; rows * LINEAR_HEADS],
            vec![0.5; rows * LINEAR_HEADS],
        );
        let op = GatedDeltaRule {
            q,
            k,
            v,
            g: Columns::whole(&decay, LINEAR_HEADS),
            beta: Columns::whole(&beta, LINEAR_HEADS),
            groups: LINEAR_HEADS,
            scale: 0.125,
            qk_l2norm: true,
            segments: &[Segment {
                rows: 0..rows,
                start: 0,
            }],
        };
        let mut state = vec![0.0; LINEAR_INNER * HEAD_DIM];
        let mut out = vec![0.0; rows * LINEAR_INNER];
        let name = format!("gated_delta_rule, {rows} rows");
        self.measure(&name, "head and token", rows * LINEAR_HEADS, |cpu| {
            op.cpu(&mut [&mut state], &mut out, cpu)
        })
    }

    fn linear_attention(&self, rows: usize) -> anyhow::Result<()> {
        let x = uniform_vec(12, 3 * rows * LINEAR_INNER);
        let [q, k, v] = [0, 1, 2].map(|i| linear_columns(&x, i));
        let op = LinearAttention {
            q,
            k,
            v,
            heads: LINEAR_HEADS,
            segments: &[Segment {
                rows: 0..rows,
                start: 0,
            }],
        };
        let mut state = vec![0.0; LINEAR_INNER * (HEAD_DIM + 1)];
        let mut out = vec![0.0; rows * LINEAR_INNER];
        let name = format!("linear_attention, {rows} rows");
        self.measure(&name, "head and token", rows * LINEAR_HEADS, |cpu| {
            // Sums that grow with every call would end as infinities.
            state.fill(0.0);
            op.cpu(&mut [&mut state], &mut out, cpu)
        })
    }

    fn sampling(&self) -> anyhow::Result<()> {
        let logits: Vec<f32> = uniform_vec(10, VOCAB).iter().map(|l| l * 4.0).collect();
        let plain = SamplingParams::default();
        let variants = [
            ("sampling, greedy", SamplingParams::greedy()),
            (
                "sampling, top_k 50",
                SamplingParams {
                    top_k: 50,
                    ..plain.clone()
                },
            ),
            (
                "sampling, top_p 0.95",
                SamplingParams {
                    top_p: 0.95,
                    ..plain.clone()
                },
            ),
            ("sampling, plain", plain),
        ];
        for (name, params) in &variants {
            let sampling = Sampling {
                logits: &logits,
                params,
                prompt_ids: &[],
                output_ids: &[],
                seed: 1,
                sample_index: 0,
                position: 0,
            };
            self.measure(name, "token", 1, |cpu| {
                black_box(sampling.cpu(cpu)?);
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// One of three matrices that lie side by side.
fn linear_columns(data: &[f32], index: usize) -> Columns<'_> {
    Columns {
        data,
        row_len: 3 * LINEAR_INNER,
        columns: index * LINEAR_INNER..(index + 1) * LINEAR_INNER,
    }
}
