//! Codes and scales in the order in which kernels read them.

use jetblock_numerics::{Lanes, canonical, fma};
use jetblock_simd::{HugeVec, Simd};

use super::super::pack::{PANEL, PanelRow};
use super::{Codes, Format, ScaleType};

/// Panels of 64 outputs.
///
/// A row of a panel holds one word of 32 bits for each output. Its low half has the codes of the even k, its high half
/// those of the odd k, so that shifting a word right by a code's width brings the next pair into place: nibble (or
/// byte) i of the low half is k = 2i, of the high half k = 2i + 1, counted from the word's first k.
#[derive(Debug)]
pub(in super::super) struct QuantizedPanels {
    pub(super) format: Format,
    /// `[panels, ceil(K / codes per word)]`; codes past K are those of +0.
    pub(super) codes: HugeVec<PanelRow<u32>>,
    /// `[panels, K / block]`.
    pub(super) scales: Scales,
    /// As `scales`, or empty.
    pub(super) offsets: Scales,
    /// `[panels * PANEL]`: what multiplies each output's total. NaN where the row has a NaN code, because every product
    /// with it is NaN; kernels need not look for such codes.
    pub(super) factors: Vec<f32>,
}

/// Scales of 64 outputs a row, as stored.
#[derive(Debug)]
pub(super) enum Scales {
    None,
    F32(HugeVec<PanelRow<f32>>),
    F16(HugeVec<PanelRow<u16>>),
    E4m3(HugeVec<PanelRow<u8>>),
}

impl Scales {
    /// Room for `count` rows of zeros.
    pub(super) fn zeros(kind: Option<ScaleType>, count: usize) -> Scales {
        fn rows<T: Copy + Default>(count: usize) -> HugeVec<PanelRow<T>> {
            let mut rows = HugeVec::with_capacity(count);
            rows.extend_with(count, PanelRow([T::default(); PANEL]));
            rows
        }
        match kind {
            None => Scales::None,
            Some(ScaleType::F32) => Scales::F32(rows(count)),
            Some(ScaleType::F16) => Scales::F16(rows(count)),
            Some(ScaleType::E4m3) => Scales::E4m3(rows(count)),
        }
    }

    /// Writes one column of rows `first..` from little-endian bytes.
    pub(super) fn fill(&mut self, first: usize, column: usize, bytes: &[u8]) {
        match self {
            Scales::None => {}
            Scales::F32(rows) => {
                for (row, b) in rows[first..].iter_mut().zip(bytes.as_chunks().0) {
                    row.0[column] = f32::from_le_bytes(*b);
                }
            }
            Scales::F16(rows) => {
                for (row, b) in rows[first..].iter_mut().zip(bytes.as_chunks().0) {
                    row.0[column] = u16::from_le_bytes(*b);
                }
            }
            Scales::E4m3(rows) => {
                for (row, b) in rows[first..].iter_mut().zip(bytes) {
                    row.0[column] = *b;
                }
            }
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Scales::None => 0,
            Scales::F32(rows) => size_of_val(&rows[..]),
            Scales::F16(rows) => size_of_val(&rows[..]),
            Scales::E4m3(rows) => size_of_val(&rows[..]),
        }
    }

    /// One value; `absent` without scales.
    fn at(&self, row: usize, column: usize, absent: f32) -> f32 {
        match self {
            Scales::None => absent,
            Scales::F32(rows) => rows[row].0[column],
            Scales::F16(rows) => ScaleType::F16.value(&rows[row].0[column].to_le_bytes()),
            Scales::E4m3(rows) => ScaleType::E4m3.value(&[rows[row].0[column]]),
        }
    }

    /// Widens rows `first..first + out.len()`.
    #[inline(always)]
    pub(super) fn widen<S: Simd>(&self, simd: S, first: usize, out: &mut [[f32; PANEL]]) {
        match self {
            Scales::None => {}
            Scales::F32(rows) => {
                for i in 0..out.len() {
                    out[i] = rows[first + i].0;
                }
            }
            Scales::F16(rows) => {
                for i in 0..out.len() {
                    let mut at = 0;
                    while at < PANEL {
                        let v = simd.load_f16(&rows[first + i].0[at..]);
                        simd.store(v, &mut out[i][at..]);
                        at += S::LANES;
                    }
                }
            }
            Scales::E4m3(rows) => {
                for i in 0..out.len() {
                    let mut at = 0;
                    while at < PANEL {
                        let v = widen_e4m3::<S>(simd.load_u8(&rows[first + i].0[at..]));
                        simd.store(v, &mut out[i][at..]);
                        at += S::LANES;
                    }
                }
            }
        }
    }
}

/// E4M3 to f32 without a look at NaN, whose rows have a NaN factor.
#[inline(always)]
fn widen_e4m3<S: Simd>(code: <S::F as Lanes>::Int) -> S::F {
    let int = |v: u32| S::F::splat_int(v.cast_signed());
    let sign = S::F::int_and(S::F::int_shl::<24>(code), int(0x8000_0000));
    let magnitude = S::F::int_and(S::F::int_shl::<20>(code), int(0x07F0_0000));
    // As an f32, exponent and fraction stand for 2^-120 of the value, subnormal or not.
    S::F::from_bits(S::F::int_or(sign, magnitude)).mul(S::F::from_bits(int((127 + 120) << 23)))
}

impl QuantizedPanels {
    /// What its codes stand for.
    pub(in super::super) fn codes(&self) -> Codes {
        self.format.codes
    }

    /// Memory in bytes, padding included.
    pub(in super::super) fn bytes(&self) -> usize {
        size_of_val(&self.codes[..])
            + self.scales.bytes()
            + self.offsets.bytes()
            + size_of_val(&self.factors[..])
    }

    pub(in super::super) fn format(&self) -> Format {
        self.format
    }

    /// Row `n` of `k` elements as values: `fma(scale, code, offset) * factor`.
    pub(in super::super) fn row_into(&self, n: usize, k: usize, out: &mut [f32]) {
        let (panel, column) = (n / PANEL, n % PANEL);
        let codes = self.format.codes;
        let words = &self.codes[panel * k.div_ceil(codes.per_word())..];
        let block = self.format.blocks.map_or(usize::MAX, |blocks| blocks.len);
        let first = panel * self.format.blocks_in(k);
        for (i, out) in out.iter_mut().enumerate() {
            let (word, at) = (words[i / codes.per_word()].0[column], i % codes.per_word());
            let code = (word >> (at / 2 * codes.bits() + at % 2 * 16)) as u8;
            let row = first + i / block;
            let (s, o) = (
                self.scales.at(row, column, 1.0),
                self.offsets.at(row, column, 0.0),
            );
            *out = canonical(fma(s, codes.value(code), o) * self.factors[n]);
        }
    }
}

/// Whether a row's result is NaN whatever it meets, for a reason that kernels do not see.
pub(super) fn is_poisoned(format: Format, codes: &[u8], scales: &[u8]) -> bool {
    let nan = |code: &u8| code & 0x7F == 0x7F;
    let e4m3_scales = format.blocks.is_some_and(|b| b.scale == ScaleType::E4m3);
    (format.codes == Codes::E4m3 && codes.iter().any(nan))
        || (e4m3_scales && scales.iter().any(nan))
}
