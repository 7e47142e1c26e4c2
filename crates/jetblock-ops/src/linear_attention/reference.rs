//! The meaning of the attention, in plain loops.

use jetblock_numerics::math::exp;
use jetblock_numerics::{canonical, fma, reduce};

use super::{EPS, LinearAttention};
use crate::OpError;

impl LinearAttention<'_> {
    /// The definition; brings each state forward past its segment's rows.
    pub fn reference(&self, states: &mut [&mut [f32]], out: &mut [f32]) -> Result<(), OpError> {
        self.check_all(states, out)?;
        let (keys, values) = (self.key_dim(), self.value_dim());
        let size = keys * (values + 1);
        for (segment, state) in self.segments.iter().zip(states) {
            for r in segment.rows.clone() {
                for (h, state) in state.chunks_mut(size).enumerate() {
                    let k = features(&self.k.row(r)[h * keys..][..keys]);
                    let q = features(&self.q.row(r)[h * keys..][..keys]);
                    write(state, &k, &self.v.row(r)[h * values..][..values]);
                    read(
                        state,
                        &q,
                        &mut out[(r * self.heads + h) * values..][..values],
                    );
                }
            }
        }
        Ok(())
    }
}

fn features(x: &[f32]) -> Vec<f32> {
    let feature = |&x: &f32| if x > 0.0 { x + 1.0 } else { exp(x) };
    x.iter().map(feature).collect()
}

fn write(state: &mut [f32], k: &[f32], v: &[f32]) {
    for (row, &k) in state.chunks_mut(v.len() + 1).zip(k) {
        let (z, row) = row.split_last_mut().expect("V + 1 columns");
        for (s, &v) in row.iter_mut().zip(v) {
            *s = canonical(fma(k, v, *s));
        }
        *z = canonical(*z + k);
    }
}

fn read(state: &[f32], q: &[f32], y: &mut [f32]) {
    let width = y.len() + 1;
    let column = |j: usize| -> Vec<f32> { state.iter().skip(j).step_by(width).copied().collect() };
    let z = column(y.len());
    let weights: Vec<f32> = q.iter().zip(&z).map(|(q, z)| q * z).collect();
    let divisor = reduce::sum(&weights) + EPS;
    for (j, y) in y.iter_mut().enumerate() {
        *y = canonical(reduce::dot_f32(q, &column(j)) / divisor);
    }
}
