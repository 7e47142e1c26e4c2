//! Digests of tensors (NUMERICS.md section 12).

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::DType;

/// Bytes hashed together; the digest is over the hashes of the chunks, so they can be computed in parallel.
pub const CHUNK_BYTES: usize = 1 << 20;

/// A SHA-256 value; `Display` is 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The first 16 hex digits, for people.
    pub fn short(&self) -> String {
        self.to_string()[..16].to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// The plain SHA-256 of some bytes.
pub fn sha256(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// The digest of a tensor given the name of its dtype and its little-endian, row-major bytes.
pub fn tensor_bytes(dtype: &str, shape: &[usize], bytes: &[u8]) -> Digest {
    let dims: Vec<String> = shape.iter().map(usize::to_string).collect();
    let mut hash = Sha256::new();
    hash.update(format!("{dtype}[{}]\n", dims.join(",")));
    for chunk in bytes.chunks(CHUNK_BYTES) {
        hash.update(Sha256::digest(chunk));
    }
    Digest(hash.finalize().into())
}

/// The digest of an f32 tensor.
pub fn f32s(shape: &[usize], values: &[f32]) -> Digest {
    assert_eq!(
        shape.iter().product::<usize>(),
        values.len(),
        "shape {shape:?} does not hold the values"
    );
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    tensor_bytes(DType::F32.name(), shape, &bytes)
}

/// The digest of a bf16 tensor given its bit patterns.
pub fn bf16s(shape: &[usize], values: &[u16]) -> Digest {
    assert_eq!(
        shape.iter().product::<usize>(),
        values.len(),
        "shape {shape:?} does not hold the values"
    );
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    tensor_bytes(DType::BF16.name(), shape, &bytes)
}

/// A digest over other digests under an ASCII header line (without its newline), such as `state 17`.
pub fn combine(header: &str, parts: &[Digest]) -> Digest {
    let mut hash = Sha256::new();
    hash.update(header);
    hash.update("\n");
    parts.iter().for_each(|part| hash.update(part.0));
    Digest(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_and_chunks_enter() {
        let empty = f32s(&[0], &[]);
        assert_eq!(empty, Digest(Sha256::digest(b"f32[0]\n").into()));
        let one = f32s(&[1], &[1.0]);
        let mut want = Sha256::new();
        want.update(b"f32[1]\n");
        want.update(Sha256::digest([0, 0, 0x80, 0x3F]));
        assert_eq!(one, Digest(want.finalize().into()));
        let big = vec![0.5_f32; CHUNK_BYTES / 4 + 1];
        assert_ne!(
            f32s(&[big.len()], &big),
            f32s(&[1, big.len()], &big),
            "the shape is part of the digest"
        );
    }
}
