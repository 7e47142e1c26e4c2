"""Section 13: the operators of PyTorch models. Arrays have PyTorch's shapes."""

import itertools

import numpy as np

from . import functions, reduce, rng
from .arith import F32, F64, canonical, f32, fma, max_last, maximum, neg, operand


def conv(x, weight, bias, kind, stride, padding, dilation, groups, output_padding=None, tap_fastest=False):
    """x [B, C, D, H, W]; output by output. `tap_fastest` is the wrong order of k, for a control."""
    batch, channels, *size = x.shape
    kernel = weight.shape[2:]
    inputs = channels // groups
    if output_padding is None:
        outputs = weight.shape[0]
        out = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in zip(size, padding, dilation, kernel, stride)]
    else:
        outputs = weight.shape[1] * groups
        out = [(n - 1) * s - 2 * p + d * (k - 1) + m + 1 for n, p, d, k, s, m in zip(size, padding, dilation, kernel, stride, output_padding)]
    if kind == "bf16":
        x, weight = operand(x), operand(weight)
    y = np.zeros((batch, outputs, *out), F32)
    each = outputs // groups
    for o in itertools.product(*map(range, out)):
        taps = []                                                        # (tap, the input it reads or None)
        for tap in itertools.product(*map(range, kernel)):
            if output_padding is None:
                at = [i * s + t * d - p for i, s, t, d, p in zip(o, stride, tap, dilation, padding)]
            else:
                steps = [i + p - t * d for i, t, d, p in zip(o, tap, dilation, padding)]
                if any(step % s for step, s in zip(steps, stride)):
                    continue
                at = [step // s for step, s in zip(steps, stride)]
            taps.append((tap, tuple(at) if all(0 <= a < n for a, n in zip(at, size)) else None))
        for g in range(groups):
            c = slice(g * inputs, (g + 1) * inputs)
            n = slice(g * each, (g + 1) * each)
            if not taps:
                continue
            a = np.stack([np.zeros((batch, inputs), F32) if at is None else x[(slice(None), c, *at)] for _, at in taps])
            if output_padding is None:
                b = np.stack([weight[(n, slice(None), *tap)] for tap, _ in taps])              # [taps, N/g, C/g]
            else:
                b = np.stack([weight[(c, slice(None), *tap)].T for tap, _ in taps])
            order = (2, 0, 1) if tap_fastest else (0, 2, 1)              # k = (tap, c), c fastest
            a, b = (np.transpose(v, order).reshape(-1, v.shape[1]) for v in (a, b))
            y[(slice(None), n, *o)] = reduce.dot_leading(a[:, :, None], b[:, None, :], kind)
    if bias is not None:
        y = y + f32(bias)[None, :, None, None, None]
    return canonical(y)


def matmul(a, b, kind, odd_first=True):
    """[B, M, K] x [B, K, N]"""
    if kind == "bf16":
        a, b = operand(a), operand(b)
    return canonical(reduce.dot_leading(np.moveaxis(a, 2, 0)[:, :, :, None], np.moveaxis(b, 1, 0)[:, :, None, :], kind, odd_first=odd_first))


def _standardize(rows, eps, one_pass=False):
    count = F32(rows.shape[-1])
    mean = reduce.sum_last(rows) / count
    d = rows - mean[..., None]
    variance = reduce.sum_of_squares(rows) / count - mean * mean if one_pass else reduce.sum_of_squares(d) / count
    r = F32(1) / np.sqrt(variance + F32(eps))
    return d * r[..., None]


def similarity(left, right, columns_first=False):
    """The mean squared difference and SSIM of two images [H, W, C]; section 13.9. `columns_first` is a control."""
    left, right = left.astype(F64), right.astype(F64)
    squares = F64(0)
    for l, r in zip(left.ravel(), right.ravel()):
        squares += (l - r) * (l - r)
    height, width, channels = left.shape
    total, windows = F64(0), 0
    for c, y, x in itertools.product(range(channels), range(height - 6), range(width - 6)):
        l, r = left[y : y + 7, x : x + 7, c], right[y : y + 7, x : x + 7, c]
        values = np.stack([l, r, l * l, r * r, l * r])
        if columns_first:
            values = values.transpose(0, 2, 1)
        rows, sums = np.zeros((5, 7), F64), np.zeros(5, F64)
        for i in range(7):
            rows = rows + values[:, :, i]
        for i in range(7):
            sums = sums + rows[:, i]
        ml, mr, mll, mrr, mlr = sums / F64(49)
        s = F64(49) / F64(48)
        var_l, var_r, cov = s * (mll - ml * ml), s * (mrr - mr * mr), s * (mlr - ml * mr)
        c1, c2 = F64(0.01) * F64(0.01), F64(0.03) * F64(0.03)
        total += ((2 * ml * mr + c1) * (2 * cov + c2)) / ((ml * ml + mr * mr + c1) * (var_l + var_r + c2))
        windows += 1
    return np.array([squares / left.size, total / windows], F64)


def randn(seed, image, step, size, rows_first=False):
    """[C, T, H, W] of one image; section 6. `rows_first` counts the places row after row, for a control."""
    places = np.array(list(itertools.product(*map(range, size))), dtype=np.uint64).reshape(-1, 4)
    y = np.zeros(len(places), F32)
    for n, (c, t, row, x) in enumerate(places.tolist()):
        position = (n // 4) if rows_first else (c << 48 | t << 32 | row << 16 | x // 4)
        w = rng.words(seed, position, image, 2 + 256 * step)
        a, b = w[:2] if x % 4 < 2 else w[2:]
        u = fma(F32(a), F32(2.0**-32), F32(2.0**-33))
        r = np.sqrt(F32(-2) * functions.log(u))
        theta = (F32(b >> 8) * F32(2.0**-24)) * np.uint32(0x40C90FDB).view(F32)
        y[n] = r * (functions.sin(theta) if x % 2 else functions.cos(theta))
    return y.reshape(size)


def sampler(name, denoise, noise, sigmas, x, flow, eta, s_noise):
    """A walk of section 13.8; `denoise(x, sigma)` and `noise(step)` give f32 arrays."""
    near_one = 0.9999
    log = lambda v: float(functions.log(np.array([v], F32))[0])
    power = lambda v, e: float(pow_scalar(np.array([v], F32), F32(e))[0])
    toward = lambda x, d, a, t: d + (x - d) * F32(t / a)
    signal = lambda v: 1.0 - v if flow else 1.0
    last, last_length = None, None
    for i, (a, b) in enumerate(zip(sigmas[:-1], sigmas[1:])):
        d = denoise(x, a)
        up = 0.0
        if name == "euler":
            x = toward(x, d, a, b)
        elif name == "dpmpp_2m":
            length = log(a / b) if b else 0.0
            x = toward(x, d + (d - last) * F32(length / (2 * last_length)) if i and b else d, a, b)
            last_length = length
        elif name == "dpmpp_2m_sde":
            if not b:
                return d
            near = min(a, near_one) if flow else a
            fall = (b * signal(near)) / (near * signal(b))
            length, gain = -log(fall), signal(b) * (1 - power(fall, 1 + eta))
            y = x * F32((b / a) * power(fall, eta)) + d * F32(gain)
            x = y + (d - last) * F32((gain * length) / (2 * last_length)) if i else y
            up, last_length = b * np.sqrt(1 - power(fall, 2 * eta)), length
        else:
            if flow:
                down = b * (1 + (b / a - 1) * eta)
                keep = (1 - b) / (1 - down)
                up = np.sqrt(max(b * b - down * down * keep * keep, 0.0))
            else:
                up = min(b, eta * np.sqrt((b * b * (a * a - b * b)) / (a * a)))
                down, keep = np.sqrt(b * b - up * up), 1.0
            if name == "dpmpp_2s_ancestral" and down > 0:
                middle = (near_one if a >= 1 else 1 / (1 + np.sqrt((1 - a) / a * (1 - down) / down))) if flow else np.sqrt(a * down)
                d = denoise(toward(x, d, a, middle), middle)
            x = toward(x, d, a, down)
            x = x * F32(keep) if keep != 1 else x
        if up * s_noise > 0:
            x = x + noise(i) * F32(up * s_noise)
        last = d
    return x


def layer_norm(x, weight, bias, eps, weight_first=False):
    if weight_first:                                                   # for a control
        return canonical((_standardize(x, eps) + bias / weight) * weight)
    return canonical(_standardize(x, eps) * weight + bias)


def group_norm(x, groups, weight, bias, eps, one_pass=False):
    """x [B, C, S]"""
    y = _standardize(x.reshape(len(x), groups, -1), eps, one_pass).reshape(x.shape)
    return canonical(y * weight[:, None] + bias[:, None])


def reduction(name, x, correction=0, ascending=False):
    """x [O, n, I]; one chain for `ascending`, for a control."""
    rows = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    count = rows.shape[-1]

    def total(rows, squares=False):
        if not ascending:
            return reduce.sum_last(rows, squares)
        acc = np.zeros(rows.shape[:-1], F32)
        for i in range(count):
            acc = acc + (rows[..., i] * rows[..., i] if squares else rows[..., i])
        return acc

    if name == "sum":
        return canonical(total(rows))
    if name == "sum_of_squares":
        return canonical(total(rows, True))
    if name == "amax":
        return max_last(rows)
    if name == "amin":
        return neg(max_last(neg(rows)))                                # no NaN among the golden inputs
    mean = total(rows) / F32(count)
    if name == "mean":
        return canonical(mean)
    return canonical(total(rows - mean[..., None], True) / F32(max(count - correction, 0)))


def cumsum(x, block=256):
    """x [O, n, I]"""
    y = np.empty_like(x)
    for o in range(x.shape[0]):
        for i in range(x.shape[2]):
            y[o, :, i] = reduce.cumsum(x[o, :, i], block)
    return y


def _rank(x):
    return np.where(np.isnan(x), np.inf, x.astype(F64)), np.isnan(x)


def sort(x, k, descending, stable=True):
    """The first k of each row; `stable=False` turns an ascending order round, for a control."""
    values, indices = [], []
    for row in x:
        key, nan = _rank(row)
        up = lambda i: (nan[i], key[i], i)
        down = lambda i: (not nan[i], -key[i], i if stable else -i)
        order = sorted(range(len(row)), key=down if descending else up)[:k]
        values.append(canonical(row[order]))
        indices.append(order)
    return np.array(values, F32), np.array(indices)


def argmax(x, largest, last=False):
    out = []
    for row in x:
        if np.isnan(row).any():
            out.append(int(np.flatnonzero(np.isnan(row))[0]))
        else:
            best = row.max() if largest else row.min()
            out.append(int(np.flatnonzero(row == best)[-1 if last else 0]))
    return np.array(out)


def sdpa(q, k, v, kind, admitted, bias=None, scale=None, whole=False):
    """q [B, QH, T, K], k and v [B, KVH, S, .], admitted [B, QH, T, S]. `whole` is one block for all keys, for a control."""
    batch, heads, rows, width = q.shape
    keys, group = k.shape[2], heads // k.shape[1]
    scale = F32(1) / np.sqrt(F32(width)) if scale is None else F32(scale)
    if kind == "bf16":
        q, k = operand(q), operand(k)
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    s = scale * reduce.dot(q[:, :, :, None, :], k[:, :, None, :, :], kind)
    if bias is not None:
        s = s + bias
    split = keys if whole else 256
    y = np.zeros((batch, heads, rows, v.shape[3]), F32)
    for at in np.ndindex(batch, heads, rows):
        m, l, o = F32(-np.inf), F32(0), np.zeros(v.shape[3], F32)
        for start in range(0, keys, split):
            inside = admitted[at][start : start + split]
            if not inside.any():
                continue
            scores = s[at][start : start + split][inside]
            m_b = max_last(scores)
            slots = np.zeros(len(inside), F32)
            slots[inside] = functions.exp(scores - m_b)
            l_b = reduce.sum_last(slots)
            o_b = reduce.dot_leading(slots[inside][:, None], v[at[0], at[1], start : start + split][inside], "f32")
            largest = maximum(m, m_b)
            old, new = functions.exp(m - largest), functions.exp(m_b - largest)
            l = fma(l, old, l_b * new)
            o = fma(o, old, o_b * new)
            m = largest
        if admitted[at].any():
            y[at] = o / l
    return canonical(y)


def pow_scalar(x, e, general=False):
    one = F32(1)
    usual = {2.0: lambda: x * x, 3.0: lambda: (x * x) * x, -1.0: lambda: one / x, -2.0: lambda: one / (x * x), 0.5: lambda: np.sqrt(x), -0.5: lambda: one / np.sqrt(x)}
    if e in usual and not general:
        return canonical(usual[e]())
    return functions.pow(x, np.full_like(x, e))


def _axis(mode, align_corners, scale, size, out):
    """The (input, weight) pairs of each output."""
    near = lambda x: ((-0.75 + 2) * x - (-0.75 + 3)) * x * x + 1
    far = lambda x: ((-0.75 * x - 5 * -0.75) * x + 8 * -0.75) * x - 4 * -0.75
    inputs_at = lambda o: o / scale if scale > 0 else o * size / out
    taps = []
    for o in range(out):
        if mode in ("nearest", "nearest-exact"):
            at = inputs_at(o + 0.5 if mode == "nearest-exact" else float(o))
            taps.append([(min(int(np.floor(at)), size - 1), F32(1))])
            continue
        if align_corners:
            at = o * (size - 1.0) / (out - 1.0) if out > 1 else 0.0
        else:
            at = inputs_at(o + 0.5) - 0.5
        if mode == "linear":
            at = max(at, 0.0)
        base = int(np.floor(at))
        t = at - base
        if mode == "linear":
            weights, first = [F32(1) - F32(t), F32(t)], base
        else:
            weights, first = [F32(w) for w in (far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t))], base - 1
        taps.append([(min(max(first + i, 0), size - 1), w) for i, w in enumerate(weights)])
    return taps


def upsample(x, out, mode, align_corners, scale, depth_first=False):
    """x [images, D, H, W]"""
    for axis in (0, 1, 2) if depth_first else (2, 1, 0):
        size = x.shape[axis + 1]
        if size == out[axis]:
            continue
        lines = np.moveaxis(x, axis + 1, 0)
        rows = []
        for taps in _axis(mode, align_corners, scale, size, out[axis]):
            y = lines[taps[0][0]] if len(taps) == 1 else taps[0][1] * lines[taps[0][0]]
            for at, w in taps[1:]:
                y = fma(w, lines[at], y)
            rows.append(y)
        x = np.moveaxis(np.stack(rows), 0, axis + 1)
    return canonical(x)


def pool(x, pooling, out=None, kernel=None, stride=None, padding=(0, 0, 0), ceil_mode=False, include=True, chain=False):
    """x [images, D, H, W]; `chain` sums in one chain, for a control."""
    size = x.shape[1:]
    axes = []
    for i in range(3):
        if pooling == "adaptive_avg":
            axes.append([(o * size[i] // out[i], -(-(o + 1) * size[i] // out[i]), 0) for o in range(out[i])])
            continue
        room = size[i] + 2 * padding[i] - kernel[i]
        count = room // stride[i] + 1
        if ceil_mode and room % stride[i] and count * stride[i] < size[i] + padding[i]:
            count += 1
        axis = []
        for o in range(count):
            start = o * stride[i] - padding[i]
            axis.append((max(start, 0), min(start + kernel[i], size[i]), min(start + kernel[i], size[i] + padding[i]) - start))
        axes.append(axis)
    y = np.empty((len(x), *map(len, axes)), F32)
    for at in np.ndindex(*map(len, axes)):
        window = [axes[i][at[i]] for i in range(3)]
        row = x[(slice(None), *(slice(a, b) for a, b, _ in window))].reshape(len(x), -1)
        if pooling == "max":
            y[(slice(None), *at)] = row[:, 0] if chain else max_last(row)
            continue
        total = reduce.sum_last(row)
        if chain:
            total = np.zeros(len(x), F32)
            for i in range(row.shape[1]):
                total = total + row[:, i]
        count = np.prod([c for _, _, c in window]) if pooling == "avg" and include else row.shape[1]
        y[(slice(None), *at)] = total / F32(count)
    return canonical(y)
