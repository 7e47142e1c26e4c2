//! Convolution of groups with few output channels, depthwise ones above all.
//!
//! Gathering would cost more than the sums that it serves. Here the inputs of a group are copied once, with their borders,
//! so that whatever a tap reads of neighbouring outputs lies side by side; the chains then read the copy directly. A stride
//! along the width deals the columns of the copy out to as many planes.

use jetblock_numerics::reduce::K_BLOCK;
use jetblock_numerics::{Lanes, canonical, round};
use jetblock_simd::{Kernel, Level, Simd};

use super::plan::Phase;
use super::{Conv, ConvParams};
use crate::floats::{Floats, FloatsTile};
use crate::linear::OperandKind;
use crate::linear::view::RowView;

/// Output channels of a group up to which this is the faster way.
const MAX_OUTPUTS: usize = 8;
/// Elements of a group's copy: 1 MiB.
const MAX_COPY: usize = 1 << 18;
/// Vectors of outputs whose chains run side by side.
const VECTORS: usize = 4;
/// Elements that a kernel may read behind the last one that it needs; what it makes of them is not stored.
const SLACK: usize = VECTORS * 32;

/// How the copy of a group's inputs lies: `[C/g][depth][height][plane][column]`.
pub(super) struct Copy {
    /// Extents with borders, in inputs.
    extents: [usize; 3],
    /// Elements of a plane's line.
    line: usize,
    /// Input of the first element of each axis.
    first: [isize; 3],
    /// Distance between the inputs of neighbouring outputs.
    strides: [usize; 3],
}

impl Copy {
    /// `None` where gathering is the better way.
    pub(super) fn new(params: &ConvParams, phases: &[Phase]) -> Option<Copy> {
        let [phase] = phases else {
            return None;
        };
        if params.transposed.is_some() || params.out_channels / params.groups > MAX_OUTPUTS {
            return None;
        }
        let strides = [0, 1, 2].map(|i| phase.axes[i].in_stride);
        let extents = [0, 1, 2].map(|i| {
            let axis = &phase.axes[i];
            (axis.count - 1) * strides[i] + axis.reach() + 1
        });
        let copy = Copy {
            extents,
            line: extents[2].div_ceil(strides[2]),
            first: [0, 1, 2].map(|i| phase.axes[i].offsets[0]),
            strides,
        };
        let channels = params.in_channels / params.groups;
        let len = channels.saturating_mul(copy.channel_len());
        (len <= MAX_COPY).then_some(copy)
    }

    /// Elements between lines of inputs.
    fn row_len(&self) -> usize {
        self.strides[2] * self.line
    }

    fn channel_len(&self) -> usize {
        self.extents[0]
            .saturating_mul(self.extents[1])
            .saturating_mul(self.row_len())
    }

    /// Where the element lies that is `at` steps behind the first input.
    fn place(&self, at: [usize; 3]) -> usize {
        let [d, h, w] = at;
        let (plane, column) = (w % self.strides[2], w / self.strides[2]);
        (d * self.extents[1] + h) * self.row_len() + plane * self.line + column
    }

    /// Copies the channels of x, `[C/g, input]`, as operands of the kind.
    fn fill(
        &self,
        level: Level,
        kind: OperandKind,
        x: Floats<'_>,
        input: [usize; 3],
        copy: &mut Vec<f32>,
    ) {
        let channels = x.len() / input.iter().product::<usize>();
        copy.clear();
        copy.resize(channels * self.channel_len() + SLACK, 0.0);
        let inside = |axis: usize, at: usize| {
            let step = (at.cast_signed() - self.first[axis]).cast_unsigned();
            (step < self.extents[axis]).then_some(step)
        };
        // The inputs of a line that some output reads, or that lie between such.
        let end = self.first[2] + self.extents[2].cast_signed();
        let read = self.first[2].max(0).cast_unsigned()..input[2].min(end.max(0).cast_unsigned());
        for i in 0..x.len() / input[2] {
            let (h, rest) = (i % input[1], i / input[1]);
            let (d, c) = (rest % input[0], rest / input[0]);
            let (Some(d), Some(h), false) = (inside(0, d), inside(1, h), read.is_empty()) else {
                continue;
            };
            let line = x.slice(i * input[2] + read.start..i * input[2] + read.end);
            let column = (read.start.cast_signed() - self.first[2]).cast_unsigned();
            let row = c * self.channel_len() + self.place([d, h, 0]);
            if self.strides[2] == 1 {
                line.read(level, &mut copy[row + column..][..line.len()]);
            } else {
                for w in 0..line.len() {
                    copy[row + self.place([0, 0, column + w])] = line.get(w);
                }
            }
        }
        if kind == OperandKind::Bf16 {
            for x in copy {
                *x = round::bf16_operand_round(*x);
            }
        }
    }
}

/// The outputs of one group of one image.
pub(super) struct Group<'a> {
    pub(super) op: &'a Conv<'a>,
    pub(super) copy: &'a Copy,
    pub(super) phase: &'a Phase,
    /// The group's inputs.
    pub(super) x: Floats<'a>,
    /// The group's first output channel.
    pub(super) first: usize,
    pub(super) out: FloatsTile<'a>,
}

impl Group<'_> {
    pub(super) fn run(mut self, level: Level) {
        let (copy, phase, weight) = (self.copy, self.phase, self.op.weight);
        let params = weight.params();
        let mut inputs = Vec::new();
        copy.fill(level, weight.kind(), self.x, phase.input, &mut inputs);
        let channels = params.in_channels / params.groups;
        let rows = weight.rows[0].as_ref().expect("a kernel has taps");
        // Chains take k in this order; a missing odd element adds +0, which changes nothing.
        let mut order: Vec<usize> = (0..rows.k()).collect();
        if weight.kind() == OperandKind::Bf16 {
            order.chunks_exact_mut(2).for_each(<[usize]>::reverse);
        }
        let places: Vec<usize> = order
            .iter()
            .map(|&k| {
                let offsets = phase.tap(k / channels);
                let steps = [0, 1, 2].map(|i| (offsets[i] - copy.first[i]).cast_unsigned());
                k % channels * copy.channel_len() + copy.place(steps)
            })
            .collect();
        let weights: Vec<Vec<f32>> = (0..self.out.rows())
            .map(|row| {
                let row = rows.row(self.first + row);
                order.iter().map(|&k| element(row, k)).collect()
            })
            .collect();
        level.run(Chains {
            inputs: &inputs,
            places: &places,
            weights: &weights,
            bias: self.op.bias.map(|bias| &bias[self.first..]),
            copy,
            phase,
            out: &mut self.out,
        });
    }
}

fn element(row: RowView<'_>, k: usize) -> f32 {
    match row {
        RowView::Values(values) => values[k],
        RowView::Pairs(pairs) => f32::from_bits(match k % 2 {
            0 => pairs[k / 2] << 16,
            _ => pairs[k / 2] & 0xFFFF_0000,
        }),
    }
}

struct Chains<'a, 'o> {
    inputs: &'a [f32],
    /// Of each step of a chain: what output 0 reads.
    places: &'a [usize],
    /// Of each output channel, each step's.
    weights: &'a [Vec<f32>],
    bias: Option<&'a [f32]>,
    copy: &'a Copy,
    phase: &'a Phase,
    out: &'a mut FloatsTile<'o>,
}

impl Kernel for Chains<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let mut row = 0;
        while row < self.weights.len() {
            if self.weights.len() - row >= 4 {
                self.rows::<S, 4>(simd, row);
                row += 4;
            } else {
                self.rows::<S, 1>(simd, row);
                row += 1;
            }
        }
    }
}

impl Chains<'_, '_> {
    /// All positions of a few output channels.
    #[inline(always)]
    fn rows<S: Simd, const ROWS: usize>(&mut self, simd: S, row: usize) {
        let [depth, height, width] = &self.phase.axes;
        for line in 0..depth.count * height.count {
            let (d, h) = (line / height.count, line % height.count);
            let from = self
                .copy
                .place([d * depth.in_stride, h * height.in_stride, 0]);
            let mut at = 0;
            while at < width.count {
                let end = width.count.min(at + VECTORS * S::LANES);
                let totals = self.totals::<S, ROWS>(simd, row, from + at);
                for r in 0..ROWS {
                    let mut out = self.out.row_mut(row + r);
                    let line = line * width.count;
                    for v in 0..VECTORS {
                        let start = at + v * S::LANES;
                        if start < end {
                            let mut y = totals[r][v];
                            if let Some(bias) = self.bias {
                                y = y.add(S::F::splat(bias[row + r]));
                            }
                            let end = end.min(start + S::LANES);
                            out.store_part(simd, canonical(y), line + start..line + end);
                        }
                    }
                }
                at = end;
            }
        }
    }

    /// Dot products of neighbouring positions; `from` is what the first reads at place 0.
    #[inline(always)]
    fn totals<S: Simd, const ROWS: usize>(
        &self,
        simd: S,
        row: usize,
        from: usize,
    ) -> [[S::F; VECTORS]; ROWS] {
        let zero = S::F::splat(0.0);
        let mut totals = [[zero; VECTORS]; ROWS];
        let mut weights: [&[f32]; ROWS] = [&[]; ROWS];
        for r in 0..ROWS {
            weights[r] = &self.weights[row + r][..self.places.len()];
        }
        let mut start = 0;
        while start < self.places.len() {
            let end = self.places.len().min(start + K_BLOCK);
            let mut chains = [[zero; VECTORS]; ROWS];
            for k in start..end {
                let x = &self.inputs[from + self.places[k]..][..VECTORS * S::LANES];
                for v in 0..VECTORS {
                    let x = simd.load(&x[v * S::LANES..]);
                    for r in 0..ROWS {
                        chains[r][v] = x.fma(S::F::splat(weights[r][k]), chains[r][v]);
                    }
                }
            }
            for r in 0..ROWS {
                for v in 0..VECTORS {
                    totals[r][v] = totals[r][v].add(chains[r][v]);
                }
            }
            start = end;
        }
        totals
    }
}
