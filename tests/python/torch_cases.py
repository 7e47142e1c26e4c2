"""Operators of NUMERICS.md section 13: arguments, options, and the same in the second implementation."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.second_implementation import functions
from tests.second_implementation import torch_ops as second

F32 = np.float32


def paint(*shape: int, seed: int = 1, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(F32)


def weights(*shape: int, seed: int = 2) -> np.ndarray:
    return paint(*shape, seed=seed, scale=shape[-1] ** -0.5)


B = 3


def _conv(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    y = second.conv(x[:, :, None], weight[:, :, None], bias, "f32", (1, 2, 1), (0, 1, 2), (1, 1, 2), 2)
    return y[:, :, 0]


def _conv_transpose(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    lifted = x[:, :, None, None], weight[:, :, None, None]
    return second.conv(*lifted, bias, "f32", (1, 1, 3), (0, 0, 2), (1, 1, 1), 2, (0, 0, 1))[:, :, 0, 0]


def _group_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return second.group_norm(x.reshape(*x.shape[:2], -1), 4, weight, bias, 1e-5).reshape(x.shape)


def _interpolate(x: np.ndarray) -> np.ndarray:
    images = x.reshape(-1, 1, *x.shape[2:])
    return second.upsample(images, (1, 11, 13), "cubic", False, 0.0).reshape(B, -1, 11, 13)


def _avg_pool(x: np.ndarray) -> np.ndarray:
    images = x.reshape(-1, 1, *x.shape[2:])
    y = second.pool(images, "avg", None, (1, 3, 2), (1, 2, 2), (0, 1, 1), ceil_mode=True)
    return y.reshape(*x.shape[:2], *y.shape[2:])


def _adaptive_avg_pool(x: np.ndarray) -> np.ndarray:
    y = second.pool(x.reshape(-1, 1, *x.shape[2:]), "adaptive_avg", (1, 3, 4))
    return y.reshape(*x.shape[:2], *y.shape[2:])


def _along_one(name: str, *options: int) -> Callable[[np.ndarray], np.ndarray]:
    def run(x: np.ndarray) -> np.ndarray:
        return second.reduction(name, x.reshape(B, x.shape[1], -1), *options).reshape(B, *x.shape[2:])

    return run


def _attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray) -> np.ndarray:
    admitted = np.broadcast_to(mask > -np.inf, (*q.shape[:3], k.shape[2]))
    return second.sdpa(q, k, v, "f32", admitted, np.broadcast_to(mask, admitted.shape), 0.3)


def _mask(*shape: int) -> np.ndarray:
    mask = paint(*shape, seed=9)
    mask[mask < -0.5] = -np.inf
    return mask


IMAGE = (paint(B, 2, 7, 9),)
ALONG_ONE = (paint(B, 1100, 5),)
TORCH_CASES: dict[str, tuple[tuple[np.ndarray, ...], dict[str, Any], Callable[..., Any]]] = {
    "matmul": ((paint(B, 5, 300), weights(B, 300, 7)), {}, lambda a, b: second.matmul(a, b, "f32")),
    "conv": (
        (paint(B, 6, 7, 9), weights(8, 3, 3, 2), paint(8)),
        {"stride": [2, 1], "padding": [1, 2], "dilation": [1, 2], "groups": 2},
        _conv,
    ),
    "conv_transpose": (
        (paint(B, 6, 7), weights(6, 4, 5), paint(8)),
        {"stride": 3, "padding": 2, "output_padding": 1, "groups": 2},
        _conv_transpose,
    ),
    "layer_norm": (
        (paint(B, 5, 130), paint(130), paint(130, seed=3)),
        {"eps": 1e-5},
        lambda x, w, b: second.layer_norm(x, w, b, 1e-5),
    ),
    "group_norm": ((paint(B, 8, 5, 37), paint(8), paint(8, seed=3)), {"groups": 4, "eps": 1e-5}, _group_norm),
    "interpolate": (IMAGE, {"size": [11, 13], "mode": "cubic"}, _interpolate),
    "avg_pool": (IMAGE, {"kernel_size": [3, 2], "stride": [2, 2], "padding": 1, "ceil_mode": True}, _avg_pool),
    "adaptive_avg_pool": (IMAGE, {"output_size": [3, 4]}, _adaptive_avg_pool),
    "sum": (ALONG_ONE, {"dim": 1}, _along_one("sum")),
    "sum_of_squares": (ALONG_ONE, {"dim": 1}, _along_one("sum_of_squares")),
    "mean": (ALONG_ONE, {"dim": -2}, _along_one("mean")),
    "var": (ALONG_ONE, {"dim": 1, "correction": 1}, _along_one("var", 1)),
    "amax": (ALONG_ONE, {"dim": 1}, _along_one("amax")),
    "amin": (ALONG_ONE, {"dim": 1}, _along_one("amin")),
    "cumsum": (ALONG_ONE, {"dim": 1}, second.cumsum),
    "topk": ((paint(B, 700).round(1),), {"k": 90, "largest": True}, lambda x: second.sort(x, 90, descending=True)),
    "scaled_dot_product_attention": (
        (paint(B, 4, 5, 16), paint(B, 2, 300, 16, seed=3), paint(B, 2, 300, 24, seed=4), _mask(B, 1, 5, 300)),
        {"scale": 0.3},
        _attention,
    ),
    "exp": ((paint(B, 77, scale=9),), {}, functions.exp),
    "exp2": ((paint(B, 77, scale=9),), {}, functions.exp2),
    "log": ((np.abs(paint(B, 77, scale=9)),), {}, functions.log),
    "log1p": ((np.abs(paint(B, 77, scale=9)),), {}, functions.log1p),
    "tanh": ((paint(B, 77),), {}, functions.tanh),
    "erf": ((paint(B, 77),), {}, functions.erf),
    "sin": ((paint(B, 77, scale=90),), {}, functions.sin),
    "cos": ((paint(B, 77, scale=90),), {}, functions.cos),
    "rsqrt": ((np.abs(paint(B, 77)),), {}, functions.rsqrt),
    "pow": ((np.abs(paint(B, 77)),), {"exponent": 1.7}, lambda x: second.pow_scalar(x, F32(1.7))),
}
# Arguments that every row of a batch shares.
SHARED = {"conv": {1, 2}, "conv_transpose": {1, 2}, "layer_norm": {1, 2}, "group_norm": {1, 2}}
