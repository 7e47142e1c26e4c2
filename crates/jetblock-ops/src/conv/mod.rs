//! Convolution in one, two or three dimensions, and its transpose.
//!
//! `y[b, n, o] = dot(w[n, :], gathered x) (+ bias[n])` where the dot runs over the taps of the kernel, ascending
//! (depth, height, width), and inside each tap over the input channels of n's group, ascending: `k = tap * C/g + c`.
//! The input read by tap t of output o is at `o * stride + t * dilation - padding`; outside the input stand +0, which
//! are multiplied like any value. The transposed convolution is the same in gather form: output o takes the taps t with
//! `o + padding - t * dilation` a multiple of the stride, which read the input at the quotient. Other taps do not exist for
//! that output: k counts those that do.
//!
//! Source: NUMERICS.md section 13; `torch.nn.functional.conv1d` to `conv_transpose3d`. Lower dimensions are three
//! with leading extents of 1.
//!
//! | name | shape | dtype |
//! |---|---|---|
//! | x | `[B, C, D, H, W]` | f32 |
//! | weight | `[N, C/g, KD, KH, KW]`; transposed `[C, N/g, KD, KH, KW]` | f32, packed by [`ConvWeight`] |
//! | bias | `[N]` | f32 |
//! | y | `[B, N, D', H', W']` | f32 |
//!
//! Rounding points: operands to bf16 in the bf16 kind; each step of a chain; each block sum; the bias.

mod cpu;
mod direct;
mod plan;
mod reference;
#[cfg(test)]
mod tests;

use jetblock_simd::{Cpu, fp_env};

use crate::linear::{OperandKind, Prepared};
use crate::{Floats, FloatsMut, OpError};
use plan::Phase;

const OP: &str = "conv";
/// Larger strides of a transposed convolution are surely a mistake: each step between inputs is a kernel of its own.
const MAX_PHASES: usize = 1 << 16;

/// What a convolution is, apart from its values. Extents are (depth, height, width).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvParams {
    /// C.
    pub in_channels: usize,
    /// N.
    pub out_channels: usize,
    /// Extents of the kernel.
    pub kernel_size: [usize; 3],
    /// Distance between neighbouring outputs (transposed: inputs).
    pub stride: [usize; 3],
    /// Zeros on both sides of the input (transposed: taken off the output).
    pub padding: [usize; 3],
    /// Distance between taps.
    pub dilation: [usize; 3],
    /// Channels are cut into so many groups, each convolved on its own.
    pub groups: usize,
    /// `Some(output_padding)` for the transposed convolution.
    pub transposed: Option<[usize; 3]>,
}

impl ConvParams {
    /// Extents of the output.
    pub fn output_size(&self, input: [usize; 3]) -> Result<[usize; 3], OpError> {
        self.check()?;
        let mut output = [0; 3];
        for axis in 0..3 {
            let reach = self.dilation[axis].saturating_mul(self.kernel_size[axis] - 1);
            let (stride, padding) = (self.stride[axis], self.padding[axis].saturating_mul(2));
            let (have, need) = match self.transposed {
                None => (input[axis].saturating_add(padding), reach.saturating_add(1)),
                Some(more) => (
                    (input[axis].saturating_sub(1).saturating_mul(stride))
                        .saturating_add(reach)
                        .saturating_add(more[axis])
                        .saturating_add(1),
                    padding.saturating_add(1),
                ),
            };
            if input[axis] == 0 || have < need {
                return Err(value(
                    "input size",
                    "large enough for the kernel, the padding and one output".into(),
                    format!("{input:?} with {self:?}"),
                ));
            }
            output[axis] = match self.transposed {
                None => (have - need) / stride + 1,
                Some(_) => have - need + 1,
            };
        }
        Ok(output)
    }

    /// Elements of the weight.
    fn weight_len(&self) -> usize {
        let channels = self.in_channels.saturating_mul(self.out_channels) / self.groups;
        product(self.kernel_size).saturating_mul(channels)
    }

    fn check(&self) -> Result<(), OpError> {
        let Self {
            in_channels,
            out_channels,
            groups,
            ..
        } = *self;
        if groups == 0 || in_channels % groups != 0 || out_channels % groups != 0 {
            return Err(value(
                "groups",
                format!("a divisor of {in_channels} and {out_channels} channels"),
                groups.to_string(),
            ));
        }
        let extents = [in_channels, out_channels];
        let all = [self.kernel_size, self.stride, self.dilation];
        if extents.contains(&0) || all.iter().any(|three| three.contains(&0)) {
            return Err(value(
                "channels, kernel_size, stride and dilation",
                "positive".into(),
                format!("{self:?}"),
            ));
        }
        if let Some(more) = self.transposed {
            let fits = |axis: usize| more[axis] < self.stride[axis].max(self.dilation[axis]);
            if !(0..3).all(fits) {
                return Err(value(
                    "output_padding",
                    "below stride or dilation".into(),
                    format!("{more:?}"),
                ));
            }
            if product(self.stride) > MAX_PHASES {
                return Err(value(
                    "stride of a transposed convolution",
                    format!("at most {MAX_PHASES} in all"),
                    format!("{:?}", self.stride),
                ));
            }
        }
        Ok(())
    }
}

/// The weight of a convolution, packed for one operand kind. May serve many calls.
#[derive(Debug)]
pub struct ConvWeight {
    params: ConvParams,
    kind: OperandKind,
    /// As [`plan::phases`]: rows `[N, taps * C/g]`, absent where no tap reaches the outputs.
    rows: Vec<Option<Prepared>>,
}

impl ConvWeight {
    /// Packs a weight that lies as PyTorch has it.
    pub fn pack(
        cpu: &Cpu,
        kind: OperandKind,
        params: ConvParams,
        weight: &[f32],
    ) -> Result<ConvWeight, OpError> {
        params.check()?;
        OpError::check_len(
            OP,
            "weight [N, C/g, KD, KH, KW]",
            weight.len(),
            params.weight_len(),
        )?;
        let mut rows = Vec::new();
        for phase in plan::taps(&params) {
            let values = plan::weight_rows(&params, weight, &phase);
            let k = phase.len() * (params.in_channels / params.groups);
            rows.push(match k {
                0 => None,
                _ => Some(Prepared::prepare(cpu, kind, &values, k)?),
            });
        }
        Ok(ConvWeight { params, kind, rows })
    }

    /// What it was packed for.
    pub fn params(&self) -> &ConvParams {
        &self.params
    }

    /// The operand kind it was packed for.
    pub fn kind(&self) -> OperandKind {
        self.kind
    }
}

/// Arguments of a convolution.
#[derive(Clone, Copy, Debug)]
pub struct Conv<'a> {
    /// `[B, C, D, H, W]`.
    pub x: Floats<'a>,
    /// B.
    pub batch: usize,
    /// D, H, W.
    pub input_size: [usize; 3],
    /// Packed from the weight.
    pub weight: &'a ConvWeight,
    /// `[N]`.
    pub bias: Option<&'a [f32]>,
}

impl Conv<'_> {
    /// D', H', W'; the arguments fit together.
    pub fn check(&self) -> Result<[usize; 3], OpError> {
        let params = &self.weight.params;
        let output = params.output_size(self.input_size)?;
        let expected = self
            .batch
            .saturating_mul(params.in_channels)
            .saturating_mul(product(self.input_size));
        OpError::check_len(OP, "x [B, C, D, H, W]", self.x.len(), expected)?;
        if let Some(bias) = self.bias {
            OpError::check_len(OP, "bias [N]", bias.len(), params.out_channels)?;
        }
        Ok(output)
    }

    /// `out [B, N, D', H', W']`.
    pub fn cpu(&self, out: FloatsMut<'_>, cpu: &Cpu) -> Result<(), OpError> {
        let output = self.check_out(&out)?;
        let _guard = fp_env::Guard::new();
        cpu::run(self, output, out, cpu);
        Ok(())
    }

    fn check_out(&self, out: &FloatsMut<'_>) -> Result<[usize; 3], OpError> {
        let output = self.check()?;
        let expected = self
            .batch
            .saturating_mul(self.weight.params.out_channels)
            .saturating_mul(product(output));
        OpError::check_len(OP, "out [B, N, D', H', W']", out.len(), expected)?;
        Ok(output)
    }

    fn phases(&self, output: [usize; 3]) -> Vec<Phase> {
        plan::phases(&self.weight.params, self.input_size, output)
    }
}

pub use reference::reference;

fn product(extents: [usize; 3]) -> usize {
    extents.iter().fold(1, |a, &b| a.saturating_mul(b))
}

fn value(arg: &'static str, expected: String, got: String) -> OpError {
    OpError::Value {
        op: OP,
        arg,
        expected,
        got,
    }
}
