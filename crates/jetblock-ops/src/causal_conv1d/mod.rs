//! Depthwise causal convolution along the tokens of each sequence, with silu.
//!
//! `acc = bias[c]`, then `acc = fma(weight[c, k], x[t - (K-1) + k, c], acc)` for k ascending; `y[t, c] = silu(acc)`.
//! Dao and Gu 2024, "Transformers are SSMs"; the `causal_conv1d` package. NUMERICS.md section 7, step 2. The kernel may
//! be another one for each token, made from the text itself: Gu et al. 2025, "Jet-Nemotron", its dynamic convolution.
//!
//! | name   | shape        | dtype                                                                                      |
//! |--------|--------------|--------------------------------------------------------------------------------------------|
//! | x      | `[R, C]`     | f32, columns of a wider matrix; rows of all sequences one after another                    |
//! | weight | `[K, C]`     | f32, from [`transpose_weight`]; checkpoints store [C, 1, K]. Or `[R, K, C]`: [`Taps::EachRow`] |
//! | bias   | `[C]`        | f32, absent means +0                                                                       |
//! | state  | `[K - 1, C]` | f32, one for each sequence: its last rows of x, oldest first; zeros before the first token |
//! | y      | `[R, C]`     | f32                                                                                        |
//!
//! Rounding points: each fma; those of silu.
//!
//! One row for each segment is what other libraries call `causal_conv1d_update`. It is the same code: where a prompt
//! is split cannot be seen in the result.

mod cpu;
mod reference;
#[cfg(test)]
mod tests;

use crate::{Columns, OpError, Segment};

/// Arguments of the convolution.
#[derive(Clone, Debug)]
pub struct CausalConv1d<'a> {
    /// Input rows, `[R, C]`.
    pub x: Columns<'a>,
    /// Kernel; its last row multiplies the current token.
    pub weight: Taps<'a>,
    /// Bias, `[C]`.
    pub bias: Option<&'a [f32]>,
    /// Which rows belong to which sequence; they cover all rows in order.
    pub segments: &'a [Segment],
}

/// What the inputs are multiplied by.
#[derive(Clone, Copy, Debug)]
pub enum Taps<'a> {
    /// The same for every token, `[K, C]`.
    Fixed(&'a [f32]),
    /// Each token's own.
    EachRow {
        /// `[R, K, C]`.
        weight: &'a [f32],
        /// K.
        kernel: usize,
    },
}

/// Turns a checkpoint's `[C, 1, K]` into the `[K, C]` that [`CausalConv1d`] takes.
///
/// # Panics
/// If the length is not a multiple of `channels`.
pub fn transpose_weight(weight: &[f32], channels: usize) -> Vec<f32> {
    assert!(
        channels > 0 && weight.len().is_multiple_of(channels),
        "[C, K] of {} with C = {channels}",
        weight.len()
    );
    let kernel = weight.len() / channels;
    (0..weight.len())
        .map(|i| weight[i % channels * kernel + i / channels])
        .collect()
}

impl CausalConv1d<'_> {
    const NAME: &'static str = "causal_conv1d";

    /// Checks shapes.
    pub fn check(&self) -> Result<(), OpError> {
        let (op, channels) = (Self::NAME, self.channels());
        let value = |arg, expected, got| {
            Err(OpError::Value {
                op,
                arg,
                expected,
                got,
            })
        };
        match self.weight {
            Taps::Fixed(weight) => {
                if channels == 0 || weight.is_empty() || !weight.len().is_multiple_of(channels) {
                    let expected = format!("a positive multiple of C = {channels} elements");
                    return value(
                        "weight [K, C]",
                        expected,
                        format!("{} elements", weight.len()),
                    );
                }
            }
            Taps::EachRow { weight, kernel } => {
                if channels == 0 || kernel == 0 {
                    let got = format!("K = {kernel}, C = {channels}");
                    return value("weight [R, K, C]", "K and C of at least 1".into(), got);
                }
                let len = self.rows() * kernel * channels;
                OpError::check_len(op, "weight [R, K, C]", weight.len(), len)?;
            }
        }
        if let Some(bias) = self.bias {
            OpError::check_len(op, "bias [C]", bias.len(), channels)?;
        }
        self.x.check(op, "x [R, C]", self.rows(), channels)?;
        Segment::check_cover(op, self.segments, self.rows())
    }

    fn check_all(&self, states: &[&mut [f32]], out: &[f32]) -> Result<(), OpError> {
        self.check()?;
        let len = self.history() * self.channels();
        Segment::check_states(Self::NAME, "state [K - 1, C]", self.segments, states, len)?;
        OpError::check_len(
            Self::NAME,
            "out [R, C]",
            out.len(),
            self.rows() * self.channels(),
        )
    }

    fn channels(&self) -> usize {
        self.x.width()
    }

    fn rows(&self) -> usize {
        self.x.data.len() / self.x.row_len.max(1)
    }

    /// K - 1: rows carried from step to step.
    fn history(&self) -> usize {
        match self.weight {
            Taps::Fixed(weight) => weight.len() / self.channels() - 1,
            Taps::EachRow { kernel, .. } => kernel - 1,
        }
    }

    /// Tap k of the kernel of row `r`, `[C]`.
    #[inline(always)]
    fn tap(&self, r: usize, k: usize) -> &[f32] {
        let (weight, row) = match self.weight {
            Taps::Fixed(weight) => (weight, 0),
            Taps::EachRow { weight, kernel } => (weight, r * kernel),
        };
        &weight[(row + k) * self.channels()..][..self.channels()]
    }
}
