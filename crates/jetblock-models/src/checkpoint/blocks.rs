//! GGUF's block formats: integer codes with a scale, and maybe an offset, for each few elements.
//!
//! | name | elements | bytes | layout | element |
//! |---|---|---|---|---|
//! | Q4_0 | 32  | 18  | d f16, nibbles [16] | d * (q - 8) |
//! | Q4_1 | 32  | 20  | d f16, m f16, nibbles [16] | d * q + m |
//! | Q8_0 | 32  | 34  | d f16, q i8 [32] | d * q |
//! | Q4_K | 256 | 144 | d f16, dmin f16, sc and mn of 6 bits [8], nibbles [128] | (d * sc) * q - dmin * mn |
//! | Q6_K | 256 | 210 | low nibbles [128], high pairs [64], sc i8 [16], d f16 | (d * sc) * (q - 32) |
//!
//! As in ggml's `ggml-quants.c`. NUMERICS.md section 3.2 has the bits. The codes are used as they are: scales multiply sums.

use jetblock_numerics::round::f16_to_f32;
use jetblock_ops::linear::quantized::{Codes, Format, QuantizedRow, ScaleBlocks, ScaleType};

/// A block format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(
    non_camel_case_types,
    missing_docs,
    reason = "the names are those of the file format"
)]
pub enum BlockType {
    Q4_0,
    Q4_1,
    Q8_0,
    Q4_K,
    Q6_K,
}

impl BlockType {
    /// All of them.
    pub const ALL: [BlockType; 5] = [
        BlockType::Q4_0,
        BlockType::Q4_1,
        BlockType::Q8_0,
        BlockType::Q4_K,
        BlockType::Q6_K,
    ];

    /// The number in the file.
    pub fn ggml_id(self) -> u32 {
        match self {
            BlockType::Q4_0 => 2,
            BlockType::Q4_1 => 3,
            BlockType::Q8_0 => 8,
            BlockType::Q4_K => 12,
            BlockType::Q6_K => 14,
        }
    }

    /// The name in ggml.
    pub fn name(self) -> &'static str {
        match self {
            BlockType::Q4_0 => "Q4_0",
            BlockType::Q4_1 => "Q4_1",
            BlockType::Q8_0 => "Q8_0",
            BlockType::Q4_K => "Q4_K",
            BlockType::Q6_K => "Q6_K",
        }
    }

    /// Elements of a block.
    pub fn elements(self) -> usize {
        match self {
            BlockType::Q4_0 | BlockType::Q4_1 | BlockType::Q8_0 => 32,
            BlockType::Q4_K | BlockType::Q6_K => 256,
        }
    }

    /// Bytes of a block.
    pub fn bytes(self) -> usize {
        match self {
            BlockType::Q4_0 => 18,
            BlockType::Q4_1 => 20,
            BlockType::Q8_0 => 34,
            BlockType::Q4_K => 144,
            BlockType::Q6_K => 210,
        }
    }

    /// How the kernels take it.
    pub fn format(self) -> Format {
        let blocks = |codes, len, scale, offset| Format {
            codes,
            blocks: Some(ScaleBlocks { len, scale, offset }),
        };
        let (f16, f32) = (ScaleType::F16, ScaleType::F32);
        match self {
            BlockType::Q4_0 => blocks(Codes::U4Less8, 32, f16, None),
            BlockType::Q4_1 => blocks(Codes::U4, 32, f16, Some(f16)),
            BlockType::Q8_0 => blocks(Codes::I8, 32, f16, None),
            BlockType::Q4_K => blocks(Codes::U4, 32, f32, Some(f32)),
            BlockType::Q6_K => blocks(Codes::I8, 16, f32, None),
        }
    }

    /// Spreads the blocks of one row.
    ///
    /// # Panics
    /// If `row` does not have the lengths of [`BlockType::format`] for these bytes.
    pub fn spread(self, bytes: &[u8], row: QuantizedRow<'_>) {
        let QuantizedRow {
            codes,
            scales,
            offsets,
        } = row;
        let blocks = bytes.chunks_exact(self.bytes());
        for (i, block) in blocks.enumerate() {
            let codes = &mut codes[i * self.elements()..][..self.elements()];
            match self {
                BlockType::Q4_0 => {
                    scales[2 * i..][..2].copy_from_slice(&block[..2]);
                    nibbles(&block[2..], codes);
                }
                BlockType::Q4_1 => {
                    scales[2 * i..][..2].copy_from_slice(&block[..2]);
                    offsets[2 * i..][..2].copy_from_slice(&block[2..4]);
                    nibbles(&block[4..], codes);
                }
                BlockType::Q8_0 => {
                    scales[2 * i..][..2].copy_from_slice(&block[..2]);
                    codes.copy_from_slice(&block[2..]);
                }
                BlockType::Q4_K => {
                    let (scales, offsets) = (&mut scales[32 * i..], &mut offsets[32 * i..]);
                    q4_k(block, codes, scales, offsets);
                }
                BlockType::Q6_K => q6_k(block, codes, &mut scales[64 * i..]),
            }
        }
    }
}

fn half(bytes: &[u8]) -> f32 {
    f16_to_f32(u16::from_le_bytes([bytes[0], bytes[1]]))
}

/// The low nibbles of all bytes, then the high ones.
fn nibbles(bytes: &[u8], codes: &mut [u8]) {
    let (low, high) = codes.split_at_mut(bytes.len());
    for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
        *low = byte & 15;
        *high = byte >> 4;
    }
}

fn q4_k(block: &[u8], codes: &mut [u8], scales: &mut [u8], offsets: &mut [u8]) {
    let (d, dmin, packed) = (half(block), half(&block[2..]), &block[4..16]);
    for j in 0..8 {
        let (sc, mn) = if j < 4 {
            (packed[j] & 63, packed[j + 4] & 63)
        } else {
            (
                (packed[j + 4] & 15) | (packed[j - 4] >> 6 << 4),
                (packed[j + 4] >> 4) | (packed[j] >> 6 << 4),
            )
        };
        scales[4 * j..][..4].copy_from_slice(&(d * f32::from(sc)).to_le_bytes());
        offsets[4 * j..][..4].copy_from_slice(&(-(dmin * f32::from(mn))).to_le_bytes());
    }
    for (bytes, codes) in block[16..].chunks_exact(32).zip(codes.chunks_exact_mut(64)) {
        nibbles(bytes, codes);
    }
}

fn q6_k(block: &[u8], codes: &mut [u8], scales: &mut [u8]) {
    let (low, high, sc, d) = (
        &block[..128],
        &block[128..192],
        &block[192..208],
        half(&block[208..]),
    );
    for (j, sc) in sc.iter().enumerate() {
        let scale = d * f32::from(sc.cast_signed());
        scales[4 * j..][..4].copy_from_slice(&scale.to_le_bytes());
    }
    for (i, code) in codes.iter_mut().enumerate() {
        // Two halves of 128 elements, each four groups of 32.
        let (part, group, l) = (i / 128, i % 128 / 32, i % 32);
        let byte = low[64 * part + 32 * (group % 2) + l];
        let nibble = (byte >> (4 * (group / 2))) & 15;
        let pair = (high[32 * part + l] >> (2 * group)) & 3;
        *code = (nibble | (pair << 4)).wrapping_sub(32);
    }
}
