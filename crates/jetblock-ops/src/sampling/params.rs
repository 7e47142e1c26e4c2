//! How the next token is chosen.

use super::Sampling;
use crate::OpError;

/// Parameters of a request. The default draws from the model's distribution as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 takes the greatest (ties: the lowest id).
    pub temperature: f32,
    /// Keeps the k most probable tokens; 0 keeps all.
    pub top_k: u32,
    /// Keeps the most probable tokens that together reach this probability; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this probable relative to the most probable; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies other logits of tokens already in prompt or output; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted from logits of tokens already in the output; 0 is off.
    pub presence_penalty: f32,
    /// Subtracted once for each occurrence in the output; 0 is off.
    pub frequency_penalty: f32,
    /// Added to single logits; an id occurs at most once.
    pub logit_bias: Vec<(u32, f32)>,
}

impl Default for SamplingParams {
    fn default() -> SamplingParams {
        SamplingParams {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
        }
    }
}

impl SamplingParams {
    /// Always the most probable token.
    pub fn greedy() -> SamplingParams {
        SamplingParams {
            temperature: 0.0,
            ..SamplingParams::default()
        }
    }

    /// Checks the domain of every parameter.
    pub fn check(&self) -> Result<(), OpError> {
        let finite = f32::is_finite;
        check(
            finite(self.temperature) && self.temperature >= 0.0,
            "temperature",
            "finite and >= 0",
            self.temperature,
        )?;
        check(
            self.top_p > 0.0 && self.top_p <= 1.0,
            "top_p",
            "in (0, 1]",
            self.top_p,
        )?;
        check(
            (0.0..=1.0).contains(&self.min_p),
            "min_p",
            "in [0, 1]",
            self.min_p,
        )?;
        let repetition = self.repetition_penalty;
        check(
            finite(repetition) && repetition > 0.0,
            "repetition_penalty",
            "finite and > 0",
            repetition,
        )?;
        check(
            finite(self.presence_penalty),
            "presence_penalty",
            "finite",
            self.presence_penalty,
        )?;
        check(
            finite(self.frequency_penalty),
            "frequency_penalty",
            "finite",
            self.frequency_penalty,
        )?;
        let mut ids: Vec<u32> = self.logit_bias.iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return check(
                false,
                "logit_bias",
                "at most one bias for an id",
                format!("id {} twice", pair[0]),
            );
        }
        for (id, bias) in &self.logit_bias {
            check(
                finite(*bias),
                "logit_bias",
                "finite",
                format!("{bias} for id {id}"),
            )?;
        }
        Ok(())
    }

    /// Whether any logit is changed before the temperature.
    pub(super) fn changes_logits(&self) -> bool {
        self.repetition_penalty != 1.0 || self.has_output_penalty() || !self.logit_bias.is_empty()
    }

    /// Whether tokens of the output are penalised for how often they occur.
    pub(super) fn has_output_penalty(&self) -> bool {
        self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }
}

fn check(ok: bool, arg: &'static str, expected: &str, got: impl ToString) -> Result<(), OpError> {
    if ok {
        return Ok(());
    }
    Err(OpError::Value {
        op: Sampling::NAME,
        arg,
        expected: expected.to_owned(),
        got: got.to_string(),
    })
}
