//! Reductions over one row at vector speed, and vectors at the ragged end of a slice.
//!
//! The 32 lanes of NUMERICS.md section 4 are held in `32 / LANES` vectors, so every level adds the same pairs.

use jetblock_numerics::lanes::Lanes;
use jetblock_numerics::reduce::{self, ROW_BLOCK, ROW_LANES};
use jetblock_numerics::round;
use jetblock_simd::Simd;

/// At least as many elements as any level has lanes.
pub(crate) const MAX_LANES: usize = 32;

/// Loads up to `LANES` values; absent ones are `+0`.
#[inline(always)]
pub(crate) fn load_part<S: Simd>(simd: S, src: &[f32]) -> S::F {
    if src.len() >= S::LANES {
        return simd.load(src);
    }
    let mut padded = [0.0_f32; MAX_LANES];
    padded[..src.len()].copy_from_slice(src);
    simd.load(&padded)
}

/// Stores as many lanes as `dst` has elements (at most `LANES`).
#[inline(always)]
pub(crate) fn store_part<S: Simd>(simd: S, v: S::F, dst: &mut [f32]) {
    if dst.len() >= S::LANES {
        return simd.store(v, dst);
    }
    let mut padded = [0.0_f32; MAX_LANES];
    simd.store(v, &mut padded);
    dst.copy_from_slice(&padded[..dst.len()]);
}

/// What a row reduction adds of each element.
trait Term: Copy {
    /// What is taken of an element before it meets an accumulator.
    fn of<V: Lanes>(self, x: V) -> V;
    /// The accumulator with it.
    fn add<V: Lanes>(acc: V, x: V) -> V;
}

#[derive(Clone, Copy)]
struct Value;
impl Term for Value {
    #[inline(always)]
    fn of<V: Lanes>(self, x: V) -> V {
        x
    }
    #[inline(always)]
    fn add<V: Lanes>(acc: V, x: V) -> V {
        acc.add(x)
    }
}

#[derive(Clone, Copy)]
struct Square;
impl Term for Square {
    #[inline(always)]
    fn of<V: Lanes>(self, x: V) -> V {
        x
    }
    #[inline(always)]
    fn add<V: Lanes>(acc: V, x: V) -> V {
        x.fma(x, acc)
    }
}

/// The square of the distance to a mean.
#[derive(Clone, Copy)]
struct Deviation(f32);
impl Term for Deviation {
    #[inline(always)]
    fn of<V: Lanes>(self, x: V) -> V {
        x.sub(V::splat(self.0))
    }
    #[inline(always)]
    fn add<V: Lanes>(acc: V, x: V) -> V {
        x.fma(x, acc)
    }
}

/// [`reduce::sum`].
#[inline(always)]
pub(crate) fn sum<S: Simd>(simd: S, x: &[f32]) -> f32 {
    reduce_row(simd, x, Value)
}

/// [`reduce::sum_of_squares`].
#[inline(always)]
pub(crate) fn sum_of_squares<S: Simd>(simd: S, x: &[f32]) -> f32 {
    reduce_row(simd, x, Square)
}

/// [`reduce::sum_of_squares`] of `x - mean`.
#[inline(always)]
pub(crate) fn sum_of_deviations<S: Simd>(simd: S, x: &[f32], mean: f32) -> f32 {
    reduce_row(simd, x, Deviation(mean))
}

/// Mean of a row, and one over the square root of its variance plus eps (NUMERICS.md section 13.2).
#[inline(always)]
pub(crate) fn moments<S: Simd>(simd: S, x: &[f32], eps: f32) -> (f32, f32) {
    let count = x.len() as f32;
    let mean = sum(simd, x) / count;
    let variance = sum_of_deviations(simd, x, mean) / count;
    (mean, 1.0 / (variance + eps).sqrt())
}

#[inline(always)]
fn reduce_row<S: Simd, T: Term>(simd: S, x: &[f32], term: T) -> f32 {
    if x.len() <= ROW_BLOCK {
        return round::canonical(block(simd, x, term));
    }
    // Hidden sizes need no more than these few results; only vocabularies are longer.
    let blocks = x.len().div_ceil(ROW_BLOCK);
    let (mut few, mut many) = ([0.0_f32; ROW_LANES], Vec::new());
    let results = if blocks <= ROW_LANES {
        &mut few[..blocks]
    } else {
        many.resize(blocks, 0.0_f32);
        &mut many[..]
    };
    for (result, x) in results.iter_mut().zip(x.chunks(ROW_BLOCK)) {
        *result = block(simd, x, term);
    }
    reduce::sum(results)
}

/// One block of at most 1024 elements.
#[inline(always)]
fn block<S: Simd, T: Term>(simd: S, x: &[f32], term: T) -> f32 {
    let vectors = ROW_LANES / S::LANES;
    let mut acc = [S::F::splat(0.0); ROW_LANES];
    let (groups, tail) = x.as_chunks::<ROW_LANES>();
    for group in groups {
        for v in 0..vectors {
            let x = simd.load(&group[v * S::LANES..]);
            acc[v] = T::add(acc[v], term.of(x));
        }
    }
    if !tail.is_empty() {
        // An absent element may be added as +0: an accumulator that started at +0 is never -0.
        let mut padded = [0.0_f32; ROW_LANES];
        for (padded, &x) in padded.iter_mut().zip(tail) {
            *padded = term.of(x);
        }
        for v in 0..vectors {
            acc[v] = T::add(acc[v], simd.load(&padded[v * S::LANES..]));
        }
    }
    let mut lanes = [0.0_f32; ROW_LANES];
    for v in 0..vectors {
        simd.store(acc[v], &mut lanes[v * S::LANES..]);
    }
    fold_halves::<16>(&mut lanes);
    fold_halves::<8>(&mut lanes);
    fold_halves::<4>(&mut lanes);
    fold_halves::<2>(&mut lanes);
    fold_halves::<1>(&mut lanes);
    lanes[0]
}

#[inline(always)]
fn fold_halves<const HALF: usize>(lanes: &mut [f32; ROW_LANES]) {
    for j in 0..HALF {
        lanes[j] += lanes[j + HALF];
    }
}

/// [`reduce::max`].
#[inline(always)]
pub(crate) fn max<S: Simd>(simd: S, x: &[f32]) -> f32 {
    extreme::<S, true>(simd, x)
}

/// The mirror image of [`reduce::max`]: NaN if there is one, -0 below +0, infinity of nothing.
#[inline(always)]
pub(crate) fn min<S: Simd>(simd: S, x: &[f32]) -> f32 {
    extreme::<S, false>(simd, x)
}

#[inline(always)]
fn extreme<S: Simd, const LARGEST: bool>(simd: S, x: &[f32]) -> f32 {
    let start = if LARGEST {
        f32::NEG_INFINITY
    } else {
        f32::INFINITY
    };
    let mut acc = [S::F::splat(start); 4];
    let mut quads = x.chunks_exact(4 * S::LANES);
    for quad in &mut quads {
        for v in 0..4 {
            acc[v] = better::<S::F, LARGEST>(acc[v], simd.load(&quad[v * S::LANES..]));
        }
    }
    let mut lanes = [0.0_f32; MAX_LANES];
    let (low, high) = (
        better::<S::F, LARGEST>(acc[0], acc[1]),
        better::<S::F, LARGEST>(acc[2], acc[3]),
    );
    simd.store(better::<S::F, LARGEST>(low, high), &mut lanes);
    let ends = lanes[..S::LANES].iter().chain(quads.remainder());
    ends.fold(start, |m, &x| better::<f32, LARGEST>(m, x))
}

#[inline(always)]
fn better<V: Lanes, const LARGEST: bool>(a: V, b: V) -> V {
    if LARGEST {
        round::max(a, b)
    } else {
        round::min(a, b)
    }
}

#[cfg(test)]
mod tests {
    use jetblock_simd::{Kernel, Simd};
    use jetblock_testing::{
        AWKWARD_LENGTHS, assert_bits_differ, assert_bits_equal, cpus, painted_special, painted_wide,
    };

    use super::*;

    const MEAN: f32 = 0.75;

    /// Sum, sum of squares, sum of deviations, maximum and minimum of a row.
    struct All<'a>(&'a [f32]);

    impl Kernel for All<'_> {
        type Output = [f32; 5];
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> [f32; 5] {
            [
                sum(simd, self.0),
                sum_of_squares(simd, self.0),
                sum_of_deviations(simd, self.0, MEAN),
                max(simd, self.0),
                min(simd, self.0),
            ]
        }
    }

    fn reference(x: &[f32]) -> [f32; 5] {
        let deviations: Vec<f32> = x.iter().map(|x| x - MEAN).collect();
        [
            reduce::sum(x),
            reduce::sum_of_squares(x),
            reduce::sum_of_squares(&deviations),
            reduce::max(x),
            x.iter().fold(f32::INFINITY, |m, &x| round::min(m, x)),
        ]
    }

    #[test]
    fn every_level_equals_the_definition() {
        for len in AWKWARD_LENGTHS
            .into_iter()
            .chain([0, 32 * 1024 + 1, 70_001])
        {
            for x in [
                painted_wide(7, len),
                painted_special(8, len, 64),
                painted_special(9, len, 4),
                vec![-0.0; len],
            ] {
                for cpu in cpus().iter().filter(|cpu| cpu.threads() == 1) {
                    assert_bits_equal(
                        format!("length {len}, {}", cpu.level()),
                        &cpu.run(All(&x)),
                        &reference(&x),
                    );
                }
            }
        }
    }

    #[test]
    fn the_order_of_additions_is_felt() {
        let x = painted_wide(7, 1025);
        let ascending = x.iter().fold(0.0, |acc, x| acc + x);
        assert_bits_differ("ascending sum", &[ascending], &[reduce::sum(&x)]);
    }
}
