//! NVFP4: blocks of 16 E2M1 elements with one E4M3 scale, under one f32 scale of the tensor (NUMERICS.md section 2).
//!
//! An element is `e2m1 * block scale * tensor scale`. The first product is exact in f32 and in bf16 (six significant
//! bits, 2^-10 to 2688), so operators compute with it and apply the tensor scale once, at the end of a sum.

use crate::{e2m1, e4m3, max, min};

/// Elements of a block.
pub const BLOCK: usize = 16;

/// A block as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// E4M3 code of the block scale.
    pub scale: u8,
    /// E2M1 codes, element 2i in the low half of byte i.
    pub codes: [u8; BLOCK / 2],
}

impl Block {
    /// The elements without the tensor scale, exact; all NaN where the block's scale is.
    pub fn decode(&self) -> [f32; BLOCK] {
        let scale = e4m3::decode(self.scale);
        let mut out = [0.0; BLOCK];
        for (i, out) in out.iter_mut().enumerate() {
            let code = self.codes[i / 2] >> (4 * (i % 2));
            *out = crate::canonical(e2m1::decode(code) * scale);
        }
        out
    }
}

/// The tensor scale of weights whose largest magnitude is `amax`: `amax / 2688`, or 1 where that is 0.
pub fn weight_scale(amax: f32) -> f32 {
    let scale = amax / (e2m1::MAX * e4m3::MAX);
    if scale == 0.0 { 1.0 } else { scale }
}

/// A block of weights, by ModelOpt's rule. A NaN makes the whole block NaN; an infinity becomes the largest value.
pub fn encode_weights(w: &[f32; BLOCK], tensor_scale: f32) -> Block {
    let scale = block_scale(amax(w) / (e2m1::MAX * tensor_scale));
    pack(w, scale, e4m3::decode(scale) * tensor_scale)
}

/// A block of a key or value row, already divided by the tensor scale. NaN and infinity as in [`encode_weights`].
pub fn encode_kv(x: &[f32; BLOCK]) -> Block {
    let scale = block_scale(amax(x) / e2m1::MAX);
    pack(x, scale, e4m3::decode(scale))
}

/// The largest magnitude; NaN if an element is.
pub fn amax(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |most, x| max(most, x.abs()))
}

/// The code of a block scale: 1 for a block of zeros, else limited to the positive codes.
fn block_scale(exact: f32) -> u8 {
    let scale = if exact == 0.0 { 1.0 } else { exact };
    // 2^-9 is the least positive code: a scale of zero would divide.
    e4m3::encode(min(max(scale, f32::from_bits(0x3B00_0000)), e4m3::MAX))
}

fn pack(x: &[f32; BLOCK], scale: u8, divisor: f32) -> Block {
    let mut codes = [0; BLOCK / 2];
    for (i, code) in codes.iter_mut().enumerate() {
        let [even, odd] = [x[2 * i], x[2 * i + 1]].map(|x| e2m1::encode(x / divisor));
        *code = odd << 4 | even;
    }
    Block { scale, codes }
}
