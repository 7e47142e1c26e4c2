//! Data types and digests shared by every layer above the kernels.
#![forbid(unsafe_code)]

pub mod digest;
mod dtype;

pub use digest::Digest;
pub use dtype::DType;
