//! The meaning of matmul: one dot product for each output.

use super::{Layout, Matmul};
use crate::OpError;
use crate::linear::reference::dot;

impl Matmul<'_> {
    /// The definition.
    pub fn reference(&self, out: &mut [f32]) -> Result<(), OpError> {
        self.check(out.len())?;
        let Self { m, k, n, .. } = *self;
        let all: Vec<_> = (0..self.batch)
            .map(|batch| {
                let (a, b) = self.operands(batch);
                (a.to_vec(), b.to_vec())
            })
            .collect();
        for (i, y) in out.iter_mut().enumerate() {
            let (batch, row, column) = (i / n / m, i / n % m, i % n);
            let (a, b) = &all[batch];
            let right: Vec<f32> = (0..k)
                .map(|k_i| match self.layout {
                    Layout::Plain => b[k_i * n + column],
                    Layout::Turned => b[column * k + k_i],
                })
                .collect();
            *y = dot(self.kind, &a[row * k..][..k], &right);
        }
        Ok(())
    }
}
