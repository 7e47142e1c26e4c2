//! The meaning of convolution: every output gathers its inputs and its weights, tap by tap, and takes one dot product.

use jetblock_numerics::canonical;

use super::{ConvParams, OP, product};
use crate::OpError;
use crate::linear::OperandKind;
use crate::linear::reference::dot;

/// `[B, N, D', H', W']` of x `[B, C, D, H, W]` and a weight as PyTorch has it.
pub fn reference(
    kind: OperandKind,
    params: &ConvParams,
    x: &[f32],
    input_size: [usize; 3],
    weight: &[f32],
    bias: Option<&[f32]>,
) -> Result<Vec<f32>, OpError> {
    let output = params.output_size(input_size)?;
    OpError::check_len(
        OP,
        "weight [N, C/g, KD, KH, KW]",
        weight.len(),
        params.weight_len(),
    )?;
    let image = params.in_channels * product(input_size);
    OpError::check_len(OP, "x [B, C, D, H, W]", x.len(), x.len() / image * image)?;
    let mut out = Vec::new();
    for x in x.chunks_exact(image) {
        for n in 0..params.out_channels {
            for d in 0..output[0] {
                for h in 0..output[1] {
                    for w in 0..output[2] {
                        let (values, weights) =
                            operands(params, x, input_size, weight, n, [d, h, w]);
                        let y = dot(kind, &values, &weights);
                        out.push(canonical(bias.map_or(y, |bias| y + bias[n])));
                    }
                }
            }
        }
    }
    Ok(out)
}

/// Both sides of one output's dot product.
fn operands(
    params: &ConvParams,
    x: &[f32],
    input: [usize; 3],
    weight: &[f32],
    n: usize,
    output: [usize; 3],
) -> (Vec<f32>, Vec<f32>) {
    let (inputs, outputs) = (
        params.in_channels / params.groups,
        params.out_channels / params.groups,
    );
    let group = n / outputs;
    let [depth, rows, columns] = params.kernel_size;
    let (mut values, mut weights) = (Vec::new(), Vec::new());
    for tap in 0..depth * rows * columns {
        let t = [tap / columns / rows, tap / columns % rows, tap % columns];
        let mut at = [0_i64; 3];
        let mut exists = true;
        for axis in 0..3 {
            let (o, reach) = (
                output[axis] as i64,
                (t[axis] * params.dilation[axis]) as i64,
            );
            let (stride, padding) = (params.stride[axis] as i64, params.padding[axis] as i64);
            if params.transposed.is_none() {
                at[axis] = o * stride + reach - padding;
            } else {
                let step = o + padding - reach;
                exists &= step % stride == 0;
                at[axis] = step / stride;
            }
        }
        if !exists {
            continue;
        }
        let inside = (0..3).all(|axis| (0..input[axis] as i64).contains(&at[axis]));
        for c in 0..inputs {
            let channel = group * inputs + c;
            let [d, h, w] = at.map(|at| at as usize);
            values.push(if inside {
                x[((channel * input[0] + d) * input[1] + h) * input[2] + w]
            } else {
                0.0
            });
            let filter = match params.transposed {
                None => n * inputs + c,
                Some(_) => channel * outputs + n % outputs,
            };
            weights.push(weight[filter * depth * rows * columns + tap]);
        }
    }
    (values, weights)
}
