"""Sections 3 and 7 to 9: linear, causal convolution, the Mamba-2 recurrence, attention, MLP and mixture of experts.

Rows are the first axis. Every row is computed from its own inputs; working on many at once only saves Python's time.
"""

import numpy as np

from . import functions, quant, reduce, rng
from .arith import F32, F64, bf16_to_f32, canonical, f32, f32_to_bf16, fma, max_last, maximum, minimum, operand, operand_bf16


class Linear:
    """y = x W^T (+ bias), with the weight prepared for one operand kind."""

    def __init__(self, weight, kind, bias=None, odd_first=True):
        self.kind, self.bias, self.odd_first = kind, bias, odd_first
        columns = np.ascontiguousarray(f32(weight).T)                  # [in, out]
        self.columns = operand(columns) if kind == "bf16" else columns.astype(F64)

    def __call__(self, x):
        x = operand(x) if self.kind == "bf16" else x.astype(F64)
        rows, outputs = len(x), self.columns.shape[1]
        a = np.ascontiguousarray(x.T)[:, :, None]
        y = np.empty((rows, outputs), F32)
        width = max(16384 // max(rows, 1), 64)                         # keeps the arrays of a step small; no effect on values
        for n in range(0, outputs, width):
            b = self.columns[:, None, n : n + width]
            y[:, n : n + width] = reduce.dot_leading(a, b, self.kind, odd_first=self.odd_first)
        return canonical(y if self.bias is None else y + self.bias)


class QuantizedLinear:
    """Section 3.1: `codes` [N, K] are values; `scales` and `offsets` [N, K / block] or None; `factors` [N].

    `folded` multiplies scales into weights, which is the wrong order, for a control.
    """

    def __init__(self, codes, kind, factors, scales=None, offsets=None, bias=None, folded=False):
        self.kind, self.factors, self.bias = kind, factors, bias
        self.codes, self.scales, self.offsets = codes, scales, offsets
        if folded:
            self.codes, self.scales = codes * np.repeat(scales, codes.shape[1] // scales.shape[1], axis=1), None

    def _chain(self, x, q):
        """x [M, 1, n] and q [N, n] from +0, n at most 256."""
        return reduce.dot(x[:, None, :], q[None], self.kind)

    def _total(self, x):
        k = x.shape[1]
        tot = np.zeros((len(x), len(self.codes)), F32)
        for start in range(0, k, 256):
            end = min(start + 256, k)
            if self.scales is None:
                tot = tot + self._chain(x[:, start:end], self.codes[:, start:end])
                continue
            block = k // self.scales.shape[1]
            acc = np.zeros_like(tot)
            for at in range(start, end, block):
                run = slice(at, at + block)
                acc = fma(self.scales[:, at // block], self._chain(x[:, run], self.codes[:, run]), acc)
                if self.offsets is not None:
                    acc = fma(self.offsets[:, at // block], self._chain(x[:, run], np.ones((1, block), F32)), acc)
            tot = tot + acc
        return tot

    def __call__(self, x):
        y = self._total(operand(x) if self.kind == "bf16" else f32(x)) * self.factors
        return canonical(y if self.bias is None else y + self.bias)

    def rows(self, ids):
        """The table's rows, for tied embeddings."""
        block = self.codes.shape[1] // self.scales.shape[1] if self.scales is not None else 1
        wide = lambda v, absent: F32(absent) if v is None else np.repeat(v[ids], block, axis=1)
        return canonical(fma(wide(self.scales, 1), self.codes[ids], wide(self.offsets, 0)) * self.factors[ids][:, None])


def causal_conv1d(rows, weight, bias, kernel):
    """`rows` starts with the kernel - 1 rows before the first output row. Then silu."""
    count = len(rows) - (kernel - 1)
    acc = np.zeros((count, rows.shape[1]), F32)
    if bias is not None:
        acc[:] = bias
    for k in range(kernel):
        acc = fma(weight[..., k], rows[k : k + count], acc)            # [C, K], or [T, C, K]: a kernel for each row
    return functions.silu(acc)


def ssm_scan(x, dt, decay, b, c, skip, state):
    """x [T, H, P], dt and decay [T, H], b and c [T, H, N], state [H, P, N]; returns y and the last state."""
    states = np.empty(x.shape + (b.shape[-1],), F32)
    for t in range(len(x)):
        v = dt[t][:, None] * x[t]
        state = canonical(fma(decay[t][:, None, None], state, v[:, :, None] * b[t][:, None, :]))
        states[t] = state
    y = reduce.dot(states, c[:, :, None, :], "f32", block=32)
    return canonical(fma(skip[:, None], x, y)), state


def gated_delta_rule(q, k, v, g, beta, scale, state, qk_l2norm=True):
    """q and k [T, H, K], v [T, H, V], g and beta [T, H], state [H, K, V]; returns o and the last state."""
    if qk_l2norm:
        unit = lambda x: x * functions.rsqrt(reduce.sum_of_squares(x) + F32(1e-6))[..., None]
        q, k = unit(q), unit(k)
    q, decay = q * F32(scale), functions.exp(g)
    out = np.empty(v.shape, F32)
    columns = lambda x, s: reduce.dot(np.broadcast_to(x[:, None, :], s.shape), s, "f32")
    for t in range(len(q)):
        s = np.swapaxes(decay[t][:, None, None] * state, 1, 2)         # [H, V, K]
        u = beta[t][:, None] * (v[t] - columns(k[t], s))
        s = canonical(fma(k[t][:, None, :], u[:, :, None], s))
        out[t] = canonical(columns(q[t], s))
        state = np.swapaxes(s, 1, 2)
    return out, state


def linear_attention(q, k, v, state):
    """q and k [T, H, K], v [T, H, V], state [H, K, V + 1], z last; returns y and the last state."""
    feature = lambda x: np.where(x > 0, x + F32(1), functions.exp(x))
    q, k, y = feature(q), feature(k), np.empty(v.shape, F32)
    s, z = state[..., :-1], state[..., -1]
    for t in range(len(q)):
        s = canonical(fma(k[t][:, :, None], v[t][:, None, :], s))
        z = canonical(z + k[t])
        columns = np.swapaxes(s, 1, 2)                                 # [H, V, K]
        n = reduce.dot(np.broadcast_to(q[t][:, None, :], columns.shape), columns, "f32")
        y[t] = canonical(n / (reduce.sum_last(q[t] * z) + F32(1e-6))[:, None])
    return y, np.concatenate([s, z[..., None]], axis=-1)


class KvCache:
    """Rows of K and V of one layer in the cache's dtype; `stored()` gives them as the bits they are kept in."""

    def __init__(self, heads, width, kind, dtype, scales=(1, 1)):
        self.kind, self.dtype, self.width = kind, dtype, width
        self.k_scale, self.v_scale = map(F32, scales)
        store = {"f32": F32, "bf16": np.uint16}.get(dtype, np.uint8)
        length = width * 9 // 16 if dtype == "nvfp4" else width
        self.k = np.zeros((0, heads, length), store)
        self.v = np.zeros((0, heads, length), store)

    def append(self, k, v):
        if self.dtype in ("fp8", "nvfp4"):
            k, v = self._codes(k / self.k_scale), self._codes(v / self.v_scale)
        if self.dtype == "bf16":
            k = operand_bf16(k) if self.kind == "bf16" else f32_to_bf16(k)
            v = f32_to_bf16(v)
        self.k, self.v = np.concatenate([self.k, k]), np.concatenate([self.v, v])

    def _codes(self, x):
        """Rows of bytes: E4M3 codes, or pairs of E2M1 codes and then the scales of the blocks."""
        if self.dtype == "fp8":
            return quant.e4m3(x)
        scale, codes = quant.nvfp4_kv(x.reshape(*x.shape[:2], -1, 16))
        return np.concatenate([quant.pack(codes).reshape(*x.shape[:2], -1), scale], axis=-1)

    def _decoded(self, rows):
        if self.dtype == "fp8":
            return quant.e4m3_value(rows)
        pairs, scale = np.split(rows, [self.width // 2], axis=-1)
        codes = np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(*scale.shape, 16)
        return quant.nvfp4_values(scale, codes).reshape(*rows.shape[:2], self.width)

    def values(self):
        if self.dtype in ("fp8", "nvfp4"):
            k, v = self._decoded(self.k), self._decoded(self.v)
            return (operand(k) if self.kind == "bf16" else k), v
        if self.dtype == "bf16":
            return bf16_to_f32(self.k), bf16_to_f32(self.v)
        return (operand(self.k) if self.kind == "bf16" else self.k), self.v


def attention(q, cache, kind, split):
    """q [T, QH, hd], the last T rows of the cache being theirs."""
    rows, heads, width = q.shape
    k, v = cache.values()
    first = len(k) - rows                                              # absolute position of row 0
    group = heads // k.shape[1]
    of_head = np.arange(heads) // group
    scale = F32(1) / np.sqrt(F32(width)) * cache.k_scale
    if kind == "bf16":
        q = operand(q)
    m = np.full((rows, heads), -np.inf, F32)
    l = np.zeros((rows, heads), F32)
    o = np.zeros((rows, heads, width), F32)
    for start in range(0, len(k), split):
        end = min(start + split, len(k))
        low = max(start - first, 0)                                    # rows before this one admit no key of the block
        t = np.arange(low, rows) + first
        admitted = (np.arange(start, end)[None, :] <= t[:, None])[:, None, :]
        kb = k[start:end][:, of_head].transpose(1, 0, 2)[None]         # [1, QH, keys, hd]
        s = scale * reduce.dot(q[low:, :, None, :], kb, kind)
        mb = max_last(np.where(admitted, s, F32(-np.inf)))
        p = np.where(admitted, functions.exp(s - mb[..., None]), F32(0))
        lb = reduce.sum_last(p)
        ob = np.zeros((rows - low, heads, width), F32)
        for j in range(start, end):
            i = max(j - first, low) - low                              # rows from i on admit key j
            ob[i:] = fma(p[i:, :, j - start, None], v[j][of_head], ob[i:])
        new = maximum(m[low:], mb)
        a, b = functions.exp(m[low:] - new), functions.exp(mb - new)
        l[low:] = fma(l[low:], a, lb * b)
        o[low:] = fma(o[low:], a[..., None], ob * b[..., None])
        m[low:] = new
    return canonical(o / l[..., None] * cache.v_scale).reshape(rows, heads * width)


def rope_frequencies(theta, rotary, scaling=None):
    """Radians per position of each pair, binary64; `scaling` is the checkpoint's object."""
    scaling = scaling or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    out = []
    for i in range(rotary // 2):
        f = 1.0 / functions.pow64(float(theta), (2 * i) / rotary)
        if kind == "linear":
            f = f / float(scaling["factor"])
        if kind == "llama3":
            context, low, high = (float(scaling[k]) for k in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor"))
            wave = functions.TWO_PI / f
            if wave > context / low:
                f = f / float(scaling["factor"])
            elif wave >= context / high:
                s = (context / wave - low) / (high - low)
                f = ((1.0 - s) * f) / float(scaling["factor"]) + s * f
        out.append(f)
    return out


def rope(x, frequencies, first):
    """x [T, heads, hd], row 0 at absolute position `first`."""
    half = len(frequencies)
    angles = np.arange(first, first + len(x), dtype=F64)[:, None] * np.array(frequencies, F64)
    c, s = (call(angles).astype(F32)[:, None, :] for call in (functions.cos64, functions.sin64))
    a, b = x[..., :half], x[..., half : 2 * half]
    turned = [canonical(fma(a, c, -(b * s))), canonical(fma(b, c, a * s)), x[..., 2 * half :]]
    return np.concatenate(turned, axis=-1)


class Mlp:
    def __init__(self, up, down, gate=None):
        self.up, self.down, self.gate = up, down, gate

    def __call__(self, x):
        if self.gate:
            return self.down(canonical(functions.silu(self.gate(x)) * self.up(x)))
        return self.down(functions.relu2(self.up(x)))


class Router:
    def __init__(self, gate, correction, top_k, groups, kept_groups, normalise, factor, layer, tie_rule="lowest_id"):
        self.gate, self.correction = Linear(gate, "f32"), correction
        self.top_k, self.groups, self.kept_groups = top_k, groups, kept_groups
        self.normalise, self.factor = normalise, F32(factor)
        self.layer, self.tie_rule = layer, tie_rule

    def __call__(self, u, first_position):
        """For every row its experts, ascending, with their weights."""
        score = functions.sigmoid(self.gate(u))
        pick = score + self.correction
        if np.isnan(pick).any():
            raise ValueError("NaN in the router")
        return [self._row(score[i], pick[i], first_position + i) for i in range(len(u))]

    def _row(self, score, pick, position):
        experts = range(len(pick))
        if self.groups > 1:
            width = len(pick) // self.groups
            group_score = []
            for g in range(self.groups):
                best = sorted(pick[g * width : (g + 1) * width], key=float, reverse=True)[:2]
                group_score.append(best[0] + best[1] if len(best) == 2 else best[0])
            kept = sorted(range(self.groups), key=lambda g: (-float(group_score[g]), g))[: self.kept_groups]
            experts = [e for e in experts if e // width in kept]
        tie = (lambda e: rng.tie_hash(self.layer, position, e)) if self.tie_rule == "hash" else (lambda e: 0)
        chosen = sorted(experts, key=lambda e: (-float(pick[e]), tie(e), e))[: self.top_k]
        chosen.sort()
        weights = [score[e] for e in chosen]
        if self.normalise:
            total = F32(0)
            for w in weights:
                total = total + w
            weights = [w / (total + F32(1e-20)) for w in weights]
        return [(e, w * self.factor) for e, w in zip(chosen, weights)]


class Moe:
    def __init__(self, router, experts, shared, to_latent=None, from_latent=None):
        self.router, self.experts, self.shared = router, experts, shared
        self.to_latent, self.from_latent = to_latent, from_latent

    def __call__(self, u, first_position):
        chosen = self.router(u, first_position)
        inside = self.to_latent(u) if self.to_latent else u
        acc = np.zeros_like(inside)
        for e in range(len(self.experts)):                             # ascending for every row
            rows = [i for i, row in enumerate(chosen) if any(e == other for other, _ in row)]
            if rows:
                w = np.array([dict(chosen[i])[e] for i in rows], F32)
                acc[rows] = fma(w[:, None], self.experts[e](inside[rows]), acc[rows])
        out = canonical(acc)
        if self.from_latent:
            out = self.from_latent(out)
        return canonical(out + self.shared(u))


def time_step(raw, bias, low, high):
    return minimum(maximum(functions.softplus(raw + bias), F32(low)), F32(high))
