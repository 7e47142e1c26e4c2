//! Known digests of the operators of NUMERICS.md section 13. `golden/v1/torch.json` was made by `tests/second_implementation`.

use std::fmt;

use serde_json::Value;

use crate::linear::OperandKind;

/// A case: an op, its parameters, the seed of its painted inputs, and the digest of its output.
pub(crate) struct Entry(Value);

/// The cases of an op.
pub(crate) fn entries(op: &str) -> Vec<Entry> {
    let file = include_str!("../golden/v1/torch.json");
    let golden: Value = serde_json::from_str(file).expect("valid JSON");
    let entries = golden["entries"].as_array().expect("a list").iter();
    let of_op = entries.filter(|entry| entry["op"] == op);
    of_op.map(|entry| Entry(entry.clone())).collect()
}

impl Entry {
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.get(name).is_some()
    }

    pub(crate) fn int(&self, name: &str) -> usize {
        let value = self.0[name].as_u64();
        value.unwrap_or_else(|| panic!("{name} of {self}")) as usize
    }

    pub(crate) fn ints<const N: usize>(&self, name: &str) -> [usize; N] {
        let list = self.0[name]
            .as_array()
            .unwrap_or_else(|| panic!("{name} of {self}"));
        assert_eq!(list.len(), N, "{name} of {self}");
        std::array::from_fn(|i| list[i].as_u64().expect("an integer") as usize)
    }

    pub(crate) fn text(&self, name: &str) -> &str {
        self.0[name]
            .as_str()
            .unwrap_or_else(|| panic!("{name} of {self}"))
    }

    /// A binary32 number in decimal.
    pub(crate) fn float(&self, name: &str) -> f32 {
        let value = self.0[name].as_f64();
        value.unwrap_or_else(|| panic!("{name} of {self}")) as f32
    }

    pub(crate) fn seed(&self) -> u32 {
        self.int("seed") as u32
    }

    pub(crate) fn kind(&self) -> OperandKind {
        match self.text("kind") {
            "bf16" => OperandKind::Bf16,
            "f32" => OperandKind::F32,
            other => panic!("kind {other}"),
        }
    }

    /// The digest of NUMERICS.md section 6.
    pub(crate) fn check(&self, y: &[f32]) {
        let terms = y.iter().enumerate();
        let terms = terms.map(|(i, y)| u64::from(y.to_bits()).wrapping_mul(2 * i as u64 + 1));
        let digest = format!("{:016x}", terms.fold(0, u64::wrapping_add));
        assert_eq!(digest, self.text("digest"), "{self}");
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
