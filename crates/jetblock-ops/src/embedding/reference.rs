//! Embeddings element by element.

use jetblock_numerics::{canonical, round};
use jetblock_tensor::DType;

use super::{Embedding, Table};
use crate::OpError;

impl Embedding<'_> {
    /// The meaning: plain loops.
    pub fn reference(&self, out: &mut [f32]) -> Result<(), OpError> {
        self.check(out)?;
        let width = self.table.hidden_size();
        for (&id, out) in self.ids.iter().zip(out.chunks_exact_mut(width)) {
            match self.table {
                Table::Packed(matrix) => matrix.row_into(id as usize, out)?,
                Table::Rows { rows, .. } => {
                    for d in 0..width {
                        let at = (id as usize * width + d) * rows.dtype.size();
                        let byte = |i: usize| rows.bytes[at + i];
                        let half = u16::from_le_bytes([byte(0), byte(1)]);
                        out[d] = match rows.dtype {
                            DType::F32 => {
                                canonical(f32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)]))
                            }
                            DType::BF16 => round::bf16_to_f32(half),
                            DType::F16 => round::f16_to_f32(half),
                        };
                    }
                }
            }
        }
        Ok(())
    }
}
