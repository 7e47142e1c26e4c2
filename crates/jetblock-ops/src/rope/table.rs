//! Frequencies of a model, and cosines and sines of a step's positions. Everything here is binary64 on the host.

use jetblock_numerics::math::binary64;
use jetblock_simd::fp_env;

use super::OP;
use crate::{OpError, Segment};

/// 2 pi, rounded.
const TWO_PI: f64 = f64::from_bits(0x4019_21FB_5444_2D18);

/// The rotary embedding of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies, above 0.
    pub theta: f64,
    /// Elements of a head that turn; even, at least 2.
    pub rotary_dim: usize,
    /// How the frequencies are stretched for longer contexts.
    pub scaling: RopeScaling,
}

/// How frequencies are stretched for longer contexts.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Each divided by one factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Llama 3.1: low ones divided by a factor, high ones kept, a ramp between.
    Llama3 {
        /// Divides low frequencies.
        factor: f64,
        /// Waves longer than the original context over this are low.
        low_freq_factor: f64,
        /// Waves shorter than the original context over this are high.
        high_freq_factor: f64,
        /// Context of the training before the stretch.
        original_max_position_embeddings: usize,
    },
    /// Each divided by its own factor, `[rotary_dim / 2]`.
    Factors(Vec<f32>),
}

impl RopeConfig {
    /// Checks the domains of the fields.
    pub fn check(&self) -> Result<(), OpError> {
        let positive = |arg, value: f64| {
            if value > 0.0 && value.is_finite() {
                return Ok(());
            }
            Err(OpError::Value {
                op: OP,
                arg,
                expected: "above 0 and finite".into(),
                got: value.to_string(),
            })
        };
        if self.rotary_dim < 2 || !self.rotary_dim.is_multiple_of(2) {
            return Err(OpError::Value {
                op: OP,
                arg: "rotary_dim",
                expected: "even, at least 2".into(),
                got: self.rotary_dim.to_string(),
            });
        }
        positive("theta", self.theta)?;
        match &self.scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } => positive("factor", *factor),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                ..
            } => {
                positive("factor", *factor)?;
                positive("low_freq_factor", *low_freq_factor)?;
                positive("high_freq_factor", *high_freq_factor)?;
                positive(
                    "high_freq_factor - low_freq_factor",
                    high_freq_factor - low_freq_factor,
                )
            }
            RopeScaling::Factors(factors) => {
                OpError::check_len(OP, "factors", factors.len(), self.rotary_dim / 2)?;
                factors
                    .iter()
                    .try_for_each(|f| positive("factors", f64::from(*f)))
            }
        }
    }

    /// Radians per position of each pair, `[rotary_dim / 2]`.
    pub fn inverse_frequencies(&self) -> Result<Vec<f64>, OpError> {
        self.check()?;
        let _guard = fp_env::Guard::new();
        let plain = (0..self.rotary_dim / 2).map(|i| {
            let exponent = (2 * i) as f64 / self.rotary_dim as f64;
            1.0 / binary64::pow(self.theta, exponent)
        });
        Ok(plain
            .enumerate()
            .map(|(i, f)| self.scaling.apply(i, f))
            .collect())
    }
}

impl RopeScaling {
    fn apply(&self, i: usize, f: f64) -> f64 {
        match self {
            RopeScaling::None => f,
            RopeScaling::Linear { factor } => f / factor,
            RopeScaling::Factors(factors) => f / f64::from(factors[i]),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                let context = *original_max_position_embeddings as f64;
                let wave = TWO_PI / f;
                if wave < context / high_freq_factor {
                    f
                } else if wave > context / low_freq_factor {
                    f / factor
                } else {
                    let smooth =
                        (context / wave - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    (1.0 - smooth) * f / factor + smooth * f
                }
            }
        }
    }
}

/// Cosines and sines of the rows of a step, `[M, rotary_dim / 2]` each.
#[derive(Clone, Debug, Default)]
pub struct RopeTable {
    half: usize,
    rows: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTable {
    /// Computes the rows of `segments`, which cover them in order; a row's position is its sequence's, so it does not matter
    /// what else is in the step.
    pub fn fill(&mut self, inverse_frequencies: &[f64], segments: &[Segment]) {
        let _guard = fp_env::Guard::new();
        self.half = inverse_frequencies.len();
        self.rows = 0;
        self.cos.clear();
        self.sin.clear();
        for segment in segments {
            self.rows += segment.len();
            for position in segment.start..segment.start + segment.len() {
                for f in inverse_frequencies {
                    let angle = position as f64 * f;
                    self.cos.push(binary64::cos(angle) as f32);
                    self.sin.push(binary64::sin(angle) as f32);
                }
            }
        }
    }

    /// M.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements of a head that turn.
    pub fn rotary_dim(&self) -> usize {
        2 * self.half
    }

    /// Cosines and sines of a row.
    pub(super) fn row(&self, row: usize) -> (&[f32], &[f32]) {
        let range = row * self.half..(row + 1) * self.half;
        (&self.cos[range.clone()], &self.sin[range])
    }
}
