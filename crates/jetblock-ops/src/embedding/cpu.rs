//! Embeddings with threads over rows; a row is a copy, which needs no kernel.

use jetblock_numerics::{canonical, round};
use jetblock_simd::Cpu;
use jetblock_tensor::DType;

use super::{Embedding, Table};
use crate::OpError;
use crate::linear::WeightRows;

/// Elements worth a thread's while.
const GRAIN: usize = 1 << 14;

impl Embedding<'_> {
    /// The same bits as [`Embedding::reference`], faster.
    pub fn cpu(&self, out: &mut [f32], cpu: &Cpu) -> Result<(), OpError> {
        self.check(out)?;
        let width = self.table.hidden_size();
        cpu.par_rows(out, width, GRAIN.div_ceil(width), |first, out| {
            for (&id, out) in self.ids[first..].iter().zip(out.chunks_exact_mut(width)) {
                match &self.table {
                    Table::Rows { rows, .. } => widen(rows, id as usize, out),
                    Table::Packed(matrix) => {
                        matrix
                            .row_into(id as usize, out)
                            .expect("ids and shapes were checked");
                    }
                }
            }
        });
        Ok(())
    }
}

/// Row `id` of the table.
fn widen(table: &WeightRows, id: usize, out: &mut [f32]) {
    let row_bytes = out.len() * table.dtype.size();
    let bytes = &table.bytes[id * row_bytes..][..row_bytes];
    match table.dtype {
        DType::F32 => {
            let codes = bytes.as_chunks().0;
            out.iter_mut()
                .zip(codes)
                .for_each(|(y, &c)| *y = canonical(f32::from_le_bytes(c)));
        }
        DType::BF16 => {
            let codes = bytes.as_chunks().0;
            out.iter_mut()
                .zip(codes)
                .for_each(|(y, &c)| *y = round::bf16_to_f32(u16::from_le_bytes(c)));
        }
        DType::F16 => {
            let codes = bytes.as_chunks().0;
            out.iter_mut()
                .zip(codes)
                .for_each(|(y, &c)| *y = round::f16_to_f32(u16::from_le_bytes(c)));
        }
    }
}
