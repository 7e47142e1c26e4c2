"""What the operators of NUMERICS.md section 13 make and run: those that models written for PyTorch need."""

import math
from collections.abc import Sequence
from typing import Any

from jetblock import _core
from jetblock._errors import ArgumentError
from jetblock.ops._define import activation, operand_kind
from jetblock.ops._registry import On, operator


@operator("(Tensor x) -> Tensor")
def exp(on: On, x: Any) -> Any:
    return activation(on, "exp", x)


@operator("(Tensor x) -> Tensor")
def exp2(on: On, x: Any) -> Any:
    return activation(on, "exp2", x)


@operator("(Tensor x) -> Tensor")
def log(on: On, x: Any) -> Any:
    return activation(on, "log", x)


@operator("(Tensor x) -> Tensor")
def log1p(on: On, x: Any) -> Any:
    return activation(on, "log1p", x)


@operator("(Tensor x) -> Tensor")
def tanh(on: On, x: Any) -> Any:
    return activation(on, "tanh", x)


@operator("(Tensor x) -> Tensor")
def erf(on: On, x: Any) -> Any:
    return activation(on, "erf", x)


@operator("(Tensor x) -> Tensor")
def sin(on: On, x: Any) -> Any:
    return activation(on, "sin", x)


@operator("(Tensor x) -> Tensor")
def cos(on: On, x: Any) -> Any:
    return activation(on, "cos", x)


@operator("(Tensor x) -> Tensor")
def rsqrt(on: On, x: Any) -> Any:
    return activation(on, "rsqrt", x)


@operator("(Tensor x, float exponent) -> Tensor")
def pow(on: On, x: Any, exponent: float) -> Any:  # noqa: A001 (as in NumPy and PyTorch)
    out = on.empty(x.shape, x)
    on.run(_core.power, x, exponent, out)
    return out


@operator("(Tensor a, Tensor b) -> Tensor")
def matmul(on: On, a: Any, b: Any) -> Any:
    batch = a.shape[:-2]
    out = on.empty((*batch, a.shape[-2], b.shape[-1]), a)
    # -1 would not do where there are no elements.
    a, out_matrices = (x.reshape(math.prod(batch), *x.shape[-2:]) for x in (a, out))
    b = b.reshape(math.prod(b.shape[:-2]), *b.shape[-2:])
    on.run(_core.matmul, a, b, operand_kind(a, b), out_matrices)
    return out


def _several(number: Any, dims: int) -> list[int]:
    """A number for each dimension, where one may stand for all."""
    numbers = [number] if isinstance(number, int) else list(number)
    return numbers * dims if len(numbers) == 1 else numbers


def _convolve(
    on: On, x: Any, weight: Any, bias: Any, geometry: tuple[list[int], ...], groups: int, size: list[int]
) -> Any:
    """`geometry` is stride, padding, dilation and, transposed, output_padding; `size` the extents of the output."""
    stride, padding, dilation, *more = geometry
    channels = weight.shape[1] * groups if more else weight.shape[0]
    out = on.empty((x.shape[0], channels, *size), x)

    def run(x: Any, weight: Any, bias: Any, out: Any) -> None:
        kind = operand_kind(x, weight)
        form = kind, *map(tuple, geometry), groups
        packed = on.packed(
            weight, form, lambda weight: _core.PackedConv(weight, kind, stride, padding, dilation, groups, *more)
        )
        _core.conv(x, packed, bias, out)

    on.run(run, x, weight, bias, out)
    return out


@operator(
    "(Tensor x, Tensor weight, Tensor? bias=None, int[1] stride=1, int[1] padding=0, int[1] dilation=1, int groups=1)"
    " -> Tensor"
)
def conv(
    on: On, x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    dims = len(weight.shape) - 2
    geometry = tuple(_several(numbers, dims) for numbers in (stride, padding, dilation))
    axes = zip(x.shape[2:], weight.shape[2:], *geometry, strict=False)
    size = [max((n + 2 * p - d * (k - 1) - 1) // max(s, 1) + 1, 0) for n, k, s, p, d in axes]
    return _convolve(on, x, weight, bias, geometry, groups, size)


@operator(
    "(Tensor x, Tensor weight, Tensor? bias=None, int[1] stride=1, int[1] padding=0, int[1] output_padding=0,"
    " int groups=1, int[1] dilation=1) -> Tensor"
)
def conv_transpose(
    on: On,
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    dims = len(weight.shape) - 2
    geometry = tuple(_several(numbers, dims) for numbers in (stride, padding, dilation, output_padding))
    axes = zip(x.shape[2:], weight.shape[2:], *geometry, strict=False)
    size = [max((n - 1) * s - 2 * p + d * (k - 1) + o + 1, 0) for n, k, s, p, d, o in axes]
    return _convolve(on, x, weight, bias, geometry, groups, size)


@operator("(Tensor x, int[1] size, str mode='nearest', bool align_corners=False, float[]? scale_factor=None) -> Tensor")
def interpolate(
    on: On,
    x: Any,
    size: Any,
    mode: str = "nearest",
    align_corners: bool = False,  # noqa: FBT001, FBT002 (the schema's order)
    scale_factor: Sequence[float] | None = None,
) -> Any:
    dims = len(x.shape) - 2
    out = on.empty((*x.shape[:2], *_several(size, dims)), x)
    on.run(_core.upsample, mode, x, align_corners, [0.0] * dims if scale_factor is None else list(scale_factor), out)
    return out


@operator(
    "(Tensor x, int[1] kernel_size, int[1]? stride=None, int[1] padding=0, bool ceil_mode=False,"
    " bool count_include_pad=True, int? divisor=None) -> Tensor"
)
def avg_pool(
    on: On,
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,  # noqa: FBT001, FBT002 (the schema's order)
    count_include_pad: bool = True,  # noqa: FBT001, FBT002
    divisor: int | None = None,
) -> Any:
    dims = len(x.shape) - 2
    kernel_size, padding = _several(kernel_size, dims), _several(padding, dims)
    stride = _several(stride, dims) if stride else kernel_size
    size = []
    for n, k, s, p in zip(x.shape[2:], kernel_size, stride, padding, strict=False):
        room, step = n + 2 * p - k, max(s, 1)
        more = ceil_mode and room % step != 0 and (room // step + 1) * step < n + p
        size.append(max(room // step + 1 + more, 0))
    out = on.empty((*x.shape[:2], *size), x)
    on.run(_core.avg_pool, x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor, out)
    return out


@operator("(Tensor x, int[1] output_size) -> Tensor")
def adaptive_avg_pool(on: On, x: Any, output_size: Any) -> Any:
    out = on.empty((*x.shape[:2], *_several(output_size, len(x.shape) - 2)), x)
    on.run(_core.adaptive_avg_pool, x, out)
    return out


@operator("(Tensor x, Tensor? weight=None, Tensor? bias=None, float eps=1e-05) -> Tensor")
def layer_norm(on: On, x: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    out = on.empty(x.shape, x)
    on.run(_core.layer_norm, x, weight, bias, eps, out)
    return out


@operator("(Tensor x, Tensor? weight=None, Tensor? bias=None, int groups=1, float eps=1e-05) -> Tensor")
def group_norm(on: On, x: Any, weight: Any = None, bias: Any = None, groups: int = 1, eps: float = 1e-5) -> Any:
    out = on.empty(x.shape, x)
    on.run(_core.group_norm, x, groups, weight, bias, eps, out)
    return out


def _dim(x: Any, dim: int) -> int:
    """A dimension counted from the front."""
    rank = len(x.shape)
    if not -rank <= dim < rank:
        raise ArgumentError(f"dim is {dim}, expected -{rank} to {rank - 1} for an array of {rank} dimensions")
    return dim % rank


def _reduce(on: On, name: str, x: Any, dim: int, correction: int = 0) -> Any:
    dim = _dim(x, dim)
    out = on.empty((*x.shape[:dim], *x.shape[dim + 1 :]), x)
    on.run(_core.reduce, name, x, dim, correction, out)
    return out


@operator("(Tensor x, int dim=-1) -> Tensor")
def sum(on: On, x: Any, dim: int = -1) -> Any:  # noqa: A001 (as in NumPy and PyTorch)
    return _reduce(on, "sum", x, dim)


@operator("(Tensor x, int dim=-1) -> Tensor")
def sum_of_squares(on: On, x: Any, dim: int = -1) -> Any:
    return _reduce(on, "sum_of_squares", x, dim)


@operator("(Tensor x, int dim=-1) -> Tensor")
def mean(on: On, x: Any, dim: int = -1) -> Any:
    return _reduce(on, "mean", x, dim)


@operator("(Tensor x, int dim=-1, int correction=1) -> Tensor")
def var(on: On, x: Any, dim: int = -1, correction: int = 1) -> Any:
    return _reduce(on, "var", x, dim, correction)


@operator("(Tensor x, int dim=-1) -> Tensor")
def amax(on: On, x: Any, dim: int = -1) -> Any:
    return _reduce(on, "amax", x, dim)


@operator("(Tensor x, int dim=-1) -> Tensor")
def amin(on: On, x: Any, dim: int = -1) -> Any:
    return _reduce(on, "amin", x, dim)


@operator("(Tensor x, int dim=-1) -> Tensor")
def cumsum(on: On, x: Any, dim: int = -1) -> Any:
    out = on.empty(x.shape, x)
    on.run(_core.cumsum, x, _dim(x, dim), out)
    return out


@operator("(Tensor x, int k, bool largest=True) -> (Tensor, Tensor)")
def topk(on: On, x: Any, k: int, largest: bool = True) -> Any:  # noqa: FBT001, FBT002 (the schema's order)
    shape = (*x.shape[:-1], k)
    values, indices = on.empty(shape, x), on.empty(shape, x, "int64")
    on.run(_core.topk, x, k, largest, values, indices)
    return values, indices


@operator("(Tensor q, Tensor k, Tensor v, Tensor? mask=None, bool is_causal=False, float? scale=None) -> Tensor")
def scaled_dot_product_attention(
    on: On,
    q: Any,
    k: Any,
    v: Any,
    mask: Any = None,
    is_causal: bool = False,  # noqa: FBT001, FBT002 (the schema's order)
    scale: float | None = None,
) -> Any:
    out = on.empty((*q.shape[:-1], v.shape[-1]), q)
    on.run(_core.sdpa, q, k, v, mask, is_causal, scale, out)
    return out
