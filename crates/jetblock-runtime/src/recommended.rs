//! How NVIDIA recommends to sample from its models, for checkpoints whose `generation_config.json` does not say.
//!
//! | model | thinking | answering at once | calling tools |
//! |---|---|---|---|
//! | Nemotron 3 Nano 30B-A3B | temperature 1, top-p 1, at least 10,000 tokens | most likely token | temperature 0.6, top-p 0.95 |
//! | Nemotron 3 Super 120B-A12B | temperature 1, top-p 0.95 | the same | the same |
//! | Nemotron Nano 9B v2 | temperature 0.6, top-p 0.95 | most likely token | as without tools |
//!
//! Source: NVIDIA's model cards. A model is known by its shape, since configurations carry no name. Models that NVIDIA
//! gives no numbers for get none.

use jetblock_models::config::{Family, ModelConfig};

/// What a prompt asks of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It thinks, then answers.
    Thinking,
    /// It answers at once.
    Answering,
    /// It may call tools, and thinks or not.
    ToolCalling {
        /// Whether it thinks.
        thinks: bool,
    },
}

/// Recommended parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recommendation {
    /// The model, by name.
    pub model: &'static str,
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f32,
    /// Keeps the most likely tokens up to this probability.
    pub top_p: f32,
    /// Most tokens that an answer should be allowed.
    pub max_tokens: Option<usize>,
}

impl Recommendation {
    /// What NVIDIA recommends for a model of this shape.
    pub fn of(config: &ModelConfig, mode: Mode) -> Option<Recommendation> {
        if config.family != Family::NemotronH {
            return None;
        }
        let shape = (
            config.layers.len(),
            config.hidden_size,
            config.n_routed_experts,
            config.mtp_layers.len(),
        );
        let (model, temperature, top_p, max_tokens) = match (shape, mode) {
            ((52, 2688, 128, 0), mode) => {
                let (temperature, top_p, max_tokens) = match mode {
                    Mode::Thinking => (1.0, 1.0, Some(10_000)),
                    Mode::Answering => (0.0, 1.0, None),
                    Mode::ToolCalling { .. } => (0.6, 0.95, None),
                };
                ("Nemotron 3 Nano", temperature, top_p, max_tokens)
            }
            ((88, 4096, 512, _), _) => ("Nemotron 3 Super", 1.0, 0.95, None),
            ((56, 4480, 0, 0), Mode::Thinking | Mode::ToolCalling { thinks: true }) => {
                ("Nemotron Nano 9B v2", 0.6, 0.95, None)
            }
            ((56, 4480, 0, 0), Mode::Answering | Mode::ToolCalling { thinks: false }) => {
                ("Nemotron Nano 9B v2", 0.0, 1.0, None)
            }
            _ => return None,
        };
        Some(Recommendation {
            model,
            temperature,
            top_p,
            max_tokens,
        })
    }
}

impl std::fmt::Display for Recommendation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Recommendation {
            model,
            temperature,
            top_p,
            ..
        } = self;
        write!(
            f,
            "the model names no sampling; defaults as NVIDIA recommends for {model}: temperature {temperature}, top-p {top_p}"
        )?;
        match self.max_tokens {
            Some(max_tokens) => write!(f, ", up to {max_tokens} tokens"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(name: &str) -> ModelConfig {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../jetblock-models/tests/configs")
            .join(name);
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(path, folder.path().join("config.json")).unwrap();
        ModelConfig::open(folder.path()).unwrap()
    }

    fn numbers(name: &str, mode: Mode) -> Option<(f32, f32, Option<usize>)> {
        Recommendation::of(&config(name), mode).map(|r| (r.temperature, r.top_p, r.max_tokens))
    }

    const TOOLS: Mode = Mode::ToolCalling { thinks: true };

    #[test]
    fn published_models_have_the_numbers_of_their_cards() {
        let nano = "nano_30b.json";
        assert_eq!(
            numbers(nano, Mode::Thinking),
            Some((1.0, 1.0, Some(10_000)))
        );
        assert_eq!(numbers(nano, Mode::Answering), Some((0.0, 1.0, None)));
        assert_eq!(numbers(nano, TOOLS), Some((0.6, 0.95, None)));
        for mode in [Mode::Thinking, Mode::Answering, TOOLS] {
            assert_eq!(numbers("super_120b.json", mode), Some((1.0, 0.95, None)));
        }
        let v2 = "nano_9b_v2.json";
        assert_eq!(numbers(v2, Mode::Thinking), Some((0.6, 0.95, None)));
        assert_eq!(numbers(v2, TOOLS), Some((0.6, 0.95, None)));
        assert_eq!(numbers(v2, Mode::Answering), Some((0.0, 1.0, None)));
        let silent = Mode::ToolCalling { thinks: false };
        assert_eq!(numbers(v2, silent), Some((0.0, 1.0, None)));
    }

    #[test]
    fn it_says_where_the_numbers_come_from() {
        let nano = Recommendation {
            model: "Nemotron 3 Nano",
            temperature: 1.0,
            top_p: 1.0,
            max_tokens: Some(10_000),
        };
        assert_eq!(
            nano.to_string(),
            "the model names no sampling; defaults as NVIDIA recommends for Nemotron 3 Nano: temperature 1, top-p 1, up to 10000 tokens"
        );
    }

    #[test]
    fn nothing_is_recommended_for_other_models() {
        for config in ["nano_4b.json", "ultra_550b.json"] {
            assert_eq!(numbers(config, Mode::Thinking), None, "{config}");
        }
        let nano = config("nano_30b.json");
        let relative = ModelConfig {
            family: Family::Llama,
            ..nano.clone()
        };
        let successor = ModelConfig {
            mtp_layers: vec![nano.layers[0]],
            ..nano
        };
        for config in [relative, successor] {
            assert_eq!(Recommendation::of(&config, Mode::Thinking), None);
        }
    }
}
