//! sort over words that hold the order of a value and, below it, its index: no two are equal, so any sort is stable.

use jetblock_numerics::canonical;
use jetblock_simd::Cpu;

use super::Sort;
use crate::OpError;

/// Elements that are worth a thread's while.
const GRAIN: usize = 4 * 1024;

impl Sort<'_> {
    /// The same as [`Sort::reference`], faster.
    pub fn cpu(&self, values: &mut [f32], indices: &mut [i64], cpu: &Cpu) -> Result<(), OpError> {
        self.check(values, indices)?;
        let Self { x, row_len, k, .. } = *self;
        cpu.par_rows(indices, k, GRAIN.div_ceil(row_len), |first, indices| {
            let mut words = Vec::with_capacity(row_len);
            let rows = x[first * row_len..].chunks(row_len);
            for (x, indices) in rows.zip(indices.chunks_mut(k)) {
                words.clear();
                words.extend(x.iter().enumerate().map(|(i, &x)| self.word(x, i)));
                if k < row_len {
                    words.select_nth_unstable(k - 1);
                }
                words[..k].sort_unstable();
                for (index, word) in indices.iter_mut().zip(&words) {
                    *index = i64::from(*word as u32);
                }
            }
        });
        for (row, (values, indices)) in values.chunks_mut(k).zip(indices.chunks(k)).enumerate() {
            for (value, &index) in values.iter_mut().zip(indices) {
                *value = canonical(x[row * row_len + index as usize]);
            }
        }
        Ok(())
    }

    fn word(&self, x: f32, index: usize) -> u64 {
        let bits = x.to_bits();
        let rank = if x.is_nan() {
            u32::MAX
        } else if x == 0.0 {
            1 << 31
        } else if bits >> 31 == 0 {
            bits | 1 << 31
        } else {
            !bits
        };
        let rank = if self.descending { !rank } else { rank };
        u64::from(rank) << 32 | index as u64
    }
}
