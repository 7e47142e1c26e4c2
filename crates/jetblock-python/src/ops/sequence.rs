//! Operators along the tokens of sequences. Arrays are `[B, T, ..]`: B sequences of T tokens each.

use std::ops::Range;

use jetblock_ops::attention::{Attention, KvCache, KvCacheConfig, KvDtype};
use jetblock_ops::causal_conv1d::{CausalConv1d, Taps, transpose_weight};
use jetblock_ops::gated_delta_rule::GatedDeltaRule;
use jetblock_ops::linear::OperandKind;
use jetblock_ops::linear_attention::LinearAttention;
use jetblock_ops::rope::{Rope, RopeConfig, RopeScaling, RopeTable};
use jetblock_ops::sdpa::{Broadcast, Heads, Mask, Sdpa};
use jetblock_ops::selective_scan::{
    SelectiveScan, decay_rates as rates_of, state_from_canonical, state_to_canonical,
};
use jetblock_ops::{Columns, Segment};
use jetblock_simd::{Cpu, fp_env};
use pyo3::prelude::*;

use super::{compute, native, shape, units};
use crate::error::argument;
use crate::tensor::{Element, RowSource, Tensor};

/// B sequences of T tokens, each at position `start`.
#[derive(Clone, Copy)]
struct Sequences {
    batch: usize,
    tokens: usize,
    start: usize,
}

impl Sequences {
    /// The sequences that have some of the rows `[B T]`, and which of these rows are theirs.
    fn of(&self, rows: Range<usize>) -> (Range<usize>, Vec<Segment>) {
        if self.tokens == 0 {
            let segment = Segment {
                rows: 0..0,
                start: self.start,
            };
            return (0..self.batch, vec![segment; self.batch]);
        }
        let all = rows.start / self.tokens..rows.end.div_ceil(self.tokens);
        let segment = |b: usize| {
            let own = b * self.tokens;
            let (first, end) = (rows.start.max(own), rows.end.min(own + self.tokens));
            Segment {
                rows: first - rows.start..end - rows.start,
                start: self.start + first - own,
            }
        };
        (all.clone(), all.map(segment).collect())
    }

    /// All of them.
    fn all(&self) -> Vec<Segment> {
        self.of(0..self.batch * self.tokens).1
    }
}

/// `out [B, T, C]` of `x [B, T, C]`, `weight [C, K]`, `bias [C]`; `state [B, K - 1, C]` f32 is advanced.
#[pyfunction]
#[pyo3(signature = (x, weight, bias, state, out))]
pub(crate) fn causal_conv1d(
    py: Python<'_>,
    x: Tensor<'_>,
    weight: Tensor<'_>,
    bias: Option<Tensor<'_>>,
    mut state: Tensor<'_>,
    mut out: Tensor<'_>,
) -> PyResult<()> {
    const OP: &str = "causal_conv1d";
    let [batch, tokens, channels] = shape::dims(OP, "x", &x, "[B, T, C]")?;
    let [_, kernel] = shape::dims(OP, "weight", &weight, "[C, K]")?;
    shape::check(OP, "weight", &weight, "[C, K]", &[channels, kernel])?;
    shape::check(
        OP,
        "state",
        &state,
        "[B, K - 1, C]",
        &[batch, kernel - 1, channels],
    )?;
    shape::check(OP, "out", &out, "as x", &x.shape)?;
    if let Some(bias) = &bias {
        shape::check(OP, "bias", bias, "C", &[channels])?;
    }
    let bias_or_x = bias.as_ref().unwrap_or(&x);
    state.check_apart("causal_conv1d: state", &[&x, &weight, bias_or_x])?;
    let weight = transpose_weight(&weight.f32s("causal_conv1d: weight")?, channels);
    let x = x.source("causal_conv1d: x")?;
    let bias = bias
        .as_ref()
        .map(|bias| bias.f32s("causal_conv1d: bias"))
        .transpose()?;
    let bias = bias.as_deref();
    let state = state.f32s_mut("causal_conv1d: state")?;
    let sequences = Sequences {
        batch,
        tokens,
        start: 0,
    };
    units([(&x, channels)], channels).compute(py, &mut out, |rows, [x], out, cpu| {
        let (own, segments) = sequences.of(rows);
        let op = CausalConv1d {
            x: Columns::whole(x, channels),
            weight: Taps::Fixed(&weight),
            bias,
            segments: &segments,
        };
        op.cpu(&mut per_sequence(state, batch)[own], out, cpu)
    })
}

/// `out [B, T, C]` of `x [B, T, C]` with the kernels `weight [B, T, K, C]`; `state [B, K - 1, C]` f32 is advanced.
#[pyfunction]
pub(crate) fn dynamic_causal_conv1d(
    py: Python<'_>,
    x: Tensor<'_>,
    weight: Tensor<'_>,
    mut state: Tensor<'_>,
    mut out: Tensor<'_>,
) -> PyResult<()> {
    const OP: &str = "dynamic_causal_conv1d";
    let [batch, tokens, channels] = shape::dims(OP, "x", &x, "[B, T, C]")?;
    let [_, _, kernel, _] = shape::dims(OP, "weight", &weight, "[B, T, K, C]")?;
    let weight_shape = [batch, tokens, kernel, channels];
    shape::check(OP, "weight", &weight, "[B, T, K, C]", &weight_shape)?;
    let state_shape = [batch, kernel - 1, channels];
    shape::check(OP, "state", &state, "[B, K - 1, C]", &state_shape)?;
    shape::check(OP, "out", &out, "as x", &x.shape)?;
    state.check_apart("dynamic_causal_conv1d: state", &[&x, &weight])?;
    let x = x.source("dynamic_causal_conv1d: x")?;
    let weight = weight.source("dynamic_causal_conv1d: weight")?;
    let state = state.f32s_mut("dynamic_causal_conv1d: state")?;
    let sequences = Sequences {
        batch,
        tokens,
        start: 0,
    };
    let inputs = [(&x, channels), (&weight, kernel * channels)];
    units(inputs, channels).compute(py, &mut out, |rows, [x, weight], out, cpu| {
        let (own, segments) = sequences.of(rows);
        let op = CausalConv1d {
            x: Columns::whole(x, channels),
            weight: Taps::EachRow { weight, kernel },
            bias: None,
            segments: &segments,
        };
        op.cpu(&mut per_sequence(state, batch)[own], out, cpu)
    })
}

/// Equal parts of the states of `batch` sequences, which may be empty.
fn per_sequence(states: &mut [f32], batch: usize) -> Vec<&mut [f32]> {
    let len = states.len().checked_div(batch).unwrap_or(0);
    let mut rest = states;
    let mut parts = Vec::with_capacity(batch);
    for _ in 0..batch {
        let (part, after) = rest.split_at_mut(len);
        parts.push(part);
        rest = after;
    }
    parts
}

/// `out [B, T, H, P]` of `x [B, T, H, P]`, `dt [B, T, H]`, `a [H]`, `b` and `c [B, T, G, N]`, `d [H]`, `dt_bias [H]`;
/// `state [B, H, P, N]` f32 is advanced.
#[pyfunction]
pub(crate) fn selective_scan(
    py: Python<'_>,
    x: Tensor<'_>,
    dt: Tensor<'_>,
    a: Tensor<'_>,
    b: Tensor<'_>,
    c: Tensor<'_>,
    d: Tensor<'_>,
    dt_bias: Tensor<'_>,
    dt_limit: (f32, f32),
    mut state: Tensor<'_>,
    mut out: Tensor<'_>,
) -> PyResult<()> {
    const OP: &str = "selective_scan";
    let [batch, tokens, heads, head_dim] = shape::dims(OP, "x", &x, "[B, T, H, P]")?;
    let [_, _, groups, state_len] = shape::dims(OP, "b", &b, "[B, T, G, N]")?;
    let group_shape = [batch, tokens, groups, state_len];
    shape::check(OP, "b", &b, "[B, T, G, N]", &group_shape)?;
    shape::check(OP, "c", &c, "[B, T, G, N]", &group_shape)?;
    shape::check(OP, "dt", &dt, "[B, T, H]", &[batch, tokens, heads])?;
    for (name, vector) in [("a", &a), ("d", &d), ("dt_bias", &dt_bias)] {
        shape::check(OP, name, vector, "H", &[heads])?;
    }
    let state_shape = [batch, heads, head_dim, state_len];
    shape::check(OP, "state", &state, "[B, H, P, N]", &state_shape)?;
    shape::check(OP, "out", &out, "as x", &x.shape)?;
    state.check_apart(
        "selective_scan: state",
        &[&x, &dt, &a, &b, &c, &d, &dt_bias],
    )?;
    let (x, dt) = (
        x.source("selective_scan: x")?,
        dt.source("selective_scan: dt")?,
    );
    let (b, c) = (
        b.source("selective_scan: b")?,
        c.source("selective_scan: c")?,
    );
    let (a, d) = (a.f32s("selective_scan: a")?, d.f32s("selective_scan: d")?);
    let dt_bias = dt_bias.f32s("selective_scan: dt_bias")?;
    let (a, d, dt_bias) = (&a[..], &d[..], &dt_bias[..]);
    let sequences = Sequences {
        batch,
        tokens,
        start: 0,
    };
    let (width, group) = (heads * head_dim, groups * state_len);
    let inputs = [(&x, width), (&dt, heads), (&b, group), (&c, group)];
    let tokens = units(inputs, width);
    let scan = |rows, [x, dt, b, c]: [&[f32]; 4], state: &mut [f32], out: &mut [f32], cpu: &Cpu| {
        let (own, segments) = sequences.of(rows);
        let op = SelectiveScan {
            x: Columns::whole(x, width),
            b: Columns::whole(b, group),
            c: Columns::whole(c, group),
            dt_raw: Columns::whole(dt, heads),
            dt_bias,
            a,
            d,
            groups,
            dt_limit,
            segments: &segments,
        };
        op.cpu(&mut per_sequence(state, batch)[own], out, cpu)
    };
    // The operator keeps p contiguous. A state that lies so already, as the ones made here do, is advanced in place.
    if state.transpose_last_two() {
        let state = state.f32s_mut("selective_scan: state")?;
        return tokens.compute(py, &mut out, |rows, inputs, out, cpu| {
            scan(rows, inputs, state, out, cpu)
        });
    }
    let state = state.f32s_mut("selective_scan: state")?;
    let mut own = match state.is_empty() {
        true => Vec::new(),
        false => state_from_canonical(state, state_len, head_dim),
    };
    tokens.compute(py, &mut out, |rows, inputs, out, cpu| {
        scan(rows, inputs, &mut own, out, cpu)
    })?;
    if !own.is_empty() {
        state.copy_from_slice(&state_to_canonical(&own, state_len, head_dim));
    }
    Ok(())
}

/// `out [B, T, H, V]` of `q` and `k [B, T, G, K]`, `v [B, T, H, V]`, `g` and `beta [B, T, H]`; `state [B, H, K, V]` f32
/// is advanced.
#[pyfunction]
pub(crate) fn gated_delta_rule(
    py: Python<'_>,
    q: Tensor<'_>,
    k: Tensor<'_>,
    v: Tensor<'_>,
    g: Tensor<'_>,
    beta: Tensor<'_>,
    scale: f32,
    qk_l2norm: bool,
    mut state: Tensor<'_>,
    mut out: Tensor<'_>,
) -> PyResult<()> {
    const OP: &str = "gated_delta_rule";
    let [batch, tokens, groups, keys] = shape::dims(OP, "q", &q, "[B, T, G, K]")?;
    shape::check(OP, "k", &k, "as q", &q.shape)?;
    let [_, _, heads, values] = shape::dims(OP, "v", &v, "[B, T, H, V]")?;
    let v_shape = [batch, tokens, heads, values];
    shape::check(OP, "v", &v, "[B, T, H, V]", &v_shape)?;
    for (name, gate) in [("g", &g), ("beta", &beta)] {
        shape::check(OP, name, gate, "[B, T, H]", &[batch, tokens, heads])?;
    }
    let state_shape = [batch, heads, keys, values];
    shape::check(OP, "state", &state, "[B, H, K, V]", &state_shape)?;
    shape::check(OP, "out", &out, "as v", &v.shape)?;
    state.check_apart("gated_delta_rule: state", &[&q, &k, &v, &g, &beta])?;
    let (q, k) = (
        q.source("gated_delta_rule: q")?,
        k.source("gated_delta_rule: k")?,
    );
    let (v, g) = (
        v.source("gated_delta_rule: v")?,
        g.source("gated_delta_rule: g")?,
    );
    let beta = beta.source("gated_delta_rule: beta")?;
    let state = state.f32s_mut("gated_delta_rule: state")?;
    let sequences = Sequences {
        batch,
        tokens,
        start: 0,
    };
    let (width, group) = (heads * values, groups * keys);
    let inputs = [
        (&q, group),
        (&k, group),
        (&v, width),
        (&g, heads),
        (&beta, heads),
    ];
    units(inputs, width).compute(py, &mut out, |rows, [q, k, v, g, beta], out, cpu| {
        let (own, segments) = sequences.of(rows);
        let op = GatedDeltaRule {
            q: Columns::whole(q, group),
            k: Columns::whole(k, group),
            v: Columns::whole(v, width),
            g: Columns::whole(g, heads),
            beta: Columns::whole(beta, heads),
            groups,
            scale,
            qk_l2norm,
            segments: &segments,
        };
        op.cpu(&mut per_sequence(state, batch)[own], out, cpu)
    })
}

/// `out [H] = -exp(a_log [H])`.
#[pyfunction]
pub(crate) fn decay_rates(py: Python<'_>, a_log: Tensor<'_>, mut out: Tensor<'_>) -> PyResult<()> {
    shape::check("decay_rates", "out", &out, "as a_log", &a_log.shape)?;
    let a_log = a_log.f32s("decay_rates: a_log")?;
    let a_log = &a_log[..];
    compute(py, &mut out, |out, _| {
        let _guard = fp_env::Guard::new();
        out.copy_from_slice(&rates_of(a_log));
        Ok(())
    })
}

/// `out [B, T, H, V]` of `q` and `k [B, T, H, K]`, `v [B, T, H, V]`; `state [B, H, K, V + 1]` f32 is advanced.
#[pyfunction]
pub(crate) fn linear_attention(
    py: Python<'_>,
    q: Tensor<'_>,
    k: Tensor<'_>,
    v: Tensor<'_>,
    mut state: Tensor<'_>,
    mut out: Tensor<'_>,
) -> PyResult<()> {
    const OP: &str = "linear_attention";
    let [batch, tokens, heads, keys] = shape::dims(OP, "q", &q, "[B, T, H, K]")?;
    shape::check(OP, "k", &k, "as q", &q.shape)?;
    let [_, _, _, values] = shape::dims(OP, "v", &v, "[B, T, H, V]")?;
    shape::check(OP, "v", &v, "[B, T, H, V]", &[batch, tokens, heads, values])?;
    let state_shape = [batch, heads, keys, values + 1];
    shape::check(OP, "state", &state, "[B, H, K, V + 1]", &state_shape)?;
    shape::check(OP, "out", &out, "as v", &v.shape)?;
    state.check_apart("linear_attention: state", &[&q, &k, &v])?;
    let (q, k) = (
        q.source("linear_attention: q")?,
        k.source("linear_attention: k")?,
    );
    let v = v.source("linear_attention: v")?;
    let state = state.f32s_mut("linear_attention: state")?;
    let sequences = Sequences {
        batch,
        tokens,
        start: 0,
    };
    let (width, value_width) = (heads * keys, heads * values);
    let inputs = [(&q, width), (&k, width), (&v, value_width)];
    units(inputs, value_width).compute(py, &mut out, |rows, [q, k, v], out, cpu| {
        let (own, segments) = sequences.of(rows);
        let op = LinearAttention {
            q: Columns::whole(q, width),
            k: Columns::whole(k, width),
            v: Columns::whole(v, value_width),
            heads,
            segments: &segments,
        };
        op.cpu(&mut per_sequence(state, batch)[own], out, cpu)
    })
}

/// `out [B, T, H, K]` of `q [B, T, H, K]`, `k` and `v [B, S, HK, K]`: causal, the last query at the last key.
#[pyfunction]
pub(crate) fn attention(
    py: Python<'_>,
    q: Tensor<'_>,
    k: Tensor<'_>,
    v: Tensor<'_>,
    split: usize,
    mut out: Tensor<'_>,
) -> PyResult<()> {
    const OP: &str = "attention";
    let [batch, tokens, heads, head_dim] = shape::dims(OP, "q", &q, "[B, T, H, K]")?;
    let [_, keys, kv_heads, _] = shape::dims(OP, "k", &k, "[B, S, HK, K]")?;
    let kv_shape = [batch, keys, kv_heads, head_dim];
    shape::check(OP, "k", &k, "[B, S, HK, K]", &kv_shape)?;
    shape::check(OP, "v", &v, "[B, S, HK, K]", &kv_shape)?;
    shape::check(OP, "out", &out, "as q", &q.shape)?;
    if keys < tokens {
        return Err(argument(format!(
            "{OP}: k has {keys} tokens, expected at least the {tokens} of q"
        )));
    }
    let is_bf16 = [&q, &k, &v]
        .iter()
        .all(|tensor| tensor.element == Element::BF16);
    let config = KvCacheConfig {
        num_key_value_heads: kv_heads,
        head_dim,
        kind: if is_bf16 {
            OperandKind::Bf16
        } else {
            OperandKind::F32
        },
        dtype: if is_bf16 { KvDtype::Bf16 } else { KvDtype::F32 },
        k_scale: 1.0,
        v_scale: 1.0,
    };
    let (q, k) = (q.f32s("attention: q")?, k.f32s("attention: k")?);
    let v = v.f32s("attention: v")?;
    let (q, k, v) = (&q[..], &k[..], &v[..]);
    compute(py, &mut out, |out, cpu| {
        let mut caches = Vec::with_capacity(batch);
        for b in 0..batch {
            let mut cache = KvCache::new(config)?;
            let width = kv_heads * head_dim;
            let rows = b * keys..(b + 1) * keys;
            cache.append(Columns::whole(k, width), Columns::whole(v, width), rows)?;
            caches.push(cache);
        }
        let caches: Vec<&KvCache> = caches.iter().collect();
        let sequences = Sequences {
            batch,
            tokens,
            start: keys - tokens,
        };
        let op = Attention {
            q: Columns::whole(q, heads * head_dim),
            segments: &sequences.all(),
            caches: &caches,
            num_attention_heads: heads,
            split,
        };
        op.cpu(out, cpu)
    })
}

/// `out [B, QH, T, V]` of `q [B, QH, T, K]`, `k [B, KVH, S, K]`, `v [B, KVH, S, V]` and a mask `[B, QH, T, S]`, bool or
/// f32, of which all extents but the last may be 1.
#[pyfunction]
#[pyo3(signature = (q, k, v, mask, is_causal, scale, out))]
pub(crate) fn sdpa(
    py: Python<'_>,
    q: Tensor<'_>,
    k: Tensor<'_>,
    v: Tensor<'_>,
    mask: Option<Tensor<'_>>,
    is_causal: bool,
    scale: Option<f32>,
    mut out: Tensor<'_>,
) -> PyResult<()> {
    const OP: &str = "scaled_dot_product_attention";
    let [batch, heads, queries, head_dim] = dims4(OP, "q", &q)?;
    let [_, kv_heads, keys, value_dim] = dims4(OP, "v", &v)?;
    let k_shape = [batch, kv_heads, keys, head_dim];
    shape::check(OP, "k", &k, "[B, KVH, S, K]", &k_shape)?;
    let v_shape = [batch, kv_heads, keys, value_dim];
    shape::check(OP, "v", &v, "[B, KVH, S, V]", &v_shape)?;
    let out_shape = [batch, heads, queries, value_dim];
    shape::check(OP, "out", &out, "[B, QH, T, V]", &out_shape)?;
    let (admitted, bias);
    let mask = match &mask {
        None if is_causal => Mask::Causal,
        None => Mask::None,
        Some(_) if is_causal => {
            return Err(argument(format!(
                "{OP}: there are a mask and is_causal, expected one of them"
            )));
        }
        Some(mask) => {
            let [batch, heads, rows, _] = dims4(OP, "mask", mask)?;
            let expected = [batch, heads, rows, keys];
            shape::check(OP, "mask", mask, "[B, QH, T, S]", &expected)?;
            if mask.element == Element::BOOL {
                admitted = mask.bytes().iter().map(|&b| b != 0).collect::<Vec<_>>();
                Mask::Admitted(Broadcast {
                    data: &admitted,
                    batch,
                    heads,
                    rows,
                })
            } else {
                bias = mask.f32s("scaled_dot_product_attention: mask")?;
                Mask::Bias(Broadcast {
                    data: &bias,
                    batch,
                    heads,
                    rows,
                })
            }
        }
    };
    let kind = match [&q, &k].iter().all(|x| x.element == Element::BF16) {
        true => OperandKind::Bf16,
        false => OperandKind::F32,
    };
    let (q, k, v) = (q.row_source(OP)?, k.row_source(OP)?, v.row_source(OP)?);
    let op = Sdpa {
        kind,
        q: heads_of(&q),
        k: heads_of(&k),
        v: heads_of(&v),
        mask,
        scale,
        batch,
        heads,
        kv_heads,
        queries,
        keys,
        head_dim,
        value_dim,
    };
    native(py, &mut out, |out, cpu| op.cpu(out, cpu))
}

fn heads_of<'a>(rows: &'a RowSource<'_>) -> Heads<'a> {
    let (values, strides) = rows.rows();
    Heads {
        values,
        strides: [strides[0], strides[1], strides[2]],
    }
}

/// The dimensions of an array that has four.
fn dims4(op: &str, name: &str, array: &Tensor<'_>) -> PyResult<[usize; 4]> {
    <[usize; 4]>::try_from(&array.shape[..]).map_err(|_| {
        argument(format!(
            "{op}: {name} has shape {:?}, expected four dimensions",
            array.shape
        ))
    })
}

/// `out [B, T, H, K]`: `x` with its pairs turned; the first token is at position `start`. The frequencies `[R / 2]` are
/// those of `theta` and `rotary_dim` where not given.
#[pyfunction]
#[pyo3(signature = (x, start, theta, rotary_dim, inverse_frequencies, out))]
pub(crate) fn rope(
    py: Python<'_>,
    x: Tensor<'_>,
    start: usize,
    theta: f64,
    rotary_dim: usize,
    inverse_frequencies: Option<Vec<f64>>,
    mut out: Tensor<'_>,
) -> PyResult<()> {
    let [batch, tokens, heads, head_dim] = shape::dims("rope", "x", &x, "[B, T, H, K]")?;
    shape::check("rope", "out", &out, "as x", &x.shape)?;
    let frequencies = match inverse_frequencies {
        Some(given) => {
            if let Some(f) = given.iter().find(|f| !f.is_finite()) {
                return Err(argument(format!(
                    "rope: an inverse frequency is {f}, expected finite ones"
                )));
            }
            given
        }
        None => RopeConfig {
            theta,
            rotary_dim,
            scaling: RopeScaling::None,
        }
        .inverse_frequencies()
        .map_err(argument)?,
    };
    let x = x.source("rope: x")?;
    let sequences = Sequences {
        batch,
        tokens,
        start,
    };
    let mut table = RopeTable::default();
    let width = heads * head_dim;
    units([(&x, width)], width).compute(py, &mut out, |rows, [x], out, cpu| {
        table.fill(&frequencies, &sequences.of(rows).1);
        out.copy_from_slice(x);
        let table = &table;
        Rope { table, head_dim }.cpu(out, cpu)
    })
}
