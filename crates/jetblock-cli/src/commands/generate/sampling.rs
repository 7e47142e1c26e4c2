//! The options that say how tokens are drawn.

use std::str::FromStr;

use jetblock_ops::sampling::SamplingParams;

/// How tokens are drawn; defaults are the model's (generation_config.json).
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Sampling (defaults are the model's)")]
pub(crate) struct SamplingArgs {
    /// Divides the logits; 0 takes the most likely token
    #[arg(long, value_name = "T")]
    pub(crate) temperature: Option<f32>,
    /// Keep the K most likely tokens; 0 keeps all
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<u32>,
    /// Keep the most likely tokens that together reach this probability
    #[arg(long, value_name = "P")]
    pub(crate) top_p: Option<f32>,
    /// Keep tokens at least this likely relative to the most likely one
    #[arg(long, value_name = "P")]
    pub(crate) min_p: Option<f32>,
    /// Makes tokens of the prompt and the output less likely; 1 is off
    #[arg(long, value_name = "X")]
    pub(crate) repetition_penalty: Option<f32>,
    /// Subtracted from the logits of tokens in the output
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) presence_penalty: Option<f32>,
    /// Subtracted for each time a token is in the output
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) frequency_penalty: Option<f32>,
    /// Added to the logit of one token; may be repeated
    #[arg(long, value_name = "ID=BIAS")]
    pub(crate) logit_bias: Vec<LogitBias>,
}

/// `ID=BIAS`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LogitBias(u32, f32);

impl FromStr for LogitBias {
    type Err = String;

    fn from_str(text: &str) -> Result<LogitBias, String> {
        let parts = text
            .split_once('=')
            .and_then(|(id, bias)| Some((id.parse().ok()?, bias.parse().ok()?)));
        parts
            .map(|(id, bias)| LogitBias(id, bias))
            .ok_or("expected ID=BIAS, such as 42=-3.5".into())
    }
}

impl SamplingArgs {
    /// The options over the model's defaults.
    pub(super) fn over(&self, defaults: SamplingParams) -> SamplingParams {
        SamplingParams {
            temperature: self.temperature.unwrap_or(defaults.temperature),
            top_k: self.top_k.unwrap_or(defaults.top_k),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            min_p: self.min_p.unwrap_or(defaults.min_p),
            repetition_penalty: self
                .repetition_penalty
                .unwrap_or(defaults.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(defaults.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(defaults.frequency_penalty),
            logit_bias: self
                .logit_bias
                .iter()
                .map(|LogitBias(id, bias)| (*id, *bias))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::parse;
    use super::*;

    #[test]
    fn sampling_options_go_over_the_models_defaults() {
        let args = parse(&[
            "--temperature",
            "0",
            "--presence-penalty",
            "-0.5",
            "--logit-bias",
            "3=-1.5",
        ])
        .unwrap();
        let defaults = SamplingParams {
            top_p: 0.95,
            temperature: 0.7,
            ..SamplingParams::default()
        };
        let expected = SamplingParams {
            top_p: 0.95,
            temperature: 0.0,
            presence_penalty: -0.5,
            logit_bias: vec![(3, -1.5)],
            ..SamplingParams::default()
        };
        assert_eq!(args.sampling.over(defaults), expected);
    }
}
