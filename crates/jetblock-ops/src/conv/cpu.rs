//! Convolution as a product of weight rows and gathered columns ([`crate::linear::gathered`]).
//!
//! Lanes run over output positions, which lie side by side in memory as their inputs do: gathering is copying runs.
//! A task has some output channels of one image and a range of its positions.

use std::ops::Range;

use jetblock_simd::{Cpu, Level};

use super::direct::{Copy, Group};
use super::plan::Phase;
use super::{Conv, ConvWeight, product};
use crate::floats::{Floats, FloatsMut, FloatsTile};
use crate::linear::gathered::{Columns, Finish, Scratch, product as dot_products};
use crate::linear::{PANEL, PanelRow};

/// Output channels whose totals a task keeps at once: 192 KiB.
const MAX_ROWS: usize = 768;
/// Channels worth gathering the same inputs again for.
const MIN_ROWS: usize = 32;
/// Multiply-adds worth a task of their own; about 20 microseconds.
const MIN_TASK: usize = 1 << 20;

pub(super) fn run(op: &Conv<'_>, output: [usize; 3], out: FloatsMut<'_>, cpu: &Cpu) {
    let params = op.weight.params();
    let (groups, phases) = (params.groups, op.phases(output));
    let outputs = params.out_channels / groups;
    let positions = product(output);
    let work = out.len().saturating_mul(taps(op.weight));
    let wanted = match cpu.threads() {
        1 => 1,
        threads => (work / MIN_TASK).clamp(1, threads * 4),
    };
    let copy = Copy::new(params, &phases);
    let mut pieces = outputs.div_ceil(MAX_ROWS);
    let slabs = wanted
        .div_ceil(op.batch.max(1) * groups * pieces)
        .clamp(1, positions.div_ceil(PANEL));
    // A copy serves all positions of a group.
    let slabs = if copy.is_some() { 1 } else { slabs };
    if copy.is_none() && op.batch * groups * pieces * slabs < wanted.min(cpu.threads()) {
        pieces = pieces.max(wanted.min(outputs.div_ceil(MIN_ROWS)));
    }
    let mut rows = Vec::new();
    for image in 0..op.batch {
        for group in 0..groups {
            let first = image * params.out_channels + group * outputs;
            let at = |piece: usize| first + outputs * piece / pieces;
            rows.extend((0..pieces).map(|piece| at(piece)..at(piece + 1)));
        }
    }
    let panels = positions.div_ceil(PANEL);
    let at = |slab: usize| positions.min(panels * slab / slabs * PANEL);
    let columns: Vec<_> = (0..slabs).map(|slab| at(slab)..at(slab + 1)).collect();
    let outs = FloatsTile::cut(out, positions, &rows, &columns)
        .into_iter()
        .enumerate();
    let tasks: Vec<_> = outs
        .map(|(i, out)| Task {
            op,
            phases: &phases,
            copy: copy.as_ref(),
            output,
            rows: rows[i / slabs].clone(),
            columns: columns[i % slabs].clone(),
            out,
        })
        .collect();
    cpu.par_items(tasks, |task| task.run(cpu.level()));
}

/// Length of the longest dot product.
fn taps(weight: &ConvWeight) -> usize {
    let k = weight.rows.iter().flatten().map(|rows| rows.k());
    k.max().unwrap_or(0)
}

struct Task<'a> {
    op: &'a Conv<'a>,
    phases: &'a [Phase],
    copy: Option<&'a Copy>,
    output: [usize; 3],
    /// Of all images' channels.
    rows: Range<usize>,
    /// Positions of a channel.
    columns: Range<usize>,
    out: FloatsTile<'a>,
}

impl Task<'_> {
    fn run(mut self, level: Level) {
        let Conv { weight, bias, .. } = *self.op;
        let params = weight.params();
        let (image, first) = (
            self.rows.start / params.out_channels,
            self.rows.start % params.out_channels,
        );
        let rows = first..first + self.rows.len();
        let group = first / (params.out_channels / params.groups);
        let channels = params.in_channels / params.groups;
        let size = product(self.op.input_size);
        let at = (image * params.in_channels + group * channels) * size;
        let x = self.op.x.slice(at..at + channels * size);
        if let Some(copy) = self.copy {
            let (op, out, phase) = (self.op, self.out, &self.phases[0]);
            let group = Group {
                op,
                copy,
                phase,
                x,
                first,
                out,
            };
            return group.run(level);
        }
        let mut scratch = Scratch::new(weight.kind(), rows.len(), taps(weight));
        let mut empty = vec![[0.0; PANEL]; 0];
        for (phase, packed) in self.phases.iter().zip(&weight.rows) {
            let source = Taps {
                level,
                x,
                size,
                channels,
                phase,
            };
            // Outputs of a phase ascend, and so do their places.
            let reached = |place: usize| {
                partition(phase.len(), |index| phase.place(index, self.output) < place)
            };
            let (mut at, end) = (reached(self.columns.start), reached(self.columns.end));
            while at < end {
                let count = PANEL.min(end - at);
                let totals = match packed {
                    Some(packed) => {
                        dot_products(level, packed, rows.clone(), &source, at, &mut scratch)
                    }
                    None => {
                        empty.clear();
                        empty.resize(rows.len(), [0.0; PANEL]);
                        &mut empty[..]
                    }
                };
                level.run(Finish {
                    totals,
                    bias: bias.map(|bias| &bias[rows.clone()]),
                });
                let out = &mut self.out;
                if self.phases.len() == 1 {
                    let first = at - self.columns.start;
                    for (row, totals) in totals.iter().enumerate() {
                        let out = out.row_mut(row).slice(first..first + count);
                        out.write(level, &totals[..count]);
                    }
                } else {
                    let mut places = [0; PANEL];
                    for (j, place) in places[..count].iter_mut().enumerate() {
                        *place = phase.place(at + j, self.output) - self.columns.start;
                    }
                    scatter(totals, &places[..count], out);
                }
                at += count;
            }
        }
    }
}

/// The first index in `0..len` that is not below, all before it being below.
fn partition(len: usize, below: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, len);
    while low < high {
        let middle = usize::midpoint(low, high);
        if below(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

fn scatter(totals: &[[f32; PANEL]], places: &[usize], out: &mut FloatsTile<'_>) {
    for (row, totals) in totals.iter().enumerate() {
        let mut out = out.row_mut(row);
        for (&place, &y) in places.iter().zip(totals) {
            out.set(place, y);
        }
    }
}

/// The inputs of one phase's outputs: column j is an output, element `tap * C/g + c` what its tap reads of channel c.
struct Taps<'a> {
    level: Level,
    /// Channels of the group.
    x: Floats<'a>,
    /// Elements of a channel.
    size: usize,
    channels: usize,
    phase: &'a Phase,
}

impl Columns for Taps<'_> {
    fn gather(&self, first: usize, k: usize, rows: &mut [PanelRow<f32>]) {
        let mut done = 0;
        while done < rows.len() {
            let (tap, channel) = ((k + done) / self.channels, (k + done) % self.channels);
            let count = (self.channels - channel).min(rows.len() - done);
            self.gather_tap(first, tap, channel, &mut rows[done..done + count]);
            done += count;
        }
    }
}

impl Taps<'_> {
    /// Row i is what one tap reads of channel `channel + i`.
    fn gather_tap(&self, first: usize, tap: usize, channel: usize, rows: &mut [PanelRow<f32>]) {
        let [_, height, width] = &self.phase.axes;
        let offsets = self.phase.tap(tap);
        let end = self.phase.len().min(first + PANEL);
        let [mut d, mut h, mut w] = self.phase.at(first);
        let mut at = first;
        while at < end {
            let count = (width.count - w).min(end - at);
            let run = Run {
                line: self.line([d, h], offsets),
                start: (w * width.in_stride).cast_signed() + offsets[2],
                stride: width.in_stride,
                width: self.phase.input[2],
            };
            for (i, row) in rows.iter_mut().enumerate() {
                let x = (channel + i) * self.size;
                let x = self.x.slice(x..x + self.size);
                run.copy(self.level, x, &mut row.values_mut()[at - first..][..count]);
            }
            at += count;
            w = 0;
            h += 1;
            if h == height.count {
                (d, h) = (d + 1, 0);
            }
        }
        for row in rows {
            row.values_mut()[end - first..].fill(0.0);
        }
    }

    /// Where the input line begins that a tap reads for the outputs of a line; `None` outside.
    fn line(&self, steps: [usize; 2], offsets: [isize; 3]) -> Option<usize> {
        let mut at = [0; 2];
        for axis in 0..2 {
            let step = (steps[axis] * self.phase.axes[axis].in_stride).cast_signed();
            at[axis] = usize::try_from(step + offsets[axis]).ok()?;
            if at[axis] >= self.phase.input[axis] {
                return None;
            }
        }
        let [_, height, width] = self.phase.input;
        Some((at[0] * height + at[1]) * width)
    }
}

/// Inputs of neighbouring outputs of one line.
struct Run {
    line: Option<usize>,
    /// Of the first one, in its line; may lie outside.
    start: isize,
    stride: usize,
    width: usize,
}

impl Run {
    #[inline(always)]
    fn copy(&self, level: Level, x: Floats<'_>, out: &mut [f32]) {
        let Some(line) = self.line else {
            out.fill(0.0);
            return;
        };
        // Outputs before `low` and from `high` on read outside the line.
        let stride = self.stride.cast_signed();
        let steps_to = |place: isize| {
            let steps = (place - self.start).max(0).cast_unsigned();
            steps.div_ceil(self.stride).min(out.len())
        };
        let (low, high) = (steps_to(0), steps_to(self.width.cast_signed()));
        if low >= high {
            out.fill(0.0);
            return;
        }
        let from = line + (self.start + low.cast_signed() * stride).cast_unsigned();
        out[..low].fill(0.0);
        if self.stride == 1 {
            x.slice(from..from + high - low)
                .read(level, &mut out[low..high]);
        } else {
            for (i, out) in out[low..high].iter_mut().enumerate() {
                *out = x.get(from + i * self.stride);
            }
        }
        out[high..].fill(0.0);
    }
}
