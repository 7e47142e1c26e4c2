//! The meaning of sort: a stable sort of indices by a comparison.

use std::cmp::Ordering;

use jetblock_numerics::canonical;

use super::Sort;
use crate::OpError;

impl Sort<'_> {
    /// The definition.
    pub fn reference(&self, values: &mut [f32], indices: &mut [i64]) -> Result<(), OpError> {
        self.check(values, indices)?;
        let out = values.chunks_mut(self.k).zip(indices.chunks_mut(self.k));
        for (x, (values, indices)) in self.x.chunks(self.row_len).zip(out) {
            let mut order: Vec<usize> = (0..x.len()).collect();
            order.sort_by(|&i, &j| match self.descending {
                true => compare(x[j], x[i]),
                false => compare(x[i], x[j]),
            });
            for (rank, &i) in order[..self.k].iter().enumerate() {
                values[rank] = canonical(x[i]);
                indices[rank] = i as i64;
            }
        }
        Ok(())
    }
}

fn compare(a: f32, b: f32) -> Ordering {
    let by_nan = a.is_nan().cmp(&b.is_nan());
    a.partial_cmp(&b).unwrap_or(by_nan)
}
