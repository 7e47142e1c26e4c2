//! `config.json` of any family, and the report made from it.
#![no_main]

use jetblock_models::config::ModelConfig;
use jetblock_models::detector::Profile;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(config) = ModelConfig::from_json(bytes) {
        assert!(config.tensors().iter().all(|tensor| tensor.elements() > 0));
    }
    if let Ok(profile) = Profile::from_json(bytes, None) {
        assert!(!profile.to_string().is_empty());
    }
});
