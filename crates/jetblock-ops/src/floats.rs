//! Values as they are stored: f32, or two bytes that are widened where an operator reads them and rounded where it writes,
//! so that no copy of a whole array in f32 ever exists.

use std::ops::Range;

use jetblock_numerics::{Lanes, canonical, round};
use jetblock_simd::{Kernel, Level, Simd, TileMut, tiles};

use crate::row::{MAX_LANES, store_part};

#[cfg(test)]
pub(crate) use tests::Codes;

/// Values to read. Widening is exact; a NaN becomes canonical.
#[derive(Clone, Copy, Debug)]
pub enum Floats<'a> {
    /// f32.
    F32(&'a [f32]),
    /// Codes of bf16.
    Bf16(&'a [u16]),
    /// Codes of f16.
    F16(&'a [u16]),
}

/// Values to write. Rounding is to nearest, ties to even.
#[derive(Debug)]
pub enum FloatsMut<'a> {
    /// f32.
    F32(&'a mut [f32]),
    /// Codes of bf16.
    Bf16(&'a mut [u16]),
    /// Codes of f16.
    F16(&'a mut [u16]),
}

impl<'a> Floats<'a> {
    /// Number of values.
    pub fn len(self) -> usize {
        match self {
            Floats::F32(values) => values.len(),
            Floats::Bf16(words) | Floats::F16(words) => words.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Some of the values.
    #[inline]
    #[must_use]
    pub fn slice(self, range: Range<usize>) -> Floats<'a> {
        match self {
            Floats::F32(values) => Floats::F32(&values[range]),
            Floats::Bf16(words) => Floats::Bf16(&words[range]),
            Floats::F16(words) => Floats::F16(&words[range]),
        }
    }

    /// One value.
    #[inline(always)]
    pub(crate) fn get(self, at: usize) -> f32 {
        match self {
            Floats::F32(values) => values[at],
            Floats::Bf16(words) => round::bf16_to_f32(words[at]),
            Floats::F16(words) => round::f16_to_f32(words[at]),
        }
    }

    /// The first `out.len()` values.
    pub fn read(self, level: Level, out: &mut [f32]) {
        match self {
            Floats::F32(values) => out.copy_from_slice(&values[..out.len()]),
            _ => level.run(Read { from: self, out }),
        }
    }

    /// All values in f32: where they lie, or in `own`.
    pub(crate) fn in_f32<'b>(self, level: Level, own: &'b mut Vec<f32>) -> &'b [f32]
    where
        'a: 'b,
    {
        if let Floats::F32(values) = self {
            return values;
        }
        own.resize(self.len(), 0.0);
        self.read(level, own);
        own
    }

    /// Up to `LANES` values from `at` on, of which those before `end` count; the others are +0.
    #[inline(always)]
    pub(crate) fn load_part<S: Simd>(self, simd: S, at: usize, end: usize) -> S::F {
        if end - at < S::LANES {
            let mut lanes = [0.0; MAX_LANES];
            for i in at..end {
                lanes[i - at] = self.get(i);
            }
            return simd.load(&lanes);
        }
        match self {
            Floats::F32(values) => simd.load(&values[at..]),
            Floats::Bf16(words) => simd.load_bf16(&words[at..]),
            Floats::F16(words) => simd.load_f16(&words[at..]),
        }
    }

    /// All values, in f32.
    pub fn to_vec(self) -> Vec<f32> {
        match self {
            Floats::F32(values) => values.to_vec(),
            Floats::Bf16(words) => words.iter().map(|&w| round::bf16_to_f32(w)).collect(),
            Floats::F16(words) => words.iter().map(|&w| round::f16_to_f32(w)).collect(),
        }
    }
}

impl<'a> From<&'a [f32]> for Floats<'a> {
    fn from(values: &'a [f32]) -> Floats<'a> {
        Floats::F32(values)
    }
}

impl<'a> From<&'a Vec<f32>> for Floats<'a> {
    fn from(values: &'a Vec<f32>) -> Floats<'a> {
        Floats::F32(values)
    }
}

impl<'a> FloatsMut<'a> {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            FloatsMut::F32(values) => values.len(),
            FloatsMut::Bf16(words) | FloatsMut::F16(words) => words.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// For a shorter time.
    pub fn reborrow(&mut self) -> FloatsMut<'_> {
        match self {
            FloatsMut::F32(values) => FloatsMut::F32(values),
            FloatsMut::Bf16(words) => FloatsMut::Bf16(words),
            FloatsMut::F16(words) => FloatsMut::F16(words),
        }
    }

    /// Some of the values.
    #[inline]
    #[must_use]
    pub fn slice(self, range: Range<usize>) -> FloatsMut<'a> {
        match self {
            FloatsMut::F32(values) => FloatsMut::F32(&mut values[range]),
            FloatsMut::Bf16(words) => FloatsMut::Bf16(&mut words[range]),
            FloatsMut::F16(words) => FloatsMut::F16(&mut words[range]),
        }
    }

    /// All values in runs of `len`, the last as long as what remains.
    #[must_use]
    pub fn chunks(self, len: usize) -> Vec<FloatsMut<'a>> {
        match self {
            FloatsMut::F32(values) => values.chunks_mut(len).map(FloatsMut::F32).collect(),
            FloatsMut::Bf16(words) => words.chunks_mut(len).map(FloatsMut::Bf16).collect(),
            FloatsMut::F16(words) => words.chunks_mut(len).map(FloatsMut::F16).collect(),
        }
    }

    /// Writes `values` to the first places.
    pub fn write(self, level: Level, values: &[f32]) {
        match self {
            FloatsMut::F32(own) => own[..values.len()].copy_from_slice(values),
            to => level.run(Write { to, values }),
        }
    }

    /// The same value everywhere.
    pub fn fill(self, value: f32) {
        match self {
            FloatsMut::F32(values) => values.fill(value),
            FloatsMut::Bf16(words) => words.fill(round::f32_to_bf16(value)),
            FloatsMut::F16(words) => words.fill(round::f32_to_f16(value)),
        }
    }

    /// Writes one value.
    #[inline(always)]
    pub(crate) fn set(&mut self, at: usize, value: f32) {
        match self {
            FloatsMut::F32(values) => values[at] = value,
            FloatsMut::Bf16(words) => words[at] = round::f32_to_bf16(value),
            FloatsMut::F16(words) => words[at] = round::f32_to_f16(value),
        }
    }

    /// Writes lanes of a vector to `at`, which has at most as many elements.
    #[inline(always)]
    pub(crate) fn store_part<S: Simd>(&mut self, simd: S, v: S::F, at: Range<usize>) {
        if let FloatsMut::F32(values) = self {
            return store_part(simd, v, &mut values[at]);
        }
        if let FloatsMut::Bf16(words) = self
            && at.len() == S::LANES
        {
            let rounded = round::bf16_round(v).to_bits();
            return simd.store_u16(S::F::int_ushr::<16>(rounded), &mut words[at]);
        }
        let mut lanes = [0.0_f32; MAX_LANES];
        simd.store(v, &mut lanes);
        let lanes = &lanes[..at.len()];
        match self {
            FloatsMut::F32(_) => {}
            FloatsMut::Bf16(words) => narrow_bf16(lanes, &mut words[at]),
            FloatsMut::F16(words) => narrow_f16(lanes, &mut words[at]),
        }
    }
}

impl<'a> From<&'a mut [f32]> for FloatsMut<'a> {
    fn from(values: &'a mut [f32]) -> FloatsMut<'a> {
        FloatsMut::F32(values)
    }
}

/// A rectangle of a matrix of values to write.
#[derive(Debug)]
pub(crate) enum FloatsTile<'a> {
    F32(TileMut<'a, f32>),
    Bf16(TileMut<'a, u16>),
    F16(TileMut<'a, u16>),
}

impl<'a> FloatsTile<'a> {
    /// [`tiles`] of values.
    pub(crate) fn cut(
        matrix: FloatsMut<'a>,
        row_len: usize,
        rows: &[Range<usize>],
        cols: &[Range<usize>],
    ) -> Vec<FloatsTile<'a>> {
        fn all<'a, T>(
            tiles: Vec<TileMut<'a, T>>,
            kind: fn(TileMut<'a, T>) -> FloatsTile<'a>,
        ) -> Vec<FloatsTile<'a>> {
            tiles.into_iter().map(kind).collect()
        }
        match matrix {
            FloatsMut::F32(m) => all(tiles(m, row_len, rows, cols), FloatsTile::F32),
            FloatsMut::Bf16(m) => all(tiles(m, row_len, rows, cols), FloatsTile::Bf16),
            FloatsMut::F16(m) => all(tiles(m, row_len, rows, cols), FloatsTile::F16),
        }
    }

    pub(crate) fn rows(&self) -> usize {
        match self {
            FloatsTile::F32(tile) => tile.rows(),
            FloatsTile::Bf16(tile) | FloatsTile::F16(tile) => tile.rows(),
        }
    }

    #[inline(always)]
    pub(crate) fn row_mut(&mut self, row: usize) -> FloatsMut<'_> {
        match self {
            FloatsTile::F32(tile) => FloatsMut::F32(tile.row_mut(row)),
            FloatsTile::Bf16(tile) => FloatsMut::Bf16(tile.row_mut(row)),
            FloatsTile::F16(tile) => FloatsMut::F16(tile.row_mut(row)),
        }
    }
}

struct Read<'a> {
    from: Floats<'a>,
    out: &'a mut [f32],
}

impl Kernel for Read<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.from {
            Floats::F32(values) => self.out.copy_from_slice(&values[..self.out.len()]),
            Floats::Bf16(words) => {
                let words = &words[..self.out.len()];
                let (whole, rest) = self.out.split_at_mut(words.len() / S::LANES * S::LANES);
                for (out, words) in whole
                    .chunks_exact_mut(S::LANES)
                    .zip(words.chunks_exact(S::LANES))
                {
                    simd.store(canonical(simd.load_bf16(words)), out);
                }
                for (value, &word) in rest.iter_mut().zip(&words[whole.len()..]) {
                    *value = round::bf16_to_f32(word);
                }
            }
            Floats::F16(words) => {
                for (value, &word) in self.out.iter_mut().zip(words) {
                    *value = round::f16_to_f32(word);
                }
            }
        }
    }
}

struct Write<'a> {
    to: FloatsMut<'a>,
    values: &'a [f32],
}

impl Kernel for Write<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.to {
            FloatsMut::F32(values) => values[..self.values.len()].copy_from_slice(self.values),
            FloatsMut::Bf16(words) => {
                let words = &mut words[..self.values.len()];
                let whole = words.len() / S::LANES * S::LANES;
                let (first, rest) = words.split_at_mut(whole);
                for (words, values) in first
                    .chunks_exact_mut(S::LANES)
                    .zip(self.values.chunks_exact(S::LANES))
                {
                    let rounded = round::bf16_round(simd.load(values)).to_bits();
                    simd.store_u16(S::F::int_ushr::<16>(rounded), words);
                }
                narrow_bf16(&self.values[whole..], rest);
            }
            FloatsMut::F16(words) => narrow_f16(self.values, words),
        }
    }
}

#[inline(always)]
fn narrow_bf16(values: &[f32], words: &mut [u16]) {
    for (word, &value) in words.iter_mut().zip(values) {
        *word = round::f32_to_bf16(value);
    }
}

#[inline(always)]
fn narrow_f16(values: &[f32], words: &mut [u16]) {
    for (word, &value) in words.iter_mut().zip(values) {
        *word = round::f32_to_f16(value);
    }
}

#[cfg(test)]
mod tests {
    use jetblock_testing::*;

    use super::*;

    /// An array of two bytes an element, for the tests of operators.
    pub(crate) struct Codes {
        kind: fn(&[u16]) -> Floats<'_>,
        kind_mut: fn(&mut [u16]) -> FloatsMut<'_>,
        round: fn(f32) -> u16,
        pub(crate) words: Vec<u16>,
    }

    impl Codes {
        /// `values` in bf16 and in f16.
        pub(crate) fn of(values: &[f32]) -> [Codes; 2] {
            let bf16 = Codes {
                kind: |words| Floats::Bf16(words),
                kind_mut: |words| FloatsMut::Bf16(words),
                round: round::f32_to_bf16,
                words: Vec::new(),
            };
            let f16 = Codes {
                kind: |words| Floats::F16(words),
                kind_mut: |words| FloatsMut::F16(words),
                round: round::f32_to_f16,
                words: Vec::new(),
            };
            [bf16.with(values), f16.with(values)]
        }

        /// Other values in the same dtype.
        pub(crate) fn with(&self, values: &[f32]) -> Codes {
            Codes {
                words: values.iter().map(|&v| (self.round)(v)).collect(),
                ..*self
            }
        }

        pub(crate) fn floats(&self) -> Floats<'_> {
            (self.kind)(&self.words)
        }

        /// The values that the codes stand for.
        pub(crate) fn values(&self) -> Vec<f32> {
            self.floats().to_vec()
        }

        /// What `op` writes must be `want`, rounded.
        pub(crate) fn assert_written(
            &self,
            what: &str,
            want: &[f32],
            op: impl FnOnce(FloatsMut<'_>) -> Result<(), crate::OpError>,
        ) {
            let mut words = vec![0x5555; want.len()];
            op((self.kind_mut)(&mut words)).expect("valid arguments");
            let (got, want) = ((self.kind)(&words).to_vec(), self.with(want).values());
            assert_bits_equal(
                format!("{what}, {:?}", self.floats().slice(0..0)),
                &got,
                &want,
            );
        }
    }

    #[test]
    fn reads_and_writes_are_those_of_the_contract() {
        let all: Vec<u16> = (0..=u16::MAX).collect();
        for level in Level::available() {
            let mut out = vec![0.0; all.len()];
            Floats::Bf16(&all).read(level, &mut out);
            for (word, value) in all.iter().zip(&out) {
                assert_eq!(
                    value.to_bits(),
                    round::bf16_to_f32(*word).to_bits(),
                    "{word:04X}"
                );
            }
            Floats::F16(&all).read(level, &mut out);
            for (word, value) in all.iter().zip(&out) {
                assert_eq!(
                    value.to_bits(),
                    round::f16_to_f32(*word).to_bits(),
                    "{word:04X}"
                );
            }
            let values: Vec<f32> = painted(3, 1000)
                .into_iter()
                .chain([f32::NAN, f32::INFINITY, -0.0, 1e-40, 65520.0, 3.4e38])
                .collect();
            for codes in Codes::of(&values) {
                codes.assert_written("write", &values, |out| {
                    out.write(level, &values);
                    Ok(())
                });
            }
        }
    }

    #[test]
    fn a_tile_is_a_rectangle_of_any_dtype() {
        let values = painted(4, 6);
        for codes in Codes::of(&values) {
            let mut want = vec![0.0; 20];
            want[6..9].copy_from_slice(&values[..3]);
            want[11..14].copy_from_slice(&values[3..]);
            codes.assert_written("tile", &want, |mut out| {
                out.reborrow().fill(0.0);
                let (rows, columns) = (1..3, 1..4);
                let mut tiles = FloatsTile::cut(out, 5, &[rows], &[columns]);
                assert_eq!(tiles[0].rows(), 2);
                tiles[0].row_mut(0).write(Level::best(), &values[..3]);
                for i in 0..3 {
                    tiles[0].row_mut(1).set(i, values[3 + i]);
                }
                Ok(())
            });
        }
    }
}
