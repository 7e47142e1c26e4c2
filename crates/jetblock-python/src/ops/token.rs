//! Operators with integers: embedding, the router of a mixture of experts, the choice of a token.

use jetblock_ops::Segment;
use jetblock_ops::embedding::{Embedding, Table};
use jetblock_ops::linear::WeightRows;
use jetblock_ops::moe::{Dispatch, Router, RouterConfig, Routes, TieRule};
use jetblock_ops::sampling::{Sampling, SamplingParams};
use pyo3::prelude::*;

use super::weight::float_dtype;
use super::{compute, shape, units};
use crate::error::argument;
use crate::pool;
use crate::tensor::Tensor;

/// `out [.., D]` of `ids [..]` and `weight [V, D]`.
#[pyfunction]
pub(crate) fn embedding(
    py: Python<'_>,
    ids: Tensor<'_>,
    weight: Tensor<'_>,
    mut out: Tensor<'_>,
) -> PyResult<()> {
    const OP: &str = "embedding";
    let [rows, hidden_size] = shape::dims(OP, "weight", &weight, "[V, D]")?;
    shape::check(
        OP,
        "out",
        &out,
        "[.., D]",
        &[&ids.shape[..], &[hidden_size]].concat(),
    )?;
    let dtype = float_dtype("embedding: weight", weight.element)?;
    let ids = ids.u32s("embedding: ids")?;
    let bytes = weight.bytes();
    units([], hidden_size).compute(py, &mut out, |range, [], out, cpu| {
        let op = Embedding {
            ids: &ids[range.start.min(ids.len())..range.end.min(ids.len())],
            table: Table::Rows {
                rows: WeightRows {
                    dtype,
                    rows,
                    bytes: &bytes,
                },
                hidden_size,
            },
        };
        op.cpu(out, cpu)
    })
}

/// `experts [R, k]` i64, ascending, and `weights [R, k]` f32 of `logits [R, E]` and `bias [E]`.
#[pyfunction]
pub(crate) fn moe_router(
    py: Python<'_>,
    logits: Tensor<'_>,
    bias: Tensor<'_>,
    num_experts_per_tok: usize,
    n_group: usize,
    topk_group: usize,
    norm_topk_prob: bool,
    routed_scaling_factor: f32,
    mut experts: Tensor<'_>,
    mut weights: Tensor<'_>,
) -> PyResult<()> {
    const OP: &str = "moe_router";
    let [rows, n_routed_experts] = shape::dims(OP, "logits", &logits, "[R, E]")?;
    shape::check(OP, "bias", &bias, "E", &[n_routed_experts])?;
    shape::check(
        OP,
        "experts",
        &experts,
        "[R, k]",
        &[rows, num_experts_per_tok],
    )?;
    shape::check(
        OP,
        "weights",
        &weights,
        "[R, k]",
        &[rows, num_experts_per_tok],
    )?;
    let config = RouterConfig {
        n_routed_experts,
        num_experts_per_tok,
        n_group,
        topk_group,
        norm_topk_prob,
        routed_scaling_factor,
    };
    let (logits, bias) = (
        logits.f32s("moe_router: logits")?,
        bias.f32s("moe_router: bias")?,
    );
    let segments = [Segment {
        rows: 0..rows,
        start: 0,
    }];
    let router = Router {
        logits: &logits,
        e_score_correction_bias: &bias,
        segments: &segments,
        config: &config,
        tie: TieRule::LowestId,
    };
    let cpu = pool::operators()?;
    let mut routes = Routes::default();
    py.detach(|| router.cpu(&mut routes, &cpu))
        .map_err(argument)?;
    for (out, &expert) in experts
        .i64s_mut("moe_router: experts")?
        .iter_mut()
        .zip(&routes.experts)
    {
        *out = i64::from(expert);
    }
    weights
        .f32s_mut("moe_router: weights")?
        .copy_from_slice(&routes.weights);
    Ok(())
}

/// `out [R, D]`: the weighted sum of each row's `experts [R, k]` i64 below `num_experts`, by `weights [R, k]`. Their answers are `y [R k, D]`,
/// ordered by expert, then by row.
#[pyfunction]
pub(crate) fn moe_combine(
    py: Python<'_>,
    y: Tensor<'_>,
    experts: Tensor<'_>,
    weights: Tensor<'_>,
    num_experts: usize,
    mut out: Tensor<'_>,
) -> PyResult<()> {
    const OP: &str = "moe_combine";
    let [rows, per_row] = shape::dims(OP, "experts", &experts, "[R, k]")?;
    let [_, width] = shape::dims(OP, "y", &y, "[R k, D]")?;
    let slots = rows * per_row;
    shape::check(OP, "y", &y, "[R k, D]", &[slots, width])?;
    shape::check(OP, "weights", &weights, "[R, k]", &[rows, per_row])?;
    shape::check(OP, "out", &out, "[R, D]", &[rows, width])?;
    let routes = Routes {
        per_row,
        experts: experts.u32s("moe_combine: experts")?,
        weights: weights.f32s("moe_combine: weights")?.to_vec(),
    };
    let mut dispatch = Dispatch::default();
    dispatch.fill(&routes, num_experts).map_err(argument)?;
    let y = y.f32s("moe_combine: y")?;
    let y = &y[..];
    compute(py, &mut out, |out, cpu| {
        out.fill(0.0);
        dispatch.combine(0..slots, y, width, out, cpu)
    })
}

/// `out [R]` i64: a token of each row of `logits [R, V]`, drawn by the row's `seeds [R]` and `positions [R]`.
#[pyfunction]
pub(crate) fn sample(
    py: Python<'_>,
    logits: Tensor<'_>,
    seeds: Tensor<'_>,
    positions: Tensor<'_>,
    temperature: f32,
    top_k: u32,
    top_p: f32,
    min_p: f32,
    mut out: Tensor<'_>,
) -> PyResult<()> {
    const OP: &str = "sample";
    let [rows, vocab_size] = shape::dims(OP, "logits", &logits, "[R, V]")?;
    for (name, array) in [("seeds", &seeds), ("positions", &positions), ("out", &out)] {
        shape::check(OP, name, array, "R", &[rows])?;
    }
    let params = SamplingParams {
        temperature,
        top_k,
        top_p,
        min_p,
        ..SamplingParams::default()
    };
    params.check().map_err(argument)?;
    let logits = logits.f32s("sample: logits")?;
    let (seeds, positions) = (
        seeds.i64s("sample: seeds")?,
        positions.i64s("sample: positions")?,
    );
    if let Some(position) = positions.iter().find(|position| **position < 0) {
        return Err(argument(format!(
            "{OP}: a position is {position}, expected at least 0"
        )));
    }
    let cpu = pool::operators()?;
    let draw = |row: usize| {
        let sampling = Sampling {
            logits: &logits[row * vocab_size..][..vocab_size],
            params: &params,
            prompt_ids: &[],
            output_ids: &[],
            seed: seeds[row].cast_unsigned(),
            sample_index: 0,
            position: positions[row].cast_unsigned(),
        };
        sampling.cpu(&cpu).map(i64::from)
    };
    let tokens = py
        .detach(|| (0..rows).map(draw).collect::<Result<Vec<_>, _>>())
        .map_err(argument)?;
    out.i64s_mut("sample: out")?.copy_from_slice(&tokens);
    Ok(())
}
