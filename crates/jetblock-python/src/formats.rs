//! Whole tensors to NVFP4 and FP8 codes and back, in the arithmetic of comfy-kitchen (NUMERICS.md, section 2.2).
//!
//! Each function says whether it could: where a value that decides is not finite, the caller has to use comfy-kitchen's
//! own, whose NaN are PyTorch's.

use std::sync::atomic::{AtomicBool, Ordering};

use jetblock_numerics::{e2m1, e4m3, nvfp4::BLOCK, round};
use jetblock_ops::{Floats, FloatsMut};
use jetblock_simd::{Kernel, Simd, fp_env};
use pyo3::prelude::*;

use crate::error::argument;
use crate::pool;
use crate::tensor::{Element, Source, Tensor};

/// Block scales lie in tiles of 128 rows by 4 columns, as matrix products of a GPU read them.
const TILE_ROWS: usize = 128;
const TILE_COLUMNS: usize = 4;
const TILE: usize = TILE_ROWS * TILE_COLUMNS;
/// Elements worth a thread of their own.
const GRAIN: usize = 1 << 15;

/// Where the scale of a row and a column of blocks is; a row of tiles has `tiles` of them.
fn place(row: usize, column: usize, tiles: usize) -> usize {
    let tile = row / TILE_ROWS * tiles + column / TILE_COLUMNS;
    let row = row % TILE_ROWS;
    tile * TILE + row % 32 * 16 + row / 32 * TILE_COLUMNS + column % TILE_COLUMNS
}

/// Rows and columns of an NVFP4 matrix, where codes and scales have the right size.
fn matrix(shape: &[usize], codes: &Tensor<'_>, scales: &Tensor<'_>) -> PyResult<(usize, usize)> {
    let [rows, columns] = *shape else {
        return Err(argument(format!(
            "nvfp4: the shape is {shape:?}, expected [rows, columns]"
        )));
    };
    let tiles = (columns / BLOCK).div_ceil(TILE_COLUMNS);
    let expected = rows.div_ceil(TILE_ROWS) * tiles * TILE;
    let is_right = columns.is_multiple_of(BLOCK)
        && codes.shape == [rows, columns / 2]
        && scales.len() == expected;
    if !is_right {
        return Err(argument(format!(
            "nvfp4: [{rows}, {columns}] has codes {:?} and {} scales, expected columns in sixteens, [{rows}, {}] and \
             {expected}",
            codes.shape,
            scales.len(),
            columns / 2
        )));
    }
    Ok((rows, columns))
}

/// x `[R, C]` to `codes [R, C / 2]` and the block scales, which are zeros before; false where an element is not finite.
#[pyfunction]
pub(crate) fn quantize_nvfp4(
    py: Python<'_>,
    x: Tensor<'_>,
    tensor_scale: f32,
    hi_first: bool,
    mut codes: Tensor<'_>,
    mut scales: Tensor<'_>,
) -> PyResult<bool> {
    let (_, columns) = matrix(&x.shape, &codes, &scales)?;
    let values = x.f32s("nvfp4: x")?;
    let (x, cpu) = (&values[..], pool::operators()?);
    let codes = codes.bytes_mut("nvfp4: codes")?;
    let scales = scales.bytes_mut("nvfp4: scales")?;
    if x.is_empty() {
        return Ok(true);
    }
    let is_finite = AtomicBool::new(true);
    py.detach(|| {
        let tiles = (columns / BLOCK).div_ceil(TILE_COLUMNS);
        let codes = codes.chunks_mut(TILE_ROWS * columns / 2);
        let scales = scales.chunks_mut(tiles * TILE);
        let rows = x.chunks(TILE_ROWS * columns).zip(codes).zip(scales);
        cpu.par_items(rows.collect(), |((x, codes), scales)| {
            let _guard = fp_env::Guard::new();
            let finite = cpu.run(Quantize {
                x,
                columns,
                tensor_scale,
                hi_first,
                codes,
                scales,
            });
            is_finite.fetch_and(finite, Ordering::Relaxed);
        });
    });
    Ok(is_finite.into_inner())
}

/// At most 128 rows.
struct Quantize<'a> {
    x: &'a [f32],
    columns: usize,
    tensor_scale: f32,
    hi_first: bool,
    codes: &'a mut [u8],
    scales: &'a mut [u8],
}

impl Kernel for Quantize<'_> {
    type Output = bool;

    /// Plain loops over a block, which the compiler turns into vectors.
    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) -> bool {
        let columns = self.columns / BLOCK;
        let (blocks, _) = self.x.as_chunks::<BLOCK>();
        let (codes, _) = self.codes.as_chunks_mut::<{ BLOCK / 2 }>();
        let mut all_finite = true;
        for (i, (x, codes)) in blocks.iter().zip(codes).enumerate() {
            let mut most = 0;
            for x in x {
                most = most.max(x.to_bits() & 0x7FFF_FFFF);
            }
            all_finite &= most < f32::INFINITY.to_bits();
            let wanted = f32::from_bits(most) / e2m1::MAX / self.tensor_scale;
            let scale = e4m3::encode(wanted);
            self.scales[place(i / columns, i % columns, columns.div_ceil(TILE_COLUMNS))] = scale;
            *codes = pack(x, self.tensor_scale * e4m3::decode(scale), self.hi_first);
        }
        all_finite
    }
}

/// The codes of a block; all 0 under a scale of 0.
#[inline(always)]
fn pack(x: &[f32; BLOCK], scale: f32, hi_first: bool) -> [u8; BLOCK / 2] {
    let mut out = [0; BLOCK / 2];
    if scale == 0.0 {
        return out;
    }
    let mut codes = [0; BLOCK];
    for i in 0..BLOCK {
        // The sign is that of x, also where it is -0 or rounds to zero.
        let sign = (x[i].to_bits() >> 28 & 8).cast_signed();
        codes[i] = e2m1::round::<f32>((x[i] / scale).abs()) | sign;
    }
    for i in 0..BLOCK / 2 {
        let (even, odd) = (codes[2 * i], codes[2 * i + 1]);
        out[i] = if hi_first {
            even << 4 | odd
        } else {
            odd << 4 | even
        } as u8;
    }
    out
}

/// `out [R, C]`, f32, bf16 or f16, of codes and block scales; false where a scale that is used is not finite.
#[pyfunction]
pub(crate) fn dequantize_nvfp4(
    py: Python<'_>,
    codes: Tensor<'_>,
    tensor_scale: f32,
    scales: Tensor<'_>,
    hi_first: bool,
    mut out: Tensor<'_>,
) -> PyResult<bool> {
    let (_, columns) = matrix(&out.shape, &codes, &scales)?;
    let (codes, scales) = (codes.bytes(), scales.bytes());
    let element = out.element;
    let rounded = rounding(element)?;
    // A value has a code and a block scale, a byte each at most: all 4096 of them are computed first.
    let _guard = fp_env::Guard::new();
    let scale_of = |scale: u8| rounded(rounded(tensor_scale) * e4m3::decode(scale));
    let table: Vec<[f32; 16]> = (0..=u8::MAX)
        .map(|scale| {
            std::array::from_fn(|code| rounded(e2m1::decode(code as u8) * scale_of(scale)))
        })
        .collect();
    let usable: Vec<bool> = (0..=u8::MAX)
        .map(|scale| scale_of(scale).is_finite())
        .collect();
    let matrix = Coded {
        codes: &codes,
        scales: &scales,
        columns,
        hi_first,
        usable: &usable,
    };
    match out.floats_mut("nvfp4: out")? {
        FloatsMut::F32(out) => matrix.decode(py, &table, out),
        FloatsMut::Bf16(out) | FloatsMut::F16(out) => {
            matrix.decode(py, &words_of(&table, element), out)
        }
    }
}

struct Coded<'a> {
    codes: &'a [u8],
    scales: &'a [u8],
    columns: usize,
    hi_first: bool,
    /// By scale.
    usable: &'a [bool],
}

impl Coded<'_> {
    /// Looks every element up, by block scale and code.
    fn decode<T: Copy + Send + Sync>(
        &self,
        py: Python<'_>,
        table: &[[T; 16]],
        out: &mut [T],
    ) -> PyResult<bool> {
        let cpu = pool::operators()?;
        if out.is_empty() {
            return Ok(true);
        }
        let is_finite = AtomicBool::new(true);
        let (columns, blocks) = (self.columns, self.columns / BLOCK);
        let shift = if self.hi_first { [4, 0] } else { [0, 4] };
        py.detach(|| {
            cpu.par_rows(out, columns, GRAIN / columns, |first, out| {
                let codes = &self.codes[first * columns / 2..];
                let pairs = out.chunks_mut(BLOCK).zip(codes.chunks(BLOCK / 2));
                let mut finite = true;
                for (i, (out, codes)) in pairs.enumerate() {
                    let at = place(
                        first + i / blocks,
                        i % blocks,
                        blocks.div_ceil(TILE_COLUMNS),
                    );
                    let scale = usize::from(self.scales[at]);
                    finite &= self.usable[scale];
                    let values = &table[scale];
                    for (pair, code) in out.chunks_mut(2).zip(codes) {
                        pair[0] = values[usize::from(code >> shift[0] & 15)];
                        pair[1] = values[usize::from(code >> shift[1] & 15)];
                    }
                }
                is_finite.fetch_and(finite, Ordering::Relaxed);
            });
        });
        Ok(is_finite.into_inner())
    }
}

/// x to E4M3 `out`: `x * factor`, rounded to x's dtype, limited to +-448; false where that is NaN.
#[pyfunction]
pub(crate) fn quantize_e4m3(
    py: Python<'_>,
    x: Tensor<'_>,
    factor: f32,
    mut out: Tensor<'_>,
) -> PyResult<bool> {
    if x.len() != out.len() {
        return Err(argument(format!(
            "e4m3: out has {} elements, expected {}",
            out.len(),
            x.len()
        )));
    }
    let Source::Floats(x) = x.source("e4m3: x")? else {
        return Err(argument("e4m3: x has gaps, expected a contiguous array"));
    };
    let cpu = pool::operators()?;
    let out = out.bytes_mut("e4m3: out")?;
    let is_number = AtomicBool::new(true);
    py.detach(|| {
        cpu.par_rows(out, 1, GRAIN, |first, codes| {
            let _guard = fp_env::Guard::new();
            let x = x.slice(first..first + codes.len());
            let numbers = cpu.run(Encode { x, factor, codes });
            is_number.fetch_and(numbers, Ordering::Relaxed);
        });
    });
    Ok(is_number.into_inner())
}

struct Encode<'a> {
    x: Floats<'a>,
    factor: f32,
    codes: &'a mut [u8],
}

impl Kernel for Encode<'_> {
    type Output = bool;

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) -> bool {
        let mut any_nan = false;
        match self.x {
            Floats::F32(x) => {
                for (code, x) in self.codes.iter_mut().zip(x) {
                    let y = x * self.factor;
                    any_nan |= y.is_nan();
                    *code = e4m3::encode(y);
                }
            }
            Floats::Bf16(x) => {
                for (code, &x) in self.codes.iter_mut().zip(x) {
                    let y = round::bf16_round(round::bf16_widen(x) * self.factor);
                    any_nan |= y.is_nan();
                    *code = e4m3::encode(y);
                }
            }
            Floats::F16(x) => {
                for (code, &x) in self.codes.iter_mut().zip(x) {
                    let y = round::f32_to_f16(round::f16_to_f32(x) * self.factor);
                    let y = round::f16_to_f32(y);
                    any_nan |= y.is_nan();
                    *code = e4m3::encode(y);
                }
            }
        }
        !any_nan
    }
}

/// E4M3 codes times a scale that is rounded to out's dtype first; false where a code is NaN.
#[pyfunction]
pub(crate) fn dequantize_e4m3(
    py: Python<'_>,
    codes: Tensor<'_>,
    scale: f32,
    mut out: Tensor<'_>,
) -> PyResult<bool> {
    if codes.len() != out.len() || codes.element.size != 1 {
        return Err(argument(format!(
            "e4m3: {} codes of {}, expected {} of e4m3",
            codes.len(),
            codes.element.name,
            out.len()
        )));
    }
    let codes = codes.bytes();
    let element = out.element;
    let rounded = rounding(element)?;
    let _guard = fp_env::Guard::new();
    let value = |code: usize| rounded(e4m3::decode(code as u8) * rounded(scale));
    let table: Vec<[f32; 16]> = (0..16)
        .map(|high| std::array::from_fn(|low| value(16 * high + low)))
        .collect();
    let has_nan = codes.iter().any(|code| code & 0x7F == e4m3::NAN);
    match out.floats_mut("e4m3: out")? {
        FloatsMut::F32(out) => look_up(py, &table, &codes, out)?,
        FloatsMut::Bf16(out) | FloatsMut::F16(out) => {
            look_up(py, &words_of(&table, element), &codes, out)?;
        }
    }
    Ok(!has_nan)
}

fn look_up<T: Copy + Send + Sync>(
    py: Python<'_>,
    table: &[[T; 16]],
    codes: &[u8],
    out: &mut [T],
) -> PyResult<()> {
    let cpu = pool::operators()?;
    py.detach(|| {
        cpu.par_rows(out, 1, GRAIN, |first, out| {
            for (value, &code) in out.iter_mut().zip(&codes[first..]) {
                *value = table[usize::from(code >> 4)][usize::from(code & 15)];
            }
        });
    });
    Ok(())
}

/// A table of values that are exact in the dtype.
fn words_of(table: &[[f32; 16]], element: Element) -> Vec<[u16; 16]> {
    let word = match element {
        Element::BF16 => round::f32_to_bf16,
        _ => round::f32_to_f16,
    };
    table.iter().map(|row| row.map(word)).collect()
}

/// To the nearest value of a dtype, ties to even.
fn rounding(element: Element) -> PyResult<fn(f32) -> f32> {
    match element {
        Element::F32 => Ok(|x| x),
        Element::BF16 => Ok(round::bf16_round),
        Element::F16 => Ok(|x| round::f16_to_f32(round::f32_to_f16(x))),
        other => Err(argument(format!(
            "the dtype is {}, expected f32, bf16 or f16",
            other.name
        ))),
    }
}
