//! The element types that a safetensors or GGUF file may declare.

use std::fmt;

use jetblock_tensor::DType;

use super::BlockType;

/// An element type as the file declares it; `Display` is the name in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names are those of the file format")]
#[allow(
    non_camel_case_types,
    reason = "the names are those of the file format"
)]
pub enum StoredDType {
    BOOL,
    F4,
    F6_E2M3,
    F6_E3M2,
    U8,
    I8,
    F8_E5M2,
    F8_E4M3,
    F8_E8M0,
    F8_E4M3FNUZ,
    F8_E5M2FNUZ,
    I16,
    U16,
    F16,
    BF16,
    I32,
    U32,
    F32,
    C64,
    F64,
    I64,
    U64,
    /// Of GGUF files: codes in blocks with a scale.
    Block(BlockType),
}

impl StoredDType {
    const ALL: [(StoredDType, &'static str, u64); 22] = [
        (StoredDType::BOOL, "BOOL", 8),
        (StoredDType::F4, "F4", 4),
        (StoredDType::F6_E2M3, "F6_E2M3", 6),
        (StoredDType::F6_E3M2, "F6_E3M2", 6),
        (StoredDType::U8, "U8", 8),
        (StoredDType::I8, "I8", 8),
        (StoredDType::F8_E5M2, "F8_E5M2", 8),
        (StoredDType::F8_E4M3, "F8_E4M3", 8),
        (StoredDType::F8_E8M0, "F8_E8M0", 8),
        (StoredDType::F8_E4M3FNUZ, "F8_E4M3FNUZ", 8),
        (StoredDType::F8_E5M2FNUZ, "F8_E5M2FNUZ", 8),
        (StoredDType::I16, "I16", 16),
        (StoredDType::U16, "U16", 16),
        (StoredDType::F16, "F16", 16),
        (StoredDType::BF16, "BF16", 16),
        (StoredDType::I32, "I32", 32),
        (StoredDType::U32, "U32", 32),
        (StoredDType::F32, "F32", 32),
        (StoredDType::C64, "C64", 64),
        (StoredDType::F64, "F64", 64),
        (StoredDType::I64, "I64", 64),
        (StoredDType::U64, "U64", 64),
    ];

    /// The element type with this name in the file.
    pub fn from_name(name: &str) -> Option<StoredDType> {
        StoredDType::ALL
            .into_iter()
            .find(|(_, n, _)| *n == name)
            .map(|(dtype, _, _)| dtype)
    }

    /// The element type with this number in a GGUF file.
    pub fn from_ggml(id: u32) -> Option<StoredDType> {
        match id {
            0 => Some(StoredDType::F32),
            1 => Some(StoredDType::F16),
            30 => Some(StoredDType::BF16),
            _ => BlockType::ALL
                .into_iter()
                .find(|block| block.ggml_id() == id)
                .map(StoredDType::Block),
        }
    }

    /// The name in the file.
    pub fn name(self) -> &'static str {
        match self {
            StoredDType::Block(block) => block.name(),
            plain => plain.entry().1,
        }
    }

    /// Bits of one element; of a block format, rounded up.
    pub fn bits(self) -> u64 {
        match self {
            StoredDType::Block(block) => (8 * block.bytes()).div_ceil(block.elements()) as u64,
            plain => plain.entry().2,
        }
    }

    /// Elements and bytes that are stored together.
    pub(crate) fn block(self) -> (usize, usize) {
        match self {
            StoredDType::Block(block) => (block.elements(), block.bytes()),
            plain if plain.bits() < 8 => (4, plain.bits() as usize / 2),
            plain => (1, plain.bits() as usize / 8),
        }
    }

    fn entry(self) -> (StoredDType, &'static str, u64) {
        let known = StoredDType::ALL.into_iter().find(|(d, ..)| *d == self);
        known.expect("every plain type is in the table")
    }

    /// The type that this version computes with, if it does.
    pub fn dtype(self) -> Option<DType> {
        match self {
            StoredDType::F32 => Some(DType::F32),
            StoredDType::BF16 => Some(DType::BF16),
            StoredDType::F16 => Some(DType::F16),
            _ => None,
        }
    }

    /// Whether every value of the codes of this type is a bf16 operand, so that the bf16 kind loses nothing of the weights.
    pub fn is_bf16_exact(self) -> bool {
        matches!(self, StoredDType::BF16 | StoredDType::Block(_))
    }
}

impl fmt::Display for StoredDType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl serde::Serialize for StoredDType {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_types_belong_together() {
        for (dtype, name, bits) in StoredDType::ALL {
            assert_eq!((dtype.name(), dtype.bits()), (name, bits));
            assert_eq!(format!("{dtype:?}"), name);
            assert_eq!(StoredDType::from_name(name), Some(dtype));
        }
    }
}
