//! The operators on arrays of Python, one function each: shapes are checked here, values by the operator itself.
//!
//! Inputs are f32, bf16 or f16 at any strides: read in place where they are f32 in order, else widened exactly, by the
//! operator itself or a piece at a time ([`Units`]). The arithmetic is the contract's in f32; an output of two bytes is
//! rounded once at the end. The caller brings the outputs.

mod along;
mod convolution;
mod grid;
mod images;
mod norm;
mod random;
mod rows;
mod sequence;
mod shape;
mod token;
mod weight;
mod wide;

use std::ops::Range;

use jetblock_ops::{FloatsMut, OpError};
use jetblock_simd::Cpu;
use pyo3::prelude::*;

use crate::convert::{Buffer, Values};
use crate::error::argument;
use crate::pool;
use crate::tensor::{GRAIN, Source, Tensor};

pub(crate) use along::{cumsum, reduce, topk};
pub(crate) use convolution::{PackedConv, conv};
pub(crate) use grid::{adaptive_avg_pool, avg_pool, upsample};
pub(crate) use images::similarity;
pub(crate) use norm::{group_norm, layer_norm};
pub(crate) use random::randn;
pub(crate) use rows::{activation, power, rms_norm, rms_norm_gated, softmax, swiglu};
pub(crate) use sequence::{
    attention, causal_conv1d, decay_rates, dynamic_causal_conv1d, gated_delta_rule,
    linear_attention, rope, sdpa, selective_scan,
};
pub(crate) use token::{embedding, moe_combine, moe_router, sample};
pub(crate) use weight::{PackedWeight, linear, matmul};
pub(crate) use wide::binary64_function;

/// Runs an operator that writes f32, without Python's lock, and rounds where the output has another dtype.
fn compute(
    py: Python<'_>,
    out: &mut Tensor<'_>,
    op: impl FnOnce(&mut [f32], &Cpu) -> Result<(), OpError> + Send,
) -> PyResult<()> {
    native(py, out, |out, cpu| match out {
        FloatsMut::F32(out) => op(out, cpu),
        out => {
            let mut wide = Buffer::new(out.len());
            op(&mut wide, cpu)?;
            write(out, &wide, cpu);
            Ok(())
        }
    })
}

/// Runs an operator that rounds by itself, without Python's lock.
fn native(
    py: Python<'_>,
    out: &mut Tensor<'_>,
    op: impl FnOnce(FloatsMut<'_>, &Cpu) -> Result<(), OpError> + Send,
) -> PyResult<()> {
    let cpu = pool::operators()?;
    let out = out.floats_mut("out")?;
    py.detach(|| op(out, &cpu)).map_err(argument)
}

/// Writes and rounds, with all threads.
fn write(out: FloatsMut<'_>, values: &[f32], cpu: &Cpu) {
    let parts = out.chunks(GRAIN).into_iter().zip(values.chunks(GRAIN));
    cpu.par_items(parts.collect(), |(out, values)| {
        out.write(cpu.level(), values)
    });
}

/// Elements of the largest array in a piece, for each thread: the f32 copies stay in the second-level cache.
const PIECE: usize = 1 << 15;

/// An operator whose output consists of units that read units of its inputs: rows, groups, planes, elements.
///
/// Where all arrays are f32 in order it works on all units at once and in place. Otherwise pieces of some units are brought
/// to f32, computed and rounded one after another, so that no copy of a whole array ever exists.
struct Units<'a, const N: usize> {
    /// Each input, and how many elements of it a unit has.
    inputs: [(&'a Source<'a>, usize); N],
    /// Elements of a unit of the output.
    out: usize,
    /// Units of a piece, at most, even in place.
    at_most: usize,
}

impl<const N: usize> Units<'_, N> {
    /// `op` gets the range of the units, their inputs and their outputs.
    fn compute(
        &self,
        py: Python<'_>,
        out: &mut Tensor<'_>,
        mut op: impl FnMut(Range<usize>, [&[f32]; N], &mut [f32], &Cpu) -> Result<(), OpError> + Send,
    ) -> PyResult<()> {
        let cpu = &pool::operators()?;
        let out = out.floats_mut("out")?;
        let run = || cpu.install(|| self.pieces(out, cpu, &mut op));
        py.detach(run).map_err(argument)
    }

    fn pieces(
        &self,
        mut out: FloatsMut<'_>,
        cpu: &Cpu,
        op: &mut impl FnMut(Range<usize>, [&[f32]; N], &mut [f32], &Cpu) -> Result<(), OpError>,
    ) -> Result<(), OpError> {
        let lens = self.inputs.map(|(_, len)| len);
        let is_in_place = matches!(out, FloatsMut::F32(_))
            && self
                .inputs
                .iter()
                .all(|(source, _)| source.in_place().is_some());
        let is_empty = out.is_empty() || lens.contains(&0);
        let units = if is_empty { 1 } else { out.len() / self.out };
        let piece = match is_in_place || is_empty {
            true => units,
            false => {
                let largest = lens.iter().fold(self.out, |a, &b| a.max(b));
                (PIECE * cpu.threads() / largest).max(1)
            }
        };
        let piece = piece.min(self.at_most).min(units);
        let mut buffers = lens.map(|_| None);
        let mut wide = None;
        for first in (0..units).step_by(piece) {
            let range = match is_empty {
                true => 0..0,
                false => first..units.min(first + piece),
            };
            let mut inputs: [&[f32]; N] = [&[]; N];
            let all = self.inputs.iter().zip(&mut buffers).zip(&mut inputs);
            for (((source, len), buffer), input) in all {
                *input = match source.in_place() {
                    Some(values) if is_empty => values,
                    Some(values) => &values[range.start * len..range.end * len],
                    None => {
                        let buffer = buffer.get_or_insert_with(|| Buffer::new(piece * len));
                        let values = &mut buffer[..range.len() * len];
                        source.read(range.start * len, values, cpu);
                        values
                    }
                };
            }
            let places = if is_empty {
                0..out.len()
            } else {
                range.start * self.out..range.end * self.out
            };
            match out.reborrow().slice(places) {
                FloatsMut::F32(out) => op(range, inputs, out, cpu)?,
                out => {
                    let wide = wide.get_or_insert_with(|| Buffer::new(piece * self.out));
                    let values = &mut wide[..out.len()];
                    op(range, inputs, values, cpu)?;
                    write(out, values, cpu);
                }
            }
        }
        Ok(())
    }
}

/// [`Units`] of any number, in pieces where they must be.
fn units<'a, const N: usize>(inputs: [(&'a Source<'a>, usize); N], out: usize) -> Units<'a, N> {
    Units {
        inputs,
        out,
        at_most: usize::MAX,
    }
}

/// A vector that may be there, of `len` elements.
fn optional<'a>(
    op: &str,
    name: &str,
    vector: Option<&'a Tensor<'_>>,
    dims: &str,
    len: usize,
) -> PyResult<Option<Values<'a>>> {
    let Some(vector) = vector else {
        return Ok(None);
    };
    shape::check(op, name, vector, dims, &[len])?;
    vector.f32s(&format!("{op}: {name}")).map(Some)
}
