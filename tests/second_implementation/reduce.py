"""Sections 2 (cumsum), 3 (dot products) and 4 (row reductions). The last axis is the reduced one."""

import numpy as np

from .arith import F32, F64, canonical, f32, fma, fma64, max_last, operand
from . import functions


def dot_leading(a, b, kind, block=256, odd_first=True):
    """dot over the leading axis of two broadcastable arrays, before the NaN becomes canonical.

    With the bf16 kind both sides have been through operand(). `odd_first=False` is the wrong order, for the positive control.
    """
    count = a.shape[0]
    shape = np.broadcast_shapes(a.shape[1:], b.shape[1:])
    total = np.zeros(shape, F32)
    if kind == "f32":
        a, b = a.astype(F64, copy=False), b.astype(F64, copy=False)
        for start in range(0, count, block):
            p = np.zeros(shape, F64)
            for k in range(start, min(start + block, count)):
                p = fma64(a[k], b[k], p)
            total = total + p.astype(F32)
        return total
    if kind != "bf16":
        raise ValueError(kind)
    # Products of operands are exact in f32 unless they overflow; only then does an fma differ from a product and a sum.
    with_nan = [float(np.max(np.abs(v[np.isfinite(v)]), initial=0)) for v in (a, b)]
    if with_nan[0] * with_nan[1] < 2.0**127:
        step = lambda x, y, p: p + x * y
    else:
        step = fma
    zero = np.zeros((), F32)
    for start in range(0, count, block):
        p = np.zeros(shape, F32)
        end = min(start + block, count)
        for k in range(start, end, 2):
            even, odd = (a[k], b[k]), (a[k + 1], b[k + 1]) if k + 1 < end else (zero, zero)
            for x, y in (odd, even) if odd_first else (even, odd):
                p = step(x, y, p)
        total = total + p
    return total


def dot(a, b, kind, block=256, odd_first=True):
    lead = lambda v: np.ascontiguousarray(np.moveaxis(f32(v), -1, 0))
    return dot_leading(lead(a), lead(b), kind, block, odd_first)


def dot_long(a, b, kind, block=256, odd_first=True):
    """The same for two long vectors: the whole blocks side by side, the last one apart."""
    whole = len(a) // block
    total = F32(0)
    if whole:
        shape = (whole, block)
        parts = dot(a[: whole * block].reshape(shape), b[: whole * block].reshape(shape), kind, block, odd_first)
        for p in parts:
            total = total + p                       # each part is +0 + p, which is p: no chain ends in -0
    if whole * block < len(a):
        total = total + dot(a[whole * block :], b[whole * block :], kind, block, odd_first)
    return F32(total)


BLOCK, LANES = 1024, 32


def _block(x, squares):
    """One block, or many whole ones: lanes, then the tree."""
    n = x.shape[-1]
    lane = np.zeros(x.shape[:-1] + (LANES,), F32)
    for start in range(0, n, LANES):
        part = x[..., start : start + LANES]
        width = part.shape[-1]
        old = lane[..., :width]
        lane[..., :width] = fma(part, part, old) if squares else old + part
    h = LANES // 2
    while h:
        lane[..., :h] = lane[..., :h] + lane[..., h : 2 * h]
        h //= 2
    return lane[..., 0]


def sum_last(x, squares=False):
    x = f32(x)
    n = x.shape[-1]
    if n == 0:
        return np.zeros(x.shape[:-1], F32)
    whole = n // BLOCK
    parts = []
    if whole:
        parts.append(_block(x[..., : whole * BLOCK].reshape(x.shape[:-1] + (whole, BLOCK)), squares))
    if whole * BLOCK < n:
        parts.append(_block(x[..., whole * BLOCK :], squares)[..., None])
    results = np.concatenate(parts, axis=-1)
    return results[..., 0] if results.shape[-1] == 1 else sum_last(results)


def sum_of_squares(x):
    return sum_last(x, squares=True)


def cumsum(x, block=256):
    """Of one row."""
    x = f32(x)
    n = len(x)
    padded = np.zeros(-(-n // block) * block, F32)
    padded[:n] = x
    rows = padded.reshape(-1, block)
    inside = np.zeros_like(rows)
    c = np.zeros(len(rows), F32)
    for i in range(block):
        c = c + rows[:, i]
        inside[:, i] = c
    out = np.zeros_like(rows)
    offset = F32(0)
    for i in range(len(rows)):
        out[i] = offset + inside[i]
        offset = offset + inside[i, -1]            # only used by whole blocks
    return canonical(out.ravel()[:n])


def softmax(x):
    p = functions.exp(f32(x) - max_last(x)[..., None])
    return canonical(p / sum_last(p)[..., None])


def log_softmax(x):
    m = max_last(x)[..., None]
    shifted = f32(x) - m
    return canonical(shifted - functions.log(sum_last(functions.exp(shifted)))[..., None])


def rms_norm(x, weight, eps):
    mean = sum_of_squares(x) / F32(x.shape[-1])
    r = F32(1) / np.sqrt(mean + F32(eps))
    return canonical((x * r[..., None]) * weight)


def gated_rms_norm(y, z, weight, groups, eps):
    g = y * functions.silu(z)
    shape = g.shape[:-1] + (groups, g.shape[-1] // groups)
    return rms_norm(g.reshape(shape), weight.reshape(shape[-2:]), eps).reshape(g.shape)


__all__ = ["dot", "dot_leading", "dot_long", "sum_last", "sum_of_squares", "cumsum", "softmax", "log_softmax", "rms_norm", "gated_rms_norm", "operand"]
