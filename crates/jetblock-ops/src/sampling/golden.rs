//! Known tokens. `golden/v1/sampling.json` was made by another implementation of NUMERICS.md.
//!
//! Parameters are f32 bits in hex; absent ones have their default.

use jetblock_simd::{Cpu, Level};
use jetblock_testing::painted;
use serde_json::Value;

use super::*;

#[test]
fn golden_tokens_v1() {
    let file = include_str!("../../golden/v1/sampling.json");
    let golden: Value = serde_json::from_str(file).expect("valid JSON");
    let entries = golden["entries"].as_array().expect("a list");
    assert!(entries.len() >= 20, "{} entries", entries.len());
    for entry in entries {
        check(entry);
    }
}

fn check(entry: &Value) {
    let paint = &entry["logits"];
    let scale = (0..int(&paint["scale"])).fold(1.0, |scale, _| scale * 2.0);
    let count = int(&paint["count"]) as usize;
    let logits: Vec<f32> = painted(int(&paint["seed"]) as u32, count)
        .iter()
        .map(|l| l * scale)
        .collect();
    let params = params(&entry["params"]);
    let (prompt_ids, output_ids) = (ids(&entry["prompt_ids"]), ids(&entry["output_ids"]));
    let sampling = Sampling {
        logits: &logits,
        params: &params,
        prompt_ids: &prompt_ids,
        output_ids: &output_ids,
        seed: int(&entry["seed"]),
        sample_index: int(&entry["sample_index"]) as u32,
        position: int(&entry["position"]),
    };
    let want = int(&entry["id"]) as u32;
    assert_eq!(sampling.reference(), Ok(want), "reference of {entry}");
    for level in Level::available() {
        let cpu = Cpu::new(1, level).expect("one thread at an available level");
        assert_eq!(sampling.cpu(&cpu), Ok(want), "{level}, {entry}");
    }
}

fn int(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is not an integer"))
}

fn ids(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .expect("a list of ids")
        .iter()
        .map(|id| int(id) as u32)
        .collect()
}

fn float(value: &Value) -> f32 {
    let digits = value.as_str().expect("bits in hex");
    f32::from_bits(u32::from_str_radix(digits, 16).expect("bits in hex"))
}

fn params(value: &Value) -> SamplingParams {
    let mut params = SamplingParams::default();
    for (name, value) in value.as_object().expect("parameters") {
        match name.as_str() {
            "temperature" => params.temperature = float(value),
            "top_k" => params.top_k = int(value) as u32,
            "top_p" => params.top_p = float(value),
            "min_p" => params.min_p = float(value),
            "repetition_penalty" => params.repetition_penalty = float(value),
            "presence_penalty" => params.presence_penalty = float(value),
            "frequency_penalty" => params.frequency_penalty = float(value),
            "logit_bias" => {
                let pairs = value.as_array().expect("pairs").iter();
                params.logit_bias = pairs
                    .map(|pair| (int(&pair[0]) as u32, float(&pair[1])))
                    .collect();
            }
            name => panic!("unknown parameter {name}"),
        }
    }
    params
}
