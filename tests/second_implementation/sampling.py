"""Section 11: from logits to a token."""

from dataclasses import dataclass, field

import numpy as np

from . import functions, rng
from .arith import F32, f32, fma, max_last


@dataclass
class Settings:
    temperature: float = 1.0
    top_k: int = 0                     # 0: all
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: dict = field(default_factory=dict)


def penalised(logits, s, prompt, output):
    l = f32(logits).copy()
    if np.isnan(l).any():
        raise ValueError("NaN in the logits")
    if F32(s.repetition_penalty) != 1:
        r = F32(s.repetition_penalty)
        for i in sorted(set(prompt) | set(output)):
            l[i] = l[i] / r if l[i] > 0 else l[i] * r
    if s.frequency_penalty or s.presence_penalty:
        for i in sorted(set(output)):
            l[i] = fma(-F32(s.frequency_penalty), F32(output.count(i)), l[i])
            l[i] = l[i] - F32(s.presence_penalty)
    for i, bias in s.logit_bias.items():
        l[i] = l[i] + F32(bias)
    return l


def greatest(x):
    m = max_last(x)
    if not np.isfinite(m):
        raise ValueError(f"the greatest value is {m}, nothing can be chosen")
    return m


def weights(l, temperature):
    z = l / F32(temperature)
    p = functions.exp(z - greatest(z))
    return z, [int(v) for v in p.astype(np.float64) * 2.0**32]         # exact, then truncated


def candidates(z, w, s):
    """The ids left by top_k, top_p and min_p, best first."""
    order = sorted(range(len(z)), key=lambda i: (-float(z[i]), i))
    if s.top_k:
        order = order[: s.top_k]
    if F32(s.top_p) < 1:
        total = sum(w[i] for i in order)
        limit = int(float(F32(s.top_p)) * 2**32) * total
        cum, kept = 0, 0
        for i in order:
            cum, kept = cum + w[i], kept + 1
            if cum << 32 >= limit:
                break
        order = order[:kept]
    if s.min_p > 0:
        limit = int(float(F32(s.min_p)) * 2**32) * w[order[0]]
        order = [i for i in order if w[i] << 32 >= limit]
    return order


def sample(logits, s, seed, position, index=0, prompt=(), output=()):
    l = penalised(logits, s, list(prompt), list(output))
    if s.temperature == 0:
        return int(np.flatnonzero(l == greatest(l))[0])
    z, w = weights(l, s.temperature)
    left = sorted(candidates(z, w, s))
    t = rng.mulhi64(rng.draw(seed, position, index), sum(w[i] for i in left))
    cum = 0
    for i in left:
        cum += w[i]
        if cum > t:
            return i
    raise ValueError("no candidate has a weight")
