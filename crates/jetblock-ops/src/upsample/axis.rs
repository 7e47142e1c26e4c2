//! Which inputs each output of an axis reads, and with which weights. Binary64, on the host.

use super::{Mode, Upsample};

/// Taps of each output of an axis.
#[derive(Debug)]
pub(super) struct Axis {
    /// Taps of an output: 1, 2 or 4.
    pub(super) taps: usize,
    /// `[outputs, taps]`.
    pub(super) inputs: Vec<usize>,
    /// `[outputs, taps]`.
    pub(super) weights: Vec<f32>,
}

impl Axis {
    pub(super) fn new(op: &Upsample<'_>, axis: usize) -> Axis {
        let (from, to) = (op.input_size[axis], op.output_size[axis]);
        let taps = match op.mode {
            Mode::Nearest | Mode::NearestExact => 1,
            Mode::Linear => 2,
            Mode::Cubic => 4,
        };
        let (mut inputs, mut weights) = (Vec::new(), Vec::new());
        for o in 0..to {
            let at = position(op, axis, o);
            if taps == 1 {
                inputs.push((at.floor() as usize).min(from - 1));
                weights.push(1.0);
                continue;
            }
            // Linear positions stop at the first input; cubic ones are extended by the clamp of the taps.
            let at = if taps == 2 && at < 0.0 { 0.0 } else { at };
            let base = at.floor();
            let t = at - base;
            let first = base as i64 - if taps == 4 { 1 } else { 0 };
            for i in 0..taps as i64 {
                inputs.push((first + i).clamp(0, from as i64 - 1) as usize);
            }
            if taps == 2 {
                weights.extend([1.0 - t as f32, t as f32]);
            } else {
                weights
                    .extend([far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)].map(|w| w as f32));
            }
        }
        Axis {
            taps,
            inputs,
            weights,
        }
    }
}

/// Where output `o` lies between the inputs.
fn position(op: &Upsample<'_>, axis: usize, o: usize) -> f64 {
    let (from, to, o) = (
        op.input_size[axis] as f64,
        op.output_size[axis] as f64,
        o as f64,
    );
    let scale = op.scale_factor[axis];
    let inputs_at = |o: f64| {
        if scale > 0.0 {
            o / scale
        } else {
            o * from / to
        }
    };
    match op.mode {
        Mode::Nearest => inputs_at(o),
        Mode::NearestExact => inputs_at(o + 0.5),
        _ if op.align_corners => {
            if to > 1.0 {
                o * (from - 1.0) / (to - 1.0)
            } else {
                0.0
            }
        }
        _ => inputs_at(o + 0.5) - 0.5,
    }
}

const A: f64 = -0.75;

/// Keys' kernel at a distance of 0 to 1.
fn near(x: f64) -> f64 {
    ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
}

/// At a distance of 1 to 2.
fn far(x: f64) -> f64 {
    ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A
}
