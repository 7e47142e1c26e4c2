//! The attention with lanes over the columns of the state, which do not meet, and threads over sequences, heads and columns.
//!
//! A token writes and reads in one pass. The sums z go along the tokens by themselves, before.

use jetblock_numerics::math::exp;
use jetblock_numerics::{Lanes, canonical};
use jetblock_simd::{Cpu, Kernel, Simd, TileMut, fp_env, steps, tiles};

use super::{EPS, LinearAttention};
use crate::OpError;
use crate::columns_of_state::{Group, Recurrence, StateShape, load_group, strips, write_and_read};
use crate::row::{self, load_part, store_part};

/// Elements of q and k that are worth a thread's while.
const GRAIN: usize = 16 * 1024;

impl LinearAttention<'_> {
    /// The same bits as [`LinearAttention::reference`], faster.
    pub fn cpu(
        &self,
        states: &mut [&mut [f32]],
        out: &mut [f32],
        cpu: &Cpu,
    ) -> Result<(), OpError> {
        self.check_all(states, out)?;
        let _guard = fp_env::Guard::new();
        let (heads, keys, values) = (self.heads, self.key_dim(), self.value_dim());

        let width = 2 * self.q.width();
        let mut features = vec![0.0; self.rows() * width];
        cpu.par_rows(
            &mut features,
            width,
            GRAIN.div_ceil(width),
            |first, rows| {
                cpu.run(Features {
                    op: self,
                    first,
                    rows,
                });
            },
        );

        let rows: Vec<_> = self.segments.iter().map(|s| s.rows.clone()).collect();
        let by_head = steps(heads * keys, keys);
        let mut divisors = vec![0.0; self.rows() * heads];
        let mut places = tiles(&mut divisors, heads, &rows, &steps(heads, 1)).into_iter();
        let mut sums = Vec::with_capacity(places.len());
        for (rows, state) in rows.iter().zip(states.iter_mut()) {
            let last = values..values + 1;
            let columns = tiles(state, values + 1, &by_head, std::slice::from_ref(&last));
            for (head, z) in columns.into_iter().enumerate() {
                sums.push(Sums {
                    op: self,
                    features: &features,
                    first: rows.start,
                    head,
                    z,
                    divisors: places.next().expect("there is one for each state"),
                });
            }
        }
        cpu.par_items(sums, |sums| cpu.run(sums));

        let attention = Weighted {
            op: self,
            features: &features,
            divisors: &divisors,
        };
        let shape = StateShape {
            heads,
            keys,
            values,
            row_len: values + 1,
        };
        let strips = strips(&attention, shape, &rows, states, out);
        cpu.par_items(strips, |strip| cpu.run(strip));
        Ok(())
    }
}

/// Rows of `[f(k) [H, K] | f(q) [H, K]]`.
struct Features<'a> {
    op: &'a LinearAttention<'a>,
    first: usize,
    rows: &'a mut [f32],
}

impl Kernel for Features<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let width = self.op.q.width();
        for (i, row) in self.rows.chunks_exact_mut(2 * width).enumerate() {
            let r = self.first + i;
            let (k, q) = row.split_at_mut(width);
            features(simd, self.op.k.row(r), k);
            features(simd, self.op.q.row(r), q);
        }
    }
}

#[inline(always)]
fn features<S: Simd>(simd: S, x: &[f32], out: &mut [f32]) {
    let zero = S::F::splat(0.0);
    for (x, out) in x.chunks(S::LANES).zip(out.chunks_mut(S::LANES)) {
        let x = load_part(simd, x);
        let above = zero.lt(x);
        store_part(
            simd,
            S::F::select(above, x.add(S::F::splat(1.0)), exp(x)),
            out,
        );
    }
}

/// The sums z of one head of one sequence, and what each token's output is divided by.
struct Sums<'a> {
    op: &'a LinearAttention<'a>,
    features: &'a [f32],
    /// The sequence's first row.
    first: usize,
    head: usize,
    /// `[K, 1]`.
    z: TileMut<'a, f32>,
    /// `[T, 1]`.
    divisors: TileMut<'a, f32>,
}

impl Kernel for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let keys = self.op.key_dim();
        let mut z = vec![0.0; keys];
        for (i, z) in z.iter_mut().enumerate() {
            *z = self.z.row_mut(i)[0];
        }
        let mut weights = vec![0.0; keys];
        for t in 0..self.divisors.rows() {
            let (k, q) = token(self.op, self.features, self.first + t, self.head);
            let vectors = k.chunks(S::LANES).zip(q.chunks(S::LANES));
            let places = z.chunks_mut(S::LANES).zip(weights.chunks_mut(S::LANES));
            for ((k, q), (z, weights)) in vectors.zip(places) {
                let sum = load_part(simd, z).add(load_part(simd, k));
                store_part(simd, load_part(simd, q).mul(sum), weights);
                store_part(simd, sum, z);
            }
            self.divisors.row_mut(t)[0] = row::sum(simd, &weights) + EPS;
        }
        if self.divisors.rows() > 0 {
            for (i, &z) in z.iter().enumerate() {
                self.z.row_mut(i)[0] = canonical(z);
            }
        }
    }
}

/// `f(k)` and `f(q)` of one head of a row.
#[inline(always)]
fn token<'a>(
    op: &LinearAttention<'_>,
    features: &'a [f32],
    r: usize,
    head: usize,
) -> (&'a [f32], &'a [f32]) {
    let (width, keys) = (op.q.width(), op.key_dim());
    let row = &features[r * 2 * width..][..2 * width];
    (
        &row[head * keys..][..keys],
        &row[width + head * keys..][..keys],
    )
}

/// The recurrence, with what was prepared for it.
struct Weighted<'a> {
    op: &'a LinearAttention<'a>,
    features: &'a [f32],
    divisors: &'a [f32],
}

impl Recurrence for Weighted<'_> {
    #[inline(always)]
    fn pass_tokens<S: Simd>(&self, simd: S, group: Group<'_>, out: &mut TileMut<'_, f32>) {
        for t in 0..out.rows() {
            let r = group.first + t;
            let (k, q) = token(self.op, self.features, r, group.head);
            let v = load_group(simd, &self.op.v.row(r)[group.values.clone()]);
            let total = write_and_read(simd, group.state, group.stride, k, q, v);
            let divisor = S::F::splat(self.divisors[r * self.op.heads + group.head]);
            let out = out.row_mut(t)[group.outputs.clone()].chunks_mut(S::LANES);
            for (total, out) in total.iter().zip(out) {
                store_part(simd, canonical(total.div(divisor)), out);
            }
        }
    }
}
