//! Known digests. `golden/v1/quantized_linear.json` was made by `tests/second_implementation`.

use serde_json::Value;

use super::tests::{Stored, check_digest};
use super::*;
use crate::linear::OperandKind;

#[test]
fn golden_products_v1() {
    let file = include_str!("../../../golden/v1/quantized_linear.json");
    let golden: Value = serde_json::from_str(file).expect("valid JSON");
    let entries = golden["entries"].as_array().expect("a list");
    assert!(entries.len() >= 20, "{} entries", entries.len());
    for entry in entries {
        let int = |name: &str| {
            let value = entry[name].as_u64();
            value.unwrap_or_else(|| panic!("{name} of {entry}")) as usize
        };
        let kind = match entry["kind"].as_str() {
            Some("bf16") => OperandKind::Bf16,
            Some("f32") => OperandKind::F32,
            other => panic!("kind {other:?}"),
        };
        let codes = match entry["codes"].as_str() {
            Some("E2m1") => Codes::E2m1,
            Some("U4") => Codes::U4,
            Some("U4Less8") => Codes::U4Less8,
            Some("E4m3") => Codes::E4m3,
            Some("I8") => Codes::I8,
            other => panic!("codes {other:?}"),
        };
        let scale = |name: &str| match entry[name].as_str() {
            None => None,
            Some("F32") => Some(ScaleType::F32),
            Some("F16") => Some(ScaleType::F16),
            Some("E4m3") => Some(ScaleType::E4m3),
            other => panic!("{name} {other:?}"),
        };
        let blocks = scale("scale").map(|scale_type| ScaleBlocks {
            len: int("block"),
            scale: scale_type,
            offset: scale("offset"),
        });
        let paint = int("paint") as u32;
        let mut weight = Stored::new(Format { codes, blocks }, int("n"), int("k"), paint);
        weight.factors = jetblock_testing::painted(paint + 5, int("n"));
        let factor = (0..int("x_scale")).fold(1.0, |x, _| x * 2.0);
        let x: Vec<f32> = jetblock_testing::painted(paint + 7, int("m") * int("k"))
            .iter()
            .map(|x| x * factor)
            .collect();
        let want = entry["digest"].as_str().expect("a digest");
        check_digest(&entry.to_string(), kind, &weight, &x, want);
    }
}
