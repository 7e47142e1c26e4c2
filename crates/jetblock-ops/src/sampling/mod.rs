//! The choice of the next token from one row of logits.
//!
//! Penalties, bias, temperature, top-k, top-p, min-p, then a draw with integer weights; NUMERICS.md section 11. The
//! random number is a function of seed, sample index and position (Salmon et al. 2011, Philox4x32-10), never of what
//! was drawn before or of what else is in the batch.
//!
//! | name       | shape | dtype |
//! |------------|-------|-------|
//! | logits     | `[V]` | f32   |
//! | prompt_ids | `[n]` | u32   |
//! | output_ids | `[m]` | u32   |
//!
//! Rounding points: each step of the penalties; `+ bias`; `/ temperature`; `z - m`; those of exp. From there on
//! weights are integers and sums exact.

mod cpu;
#[cfg(test)]
mod golden;
mod params;
mod reference;
#[cfg(test)]
mod tests;

pub use params::SamplingParams;

use jetblock_numerics::rng::{self, Draw, domain};

use crate::OpError;

/// Arguments of one draw.
#[derive(Clone, Copy, Debug)]
pub struct Sampling<'a> {
    /// One row, `[V]`. `-inf` excludes a token.
    pub logits: &'a [f32],
    /// How to choose.
    pub params: &'a SamplingParams,
    /// Tokens of the prompt, for the repetition penalty.
    pub prompt_ids: &'a [u32],
    /// Tokens drawn so far, for all penalties.
    pub output_ids: &'a [u32],
    /// Seed of the request.
    pub seed: u64,
    /// Which of several samples of one request.
    pub sample_index: u32,
    /// Number of tokens before the one drawn.
    pub position: u64,
}

impl Sampling<'_> {
    const NAME: &'static str = "sampling";

    /// Checks parameters, ids and logits.
    pub fn check(&self) -> Result<(), OpError> {
        self.params.check()?;
        let vocab = self.logits.len();
        let ids = [
            ("prompt_ids", self.prompt_ids),
            ("output_ids", self.output_ids),
        ];
        for (arg, ids) in ids {
            if let Some(id) = ids.iter().find(|id| **id as usize >= vocab) {
                return Err(id_out_of_range(arg, *id, vocab));
            }
        }
        if let Some((id, _)) = self
            .params
            .logit_bias
            .iter()
            .find(|(id, _)| *id as usize >= vocab)
        {
            return Err(id_out_of_range("logit_bias", *id, vocab));
        }
        // Looking at every element without leaving early is what compilers turn into vector code.
        if !self.logits.iter().fold(false, |any, l| any | l.is_nan()) {
            return Ok(());
        }
        let index = self.logits.iter().position(|l| l.is_nan());
        let index = index.expect("one was seen");
        Err(OpError::Nan {
            op: Self::NAME,
            arg: "logits [V]",
            index,
        })
    }

    /// Checks a token that takes the place of the draw, and all that a draw would have checked.
    pub fn check_forced(&self, token: u32) -> Result<(), OpError> {
        self.check()?;
        let vocab = self.logits.len();
        match (token as usize) < vocab {
            true => Ok(()),
            false => Err(id_out_of_range("forced token", token, vocab)),
        }
    }

    /// A uniform 64-bit integer that belongs to this draw alone.
    fn random(&self) -> u64 {
        rng::uniform_u64(
            self.seed,
            Draw {
                position: self.position,
                sample: self.sample_index,
                domain: domain::TOKEN,
            },
        )
    }
}

fn id_out_of_range(arg: &'static str, id: u32, vocab: usize) -> OpError {
    OpError::Value {
        op: Sampling::NAME,
        arg,
        expected: format!("ids below V = {vocab}"),
        got: format!("id {id}"),
    }
}

/// `Ok` where the greatest logit can be chosen from.
fn check_greatest(greatest: f32, arg: &'static str) -> Result<(), OpError> {
    if greatest.is_finite() {
        return Ok(());
    }
    let expected = "a finite number".to_owned();
    Err(OpError::Value {
        op: Sampling::NAME,
        arg,
        expected,
        got: greatest.to_string(),
    })
}

/// `trunc(e * 2^32)`: the integer weight of a candidate with `e = exp(z - m)`.
#[inline(always)]
fn weight(e: f32) -> u64 {
    (e * 4_294_967_296.0) as u64
}

/// `trunc(fraction * 2^32)` of a parameter in 0..=1.
fn fixed_point(fraction: f32) -> u128 {
    u128::from(weight(fraction))
}
