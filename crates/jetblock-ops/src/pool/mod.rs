//! Pooling: the mean or the largest element of windows of the input.
//!
//! A window is a box of input elements, cut off at the borders; its elements in logical order are a row. Max: the row's
//! maximum. Avg: its sum, divided by f32 of a count. Source: `torch.nn.functional.avg_pool3d`, `max_pool3d`,
//! `adaptive_avg_pool3d` and those of fewer dimensions; NUMERICS.md section 13.7.
//!
//! | name | shape | dtype |
//! |---|---|---|
//! | x | `[B * C, D, H, W]` | f32 |
//! | y | `[B * C, D', H', W']` | f32 |
//!
//! Rounding points: the additions in the order of section 4, the division.

mod cpu;
mod reference;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::OpError;

/// Windows that slide over the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Extents.
    pub kernel_size: [usize; 3],
    /// Distance between windows.
    pub stride: [usize; 3],
    /// How far the first window begins before the input.
    pub padding: [usize; 3],
    /// Distance between elements of a window (max only).
    pub dilation: [usize; 3],
    /// Whether windows that reach beyond the padded input count.
    pub ceil_mode: bool,
}

/// What is taken of which windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The largest element.
    Max(Window),
    /// The mean.
    Avg {
        /// Which windows.
        window: Window,
        /// Whether zeros of the padding count as elements.
        count_include_pad: bool,
        /// Divides in place of the count.
        divisor: Option<usize>,
    },
    /// The mean of windows that cover the input as evenly as can be.
    AdaptiveAvg([usize; 3]),
    /// The largest element of such windows.
    AdaptiveMax([usize; 3]),
}

/// Arguments of pooling.
#[derive(Clone, Copy, Debug)]
pub struct Pool<'a> {
    /// `[B * C, D, H, W]`.
    pub x: &'a [f32],
    /// D, H, W.
    pub input_size: [usize; 3],
    /// What is computed.
    pub pooling: Pooling,
}

/// One window along one axis.
#[derive(Clone, Debug)]
struct Reach {
    inputs: Range<usize>,
    step: usize,
    /// Elements that count where padding counts.
    padded: usize,
}

impl Pool<'_> {
    const NAME: &'static str = "pool";

    /// D', H', W'.
    pub fn output_size(&self) -> Result<[usize; 3], OpError> {
        let window = match self.pooling {
            Pooling::Max(window) | Pooling::Avg { window, .. } => window,
            Pooling::AdaptiveAvg(output) | Pooling::AdaptiveMax(output) => {
                if self.input_size.contains(&0) || output.contains(&0) {
                    return Err(value("sizes", "positive", format!("{self:?}")));
                }
                return Ok(output);
            }
        };
        let Window {
            kernel_size,
            stride,
            padding,
            dilation,
            ceil_mode,
        } = window;
        let mut output = [0; 3];
        for i in 0..3 {
            let input = self.input_size[i];
            if [kernel_size[i], stride[i], dilation[i], input].contains(&0) {
                let expected = "positive extents, stride and dilation";
                return Err(value("window", expected, format!("{window:?}")));
            }
            if padding[i] > kernel_size[i] / 2 {
                let expected = "at most half the kernel";
                return Err(value("padding", expected, format!("{window:?}")));
            }
            let reach = dilation[i].saturating_mul(kernel_size[i] - 1);
            let Some(room) = (input + 2 * padding[i]).checked_sub(reach.saturating_add(1)) else {
                let expected = "no larger than the padded input";
                return Err(value("window", expected, format!("{window:?}")));
            };
            output[i] = room / stride[i] + 1;
            // A further window must begin inside the input or its left border.
            if ceil_mode && room % stride[i] != 0 && output[i] * stride[i] < input + padding[i] {
                output[i] += 1;
            }
        }
        let dilated = dilation != [1; 3];
        if dilated && !matches!(self.pooling, Pooling::Max(_)) {
            return Err(value("dilation", "1 for means", format!("{dilation:?}")));
        }
        Ok(output)
    }

    fn check(&self, out: &[f32]) -> Result<[usize; 3], OpError> {
        let output = self.output_size()?;
        let len = |size: [usize; 3]| size.iter().fold(1_usize, |a, &b| a.saturating_mul(b));
        let (from, to) = (len(self.input_size), len(output));
        OpError::check_rows(Self::NAME, "x [B * C, D, H, W]", self.x.len(), from)?;
        let expected = (self.x.len() / from).saturating_mul(to);
        OpError::check_len(Self::NAME, "out [B * C, D', H', W']", out.len(), expected)?;
        if let Pooling::Avg {
            divisor: Some(0), ..
        } = self.pooling
        {
            return Err(value("divisor", "positive", "0".into()));
        }
        Ok(output)
    }

    fn largest(&self) -> bool {
        matches!(self.pooling, Pooling::Max(_) | Pooling::AdaptiveMax(_))
    }

    /// The windows of each axis.
    fn reaches(&self, output: [usize; 3]) -> [Vec<Reach>; 3] {
        [0, 1, 2].map(|i| {
            let (input, all) = (self.input_size[i], 0..output[i]);
            let window = match self.pooling {
                Pooling::Max(window) | Pooling::Avg { window, .. } => window,
                Pooling::AdaptiveAvg(_) | Pooling::AdaptiveMax(_) => {
                    let to = output[i];
                    let reach = |o: usize| Reach {
                        inputs: o * input / to..((o + 1) * input).div_ceil(to),
                        step: 1,
                        padded: 0,
                    };
                    return all.map(reach).collect();
                }
            };
            let (padding, step) = (window.padding[i], window.dilation[i]);
            let reach = |o: usize| {
                // Counted from the left end of the padding.
                let start = o * window.stride[i];
                let end = start + step * (window.kernel_size[i] - 1) + 1;
                let first = start + padding.saturating_sub(start).div_ceil(step) * step;
                Reach {
                    inputs: first - padding..(end - padding.min(end)).min(input),
                    step,
                    padded: end.min(input + 2 * padding) - start,
                }
            };
            all.map(reach).collect()
        })
    }

    /// What the sum of a window is divided by.
    fn divisor(&self, window: [&Reach; 3]) -> f32 {
        let present = window.iter().map(|reach| reach.inputs.len());
        let count: usize = match self.pooling {
            Pooling::Avg {
                divisor: Some(divisor),
                ..
            } => divisor,
            Pooling::Avg {
                count_include_pad: true,
                ..
            } => window.iter().map(|reach| reach.padded).product(),
            _ => present.product(),
        };
        count as f32
    }
}

fn value(arg: &'static str, expected: &str, got: String) -> OpError {
    OpError::Value {
        op: Pool::NAME,
        arg,
        expected: expected.into(),
        got,
    }
}
