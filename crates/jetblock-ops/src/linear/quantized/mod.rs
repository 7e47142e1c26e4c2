//! Weights stored as small codes: NUMERICS.md section 3, "Quantized weights".
//!
//! Scales are never multiplied into weights. Inside a block of 256 k, each scale block of 16, 32, 64 or 128 consecutive
//! k has a chain of its own over the raw codes, which is scaled as a whole: `acc = fma(s, c, acc)`, and with an offset
//! `acc = fma(o, x1, acc)`, where `x1` is the same chain with every code 1. Then `tot = tot + acc`, as for plain weights.
//! The end is `y = tot * factor`, then bias and epilogue as always; a format without block scales is the plain dot
//! product over its codes.
//!
//! | stored | [`Codes`] | block | scale | offset | bits per weight |
//! |---|---|---|---|---|---|
//! | NVFP4 | [`Codes::E2m1`] | 16 | E4M3 | | 4.5 |
//! | FP8 per tensor | [`Codes::E4m3`] | | | | 8 |
//! | GGUF Q4_0 | [`Codes::U4Less8`] | 32 | f16 | | 4.5 |
//! | GGUF Q4_1 | [`Codes::U4`] | 32 | f16 | f16 | 5 |
//! | GGUF Q8_0 | [`Codes::I8`] | 32 | f16 | | 8.5 |
//! | GGUF Q4_K | [`Codes::U4`] | 32 | f32 | f32 | 6 |
//! | GGUF Q6_K | [`Codes::I8`] | 16 | f32 | | 10 |

mod pack;
mod panels;

pub(super) mod cpu;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;

use jetblock_numerics::round::{bf16_widen, f16_to_f32};
use jetblock_numerics::{e2m1, e4m3};

use super::OP;
use crate::OpError;

pub(super) use panels::QuantizedPanels;

/// What a code stands for; each value is a bf16 operand exactly. A code is handed over in a byte of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codes {
    /// 4-bit floats 0, 0.5, 1, 1.5, 2, 3, 4, 6; bit 3 is the sign.
    E2m1,
    /// The integers 0 to 15.
    U4,
    /// Codes 0 to 15 for the integers -8 to 7.
    U4Less8,
    /// 8-bit floats E4M3FN.
    E4m3,
    /// Signed bytes.
    I8,
}

impl Codes {
    /// Bits of a code as stored here.
    pub fn bits(self) -> usize {
        match self {
            Codes::E2m1 | Codes::U4 | Codes::U4Less8 => 4,
            Codes::E4m3 | Codes::I8 => 8,
        }
    }

    /// The value of a code, exact.
    pub fn value(self, code: u8) -> f32 {
        match self {
            Codes::E2m1 => e2m1::decode(code),
            Codes::U4 => f32::from(code & 15),
            Codes::U4Less8 => f32::from(code & 15) - 8.0,
            Codes::E4m3 => e4m3::decode(code),
            Codes::I8 => f32::from(code.cast_signed()),
        }
    }

    /// Elements of k in a word of 32 bits.
    fn per_word(self) -> usize {
        32 / self.bits()
    }
}

/// How a block's scale or offset is stored; all are widened to f32 exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScaleType {
    /// Four bytes.
    F32,
    /// Two bytes.
    F16,
    /// One byte.
    E4m3,
}

impl ScaleType {
    /// Bytes of one.
    pub fn size(self) -> usize {
        match self {
            ScaleType::F32 => 4,
            ScaleType::F16 => 2,
            ScaleType::E4m3 => 1,
        }
    }

    /// The value of one, little-endian.
    pub fn value(self, bytes: &[u8]) -> f32 {
        match self {
            ScaleType::F32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            ScaleType::F16 => f16_to_f32(u16::from_le_bytes([bytes[0], bytes[1]])),
            ScaleType::E4m3 => e4m3::decode(bytes[0]),
        }
    }
}

/// Scales of blocks along k.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ScaleBlocks {
    /// Consecutive k under one scale: 16, 32, 64 or 128. K is a multiple of it.
    pub len: usize,
    /// How scales are stored.
    pub scale: ScaleType,
    /// How offsets are stored, where the format has them.
    pub offset: Option<ScaleType>,
}

/// A storage format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Format {
    /// What codes stand for.
    pub codes: Codes,
    /// `None` where only a factor per output exists.
    pub blocks: Option<ScaleBlocks>,
}

impl Format {
    /// E2M1 codes with an E4M3 scale for each 16.
    pub const NVFP4: Format = Format::new(Codes::E2m1, 16, ScaleType::E4m3);
    /// E4M3 codes, one factor for the tensor.
    pub const FP8: Format = Format {
        codes: Codes::E4m3,
        blocks: None,
    };

    /// A format with block scales and without offsets.
    pub const fn new(codes: Codes, len: usize, scale: ScaleType) -> Format {
        let blocks = Some(ScaleBlocks {
            len,
            scale,
            offset: None,
        });
        Format { codes, blocks }
    }

    /// Scale blocks in a row of `k` elements; 0 for a format without them.
    pub fn blocks_in(&self, k: usize) -> usize {
        self.blocks.map_or(0, |blocks| k / blocks.len)
    }

    fn check(&self, k: usize) -> Result<(), OpError> {
        let wrong = |arg, expected: &str, got: usize| OpError::Value {
            op: OP,
            arg,
            expected: expected.into(),
            got: got.to_string(),
        };
        match self.blocks {
            _ if k == 0 => Err(wrong("K", "at least 1", 0)),
            Some(blocks) if ![16, 32, 64, 128].contains(&blocks.len) => {
                Err(wrong("scale block", "16, 32, 64 or 128", blocks.len))
            }
            Some(blocks) if !k.is_multiple_of(blocks.len) => Err(wrong(
                "K",
                &format!("a multiple of the scale block of {}", blocks.len),
                k,
            )),
            _ => Ok(()),
        }
    }
}

/// One output's weights, to be filled in.
#[derive(Debug)]
pub struct QuantizedRow<'a> {
    /// `[K]`: one code a byte.
    pub codes: &'a mut [u8],
    /// `[K / block]` scales, little-endian in the format's [`ScaleType`]; empty without blocks.
    pub scales: &'a mut [u8],
    /// As `scales`, for offsets.
    pub offsets: &'a mut [u8],
}

/// Rows of a quantized matrix, read one at a time.
pub struct QuantizedRows<'a> {
    /// Number of rows.
    pub rows: usize,
    /// The tensor scale, which multiplies every output of these rows; 1 where the format has none.
    pub factor: f32,
    /// Fills in row `index`; called once for each row, ascending.
    pub read: &'a dyn Fn(usize, QuantizedRow<'_>),
}

impl std::fmt::Debug for QuantizedRows<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QuantizedRows")
            .field("rows", &self.rows)
            .field("factor", &self.factor)
            .finish_non_exhaustive()
    }
}

/// The operand with the code's value.
fn operand(codes: Codes, code: u8) -> u16 {
    let value = codes.value(code);
    debug_assert_eq!(bf16_widen((value.to_bits() >> 16) as u16), value);
    (value.to_bits() >> 16) as u16
}
