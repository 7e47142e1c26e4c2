//! From scores to weights: a query's scale, bias and mask, its maximum, exponentials and their sum.

use jetblock_numerics::math::exp;
use jetblock_numerics::{Lanes, max};
use jetblock_simd::{Kernel, Simd};

use crate::linear::PANEL;
use crate::row::{self, load_part, store_part};

/// What one query admits of a block.
#[derive(Clone, Copy)]
pub(super) enum Admitted<'a> {
    /// The first so many keys.
    First(usize),
    /// Those that are true.
    Some(&'a [bool]),
    /// Those whose bias is not `-inf`.
    Bias(&'a [f32]),
}

impl Admitted<'_> {
    /// Whether key j of the block is admitted.
    pub(super) fn has(&self, j: usize) -> bool {
        match self {
            Admitted::First(count) => j < *count,
            Admitted::Some(mask) => mask[j],
            Admitted::Bias(bias) => bias[j] != f32::NEG_INFINITY,
        }
    }

    /// How many of the block's keys are.
    pub(super) fn count(&self, keys: usize) -> Count {
        let count = match self {
            Admitted::First(count) => *count,
            _ => (0..keys).filter(|&j| self.has(j)).count(),
        };
        match count {
            0 => Count::None,
            count if count == keys => Count::All,
            _ => Count::Some,
        }
    }
}

/// How many keys of a block a query admits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Count {
    None,
    Some,
    All,
}

/// One query over one block.
pub(super) struct Weigh<'a> {
    /// Dot products: panel i at row `i * stride`.
    pub(super) scores: &'a [[f32; PANEL]],
    pub(super) stride: usize,
    pub(super) scale: f32,
    pub(super) admitted: Admitted<'a>,
    /// The block's keys: weights, +0 where a key is left out.
    pub(super) p: &'a mut [f32],
}

impl Kernel for Weigh<'_> {
    /// The maximum and the sum.
    type Output = (f32, f32);

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> (f32, f32) {
        let (out, scale) = (S::F::splat(f32::NEG_INFINITY), S::F::splat(self.scale));
        let keys = self.p.len();
        let mut at = 0;
        while at < keys {
            let end = keys.min(at + S::LANES);
            let dots = &self.scores[at / PANEL * self.stride];
            let mut s = simd.load(&dots[at % PANEL..]).mul(scale);
            match self.admitted {
                Admitted::First(count) => {
                    if end > count {
                        let mut left_out = [f32::NEG_INFINITY; row::MAX_LANES];
                        if at < count {
                            left_out[..count - at].fill(0.0);
                        }
                        s = S::F::select(simd.load(&left_out).eq(out), out, s);
                    }
                }
                Admitted::Some(mask) => {
                    let mut left_out = [f32::NEG_INFINITY; row::MAX_LANES];
                    for i in at..end {
                        if mask[i] {
                            left_out[i - at] = 0.0;
                        }
                    }
                    s = S::F::select(simd.load(&left_out).eq(out), out, s);
                }
                Admitted::Bias(bias) => {
                    let bias = load_part(simd, &bias[at..end]);
                    s = S::F::select(bias.eq(out), out, s.add(bias));
                }
            }
            store_part(simd, s, &mut self.p[at..end]);
            at = end;
        }
        let m = row::max(simd, self.p);
        let mut at = 0;
        while at < keys {
            let end = keys.min(at + S::LANES);
            let p = exp(load_part(simd, &self.p[at..end]).sub(S::F::splat(m)));
            store_part(simd, p, &mut self.p[at..end]);
            at = end;
        }
        (m, row::sum(simd, self.p))
    }
}

/// Adds a block to what a query has: `o = fma(o, old, o_b * new)`.
pub(super) struct Fold<'a> {
    pub(super) o: &'a mut [f32],
    pub(super) o_b: &'a [f32],
    pub(super) old: f32,
    pub(super) new: f32,
}

impl Kernel for Fold<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (old, new) = (S::F::splat(self.old), S::F::splat(self.new));
        let mut at = 0;
        while at < self.o.len() {
            let end = self.o.len().min(at + S::LANES);
            let (o, o_b) = (
                load_part(simd, &self.o[at..end]),
                load_part(simd, &self.o_b[at..end]),
            );
            store_part(simd, o.fma(old, o_b.mul(new)), &mut self.o[at..end]);
            at = end;
        }
    }
}

/// The state `(m, l)` of a query after a block `(m_b, l_b)`, and the factors of both sides.
pub(super) fn advance(state: &mut (f32, f32), block: (f32, f32)) -> (f32, f32) {
    let largest = max(state.0, block.0);
    let (old, new) = (exp(state.0 - largest), exp(block.0 - largest));
    *state = (largest, jetblock_numerics::fma(state.1, old, block.1 * new));
    (old, new)
}
