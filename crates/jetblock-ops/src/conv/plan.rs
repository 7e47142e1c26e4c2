//! Which input each tap of each output reads.
//!
//! An ordinary convolution is one *phase*. The outputs of a transposed one fall into as many phases as the stride has
//! steps: outputs of a phase are a stride apart, share their taps, and read neighbouring inputs, so that each phase is a
//! convolution of stride 1 with some of the taps.

use super::ConvParams;

/// One axis of a phase: output `first + j * out_stride`, j in 0..count, reads input `j * in_stride + offset` of a tap.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    pub(super) first: usize,
    pub(super) out_stride: usize,
    pub(super) count: usize,
    pub(super) in_stride: usize,
    pub(super) offsets: Vec<isize>,
}

impl Axis {
    /// From the first to the last input that an output reads.
    pub(super) fn reach(&self) -> usize {
        let last = self.offsets.last().copied().unwrap_or_default();
        (last - self.offsets.first().copied().unwrap_or_default()).unsigned_abs()
    }
}

/// Outputs that share their taps; axes are (depth, height, width).
#[derive(Clone, Debug)]
pub(super) struct Phase {
    /// Extents of the input.
    pub(super) input: [usize; 3],
    pub(super) axes: [Axis; 3],
}

impl Phase {
    /// Outputs of one channel.
    pub(super) fn len(&self) -> usize {
        self.axes.iter().map(|axis| axis.count).product()
    }

    /// Extents of a channel's outputs in steps.
    fn counts(&self) -> [usize; 3] {
        [0, 1, 2].map(|i| self.axes[i].count)
    }

    /// The steps (j of each axis) of output `index`.
    #[inline(always)]
    pub(super) fn at(&self, index: usize) -> [usize; 3] {
        let [_, h, w] = self.counts();
        [index / w / h, index / w % h, index % w]
    }

    /// The place of output `index` in a channel of the whole output.
    pub(super) fn place(&self, index: usize, output: [usize; 3]) -> usize {
        let at = self.at(index);
        let o = |i: usize| self.axes[i].first + at[i] * self.axes[i].out_stride;
        (o(0) * output[1] + o(1)) * output[2] + o(2)
    }

    /// Offsets of a tap; taps ascend with the width fastest.
    #[inline(always)]
    pub(super) fn tap(&self, tap: usize) -> [isize; 3] {
        let [d, h, w] = &self.axes;
        let (rows, columns) = (h.offsets.len(), w.offsets.len());
        [
            d.offsets[tap / columns / rows],
            h.offsets[tap / columns % rows],
            w.offsets[tap % columns],
        ]
    }
}

/// All phases, in an order that does not depend on sizes; some may be empty.
pub(super) fn phases(params: &ConvParams, input: [usize; 3], output: [usize; 3]) -> Vec<Phase> {
    // A pointwise convolution sees no axes.
    let (ones, plain) = ([1; 3], [0; 3]);
    if params.transposed.is_none()
        && (params.kernel_size, params.stride, params.padding) == (ones, ones, plain)
    {
        let axis = |count| Axis {
            first: 0,
            out_stride: 1,
            count,
            in_stride: 1,
            offsets: vec![0],
        };
        let len = input.iter().product();
        return vec![Phase {
            input: [1, 1, len],
            axes: [axis(1), axis(1), axis(len)],
        }];
    }
    let axes = [0, 1, 2].map(|axis| {
        let taps = axis_taps(params, axis);
        let of =
            |(step, taps): (usize, Vec<usize>)| axis_of(params, axis, step, &taps, output[axis]);
        taps.into_iter().enumerate().map(of).collect::<Vec<_>>()
    });
    let [depth, height, width] = &axes;
    let mut all = Vec::new();
    for d in depth {
        for h in height {
            for w in width {
                let axes = [d.clone(), h.clone(), w.clone()];
                all.push(Phase { input, axes });
            }
        }
    }
    all
}

fn axis_of(params: &ConvParams, axis: usize, step: usize, taps: &[usize], output: usize) -> Axis {
    let (stride, dilation) = (params.stride[axis], params.dilation[axis]);
    let padding = params.padding[axis].cast_signed();
    let reach = |tap: usize| (tap * dilation).cast_signed();
    match params.transposed {
        None => Axis {
            first: 0,
            out_stride: 1,
            count: output,
            in_stride: stride,
            offsets: taps.iter().map(|&tap| reach(tap) - padding).collect(),
        },
        Some(_) => Axis {
            first: step,
            out_stride: stride,
            count: output.saturating_sub(step).div_ceil(stride),
            in_stride: 1,
            offsets: taps
                .iter()
                .map(|&tap| {
                    let at = step.cast_signed() + padding - reach(tap);
                    at.div_euclid(stride.cast_signed())
                })
                .collect(),
        },
    }
}

/// The taps of each phase of one axis.
fn axis_taps(params: &ConvParams, axis: usize) -> Vec<Vec<usize>> {
    let all = 0..params.kernel_size[axis];
    if params.transposed.is_none() {
        return vec![all.collect()];
    }
    let stride = params.stride[axis];
    let meets = |step: usize, tap: usize| {
        // step + padding - tap * dilation is a multiple of the stride.
        (step + params.padding[axis]) % stride == tap * params.dilation[axis] % stride
    };
    (0..stride)
        .map(|step| all.clone().filter(|&tap| meets(step, tap)).collect())
        .collect()
}

/// The taps of each phase as indices into the kernel, in the order of [`phases`].
pub(super) fn taps(params: &ConvParams) -> Vec<Vec<usize>> {
    let [depth, height, width] = [0, 1, 2].map(|axis| axis_taps(params, axis));
    let [_, rows, columns] = params.kernel_size;
    let mut all = Vec::new();
    for d in &depth {
        for h in &height {
            for w in &width {
                let mut taps = Vec::new();
                for d in d {
                    for h in h {
                        taps.extend(w.iter().map(|w| (d * rows + h) * columns + w));
                    }
                }
                all.push(taps);
            }
        }
    }
    all
}

/// `[N, taps * C/g]`, the channel fastest, of a weight as PyTorch has it.
pub(super) fn weight_rows(params: &ConvParams, weight: &[f32], taps: &[usize]) -> Vec<f32> {
    let (inputs, outputs) = (
        params.in_channels / params.groups,
        params.out_channels / params.groups,
    );
    let kernel: usize = params.kernel_size.iter().product();
    let mut rows = Vec::with_capacity(params.out_channels * taps.len() * inputs);
    for n in 0..params.out_channels {
        let (group, output) = (n / outputs, n % outputs);
        for &tap in taps {
            for c in 0..inputs {
                let filter = match params.transposed {
                    None => n * inputs + c,
                    Some(_) => (group * inputs + c) * outputs + output,
                };
                rows.push(weight[filter * kernel + tap]);
            }
        }
    }
    rows
}
