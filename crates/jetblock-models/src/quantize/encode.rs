//! Rows of weights to codes (NUMERICS.md section 2.1).

use jetblock_numerics::{e4m3, max, nvfp4};
use jetblock_simd::Cpu;

use super::BLOCK;
use crate::checkpoint::{TensorView, widen_into};
use crate::config::WeightFormat;

/// Elements that are widened at a time.
const STEP: usize = 1 << 20;
/// Elements worth a thread.
const GRAIN: usize = 1 << 14;

/// Calls `f` with runs of whole rows, widened.
fn by_rows<E>(
    view: &TensorView<'_>,
    k: usize,
    mut f: impl FnMut(&[f32]) -> Result<(), E>,
) -> Result<(), E> {
    let rows = view.elements() / k.max(1);
    let step = (STEP / k.max(1)).max(1);
    let mut values = Vec::new();
    for first in (0..rows).step_by(step) {
        let count = step.min(rows - first);
        values.resize(count * k, 0.0);
        widen_into(view.dtype, view.rows(first, count), &mut values);
        f(&values)?;
    }
    Ok(())
}

/// The largest magnitude; NaN if an element is.
pub(super) fn amax(view: &TensorView<'_>, k: usize) -> f32 {
    let mut most = 0.0;
    let never: Result<(), std::convert::Infallible> = by_rows(view, k, |values| {
        most = max(most, nvfp4::amax(values));
        Ok(())
    });
    let Ok(()) = never;
    most
}

/// The tensor scale for a largest magnitude.
pub(super) fn tensor_scale(format: WeightFormat, amax: f32) -> f32 {
    match format {
        WeightFormat::Fp8 if amax / e4m3::MAX == 0.0 => 1.0,
        WeightFormat::Fp8 => amax / e4m3::MAX,
        WeightFormat::Nvfp4 => nvfp4::weight_scale(amax),
    }
}

/// Hands out the codes of all rows, in pieces; gives the block scales (empty for FP8), which are an eighth of them.
pub(super) fn codes<E>(
    view: &TensorView<'_>,
    k: usize,
    format: WeightFormat,
    scale: f32,
    cpu: &Cpu,
    mut sink: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<Vec<u8>, E> {
    let (mut scales, mut out) = (Vec::new(), Vec::new());
    by_rows(view, k, |values| {
        match format {
            WeightFormat::Fp8 => {
                out.resize(values.len(), 0);
                cpu.par_rows(&mut out, 1, GRAIN, |first, codes| {
                    for (code, w) in codes.iter_mut().zip(&values[first..]) {
                        *code = e4m3::encode(w / scale);
                    }
                });
            }
            WeightFormat::Nvfp4 => {
                let (blocks, _) = values.as_chunks::<BLOCK>();
                // The codes and the scale of each block.
                let mut encoded = vec![[0; BLOCK / 2 + 1]; blocks.len()];
                cpu.par_rows(&mut encoded, 1, GRAIN / BLOCK, |first, out| {
                    for (out, block) in out.iter_mut().zip(&blocks[first..]) {
                        let block = nvfp4::encode_weights(block, scale);
                        out[..BLOCK / 2].copy_from_slice(&block.codes);
                        out[BLOCK / 2] = block.scale;
                    }
                });
                out.clear();
                out.extend(encoded.iter().flat_map(|block| &block[..BLOCK / 2]));
                scales.extend(encoded.iter().map(|block| block[BLOCK / 2]));
            }
        }
        sink(&out)
    })?;
    Ok(scales)
}
