"""The operators that models written for PyTorch need (NUMERICS.md section 13). Public in `jetblock.ops`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from jetblock.ops._registry import call

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    Array = TypeVar("Array", torch.Tensor, npt.NDArray[Any])


def matmul(a: "Array", b: "Array") -> "Array":
    """`a @ b` of equally many matrices, as `linear` computes it.

    Args:
        a: `[.., M, K]`.
        b: `[.., K, N]`; fast too where it is a transposed view.
    """
    return call("matmul", a, b)


def conv(
    x: "Array",
    weight: "Array",
    bias: "Array | None" = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> "Array":
    """Convolution in one, two or three dimensions. Packed weights are kept as those of `linear` are.

    Args:
        x: `[B, C, ..]`.
        weight: `[N, C / groups, ..]`.
        bias: `[N]`.
        stride: Distance between neighbouring outputs; here and below one number, or one for each dimension.
        padding: Zeros on both sides.
        dilation: Distance between taps.
        groups: The channels are cut into so many parts, each convolved on its own.

    Returns:
        `[B, N, ..]`.
    """
    return call("conv", x, weight, bias, *_lists(stride, padding, dilation), groups)


def conv_transpose(
    x: "Array",
    weight: "Array",
    bias: "Array | None" = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> "Array":
    """Transposed convolution: each output gathers the inputs that reach it.

    Args:
        x: `[B, C, ..]`.
        weight: `[C, N / groups, ..]`.
        bias: `[N]`.
        stride: Distance between the places of neighbouring inputs.
        padding: Outputs left out on both sides.
        output_padding: Outputs more at the end.
        groups: As of `conv`.
        dilation: Distance between taps.

    Returns:
        `[B, N, ..]`.
    """
    lists = _lists(stride, padding, output_padding)
    return call("conv_transpose", x, weight, bias, *lists, groups, *_lists(dilation))


def _lists(*numbers: int | Sequence[int]) -> list[list[int]]:
    return [[one] if isinstance(one, int) else list(one) for one in numbers]


def interpolate(
    x: "Array",
    size: int | Sequence[int],
    *,
    mode: str = "nearest",
    align_corners: bool = False,
    scale_factor: Sequence[float] | None = None,
) -> "Array":
    """Resizes images of one to three dimensions, without antialiasing.

    Args:
        x: `[B, C, ..]`.
        size: Extents of the result; one number, or one for each dimension.
        mode: `nearest`, `nearest-exact`, `linear` (also bilinear, trilinear) or `cubic` (bicubic).
        align_corners: The corners of input and output coincide (linear and cubic).
        scale_factor: Outputs per input of each dimension, where it is not the quotient of the extents.

    Returns:
        `[B, C, ..]`.
    """
    return call("interpolate", x, *_lists(size), mode, align_corners, scale_factor)


def avg_pool(
    x: "Array",
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> "Array":
    """Means of windows of images of one to three dimensions.

    Args:
        x: `[B, C, ..]`.
        kernel_size: Extents of a window; here and below one number, or one for each dimension.
        stride: Distance between windows; that of their extents where not given.
        padding: Zeros on both sides.
        ceil_mode: Whether a window that reaches beyond the padded input counts.
        count_include_pad: Whether zeros of the padding are elements of a window.
        divisor: Divides the sum of a window in place of the number of its elements.

    Returns:
        `[B, C, ..]`.
    """
    strides = None if stride is None else _lists(stride)[0]
    options = (ceil_mode, count_include_pad, divisor)
    return call("avg_pool", x, *_lists(kernel_size), strides, *_lists(padding), *options)


def adaptive_avg_pool(x: "Array", output_size: int | Sequence[int]) -> "Array":
    """Means of windows that cover images `[B, C, ..]` as evenly as can be; `output_size` as `interpolate` has its."""
    return call("adaptive_avg_pool", x, *_lists(output_size))


def layer_norm(x: "Array", weight: "Array | None" = None, bias: "Array | None" = None, *, eps: float = 1e-5) -> "Array":
    """`((x - mean) / sqrt(var + eps)) * weight + bias` over the last dimension.

    Args:
        x: `[.., D]`.
        weight: `[D]`.
        bias: `[D]`.
        eps: Added to the variance.
    """
    return call("layer_norm", x, weight, bias, eps)


def group_norm(
    x: "Array", weight: "Array | None" = None, bias: "Array | None" = None, *, groups: int = 1, eps: float = 1e-5
) -> "Array":
    """As `layer_norm`, over each of `groups` equal parts of the channels and all positions.

    Args:
        x: `[B, C, ..]`.
        weight: `[C]`.
        bias: `[C]`.
        groups: A divisor of C.
        eps: Added to the variance.
    """
    return call("group_norm", x, weight, bias, groups, eps)


def exp(x: "Array") -> "Array":
    """`e^x`, and +0 below -87.3365402."""
    return call("exp", x)


def exp2(x: "Array") -> "Array":
    """`2^x`."""
    return call("exp2", x)


def log(x: "Array") -> "Array":
    """Natural logarithm."""
    return call("log", x)


def log1p(x: "Array") -> "Array":
    """`log(1 + x)`."""
    return call("log1p", x)


def tanh(x: "Array") -> "Array":
    """Hyperbolic tangent."""
    return call("tanh", x)


def erf(x: "Array") -> "Array":
    """The error function."""
    return call("erf", x)


def sin(x: "Array") -> "Array":
    """Sine, at the speed of scalars."""
    return call("sin", x)


def cos(x: "Array") -> "Array":
    """Cosine, at the speed of scalars."""
    return call("cos", x)


def rsqrt(x: "Array") -> "Array":
    """`1 / sqrt(x)`, two roundings."""
    return call("rsqrt", x)


def pow(x: "Array", exponent: float) -> "Array":  # noqa: A001 (as in NumPy and PyTorch)
    """`x^exponent`; the exponents 2, 3, -1, -2, 0.5 and -0.5 are products, quotients and roots."""
    return call("pow", x, exponent)


def sum(x: "Array", *, dim: int = -1) -> "Array":  # noqa: A001 (as in NumPy and PyTorch)
    """Sum along a dimension.

    >>> import numpy as np
    >>> sum(np.float32([[1, 2], [3, 4]]))
    array([3., 7.], dtype=float32)
    """
    return call("sum", x, dim)


def sum_of_squares(x: "Array", *, dim: int = -1) -> "Array":
    """Sum of squares along a dimension."""
    return call("sum_of_squares", x, dim)


def mean(x: "Array", *, dim: int = -1) -> "Array":
    """Arithmetic mean along a dimension."""
    return call("mean", x, dim)


def var(x: "Array", *, dim: int = -1, correction: int = 1) -> "Array":
    """Variance along a dimension: squared distances to the mean, their sum divided by n - correction."""
    return call("var", x, dim, correction)


def amax(x: "Array", *, dim: int = -1) -> "Array":
    """Largest element along a dimension; NaN where there is one, and `+0 > -0`."""
    return call("amax", x, dim)


def amin(x: "Array", *, dim: int = -1) -> "Array":
    """Smallest element along a dimension, as `amax`."""
    return call("amin", x, dim)


def cumsum(x: "Array", *, dim: int = -1) -> "Array":
    """Sums of the elements up to each along a dimension."""
    return call("cumsum", x, dim)


def topk(x: "Array", k: int, *, largest: bool = True) -> "tuple[Array, Array]":
    """The k largest (or smallest) elements of each row, in order, and their indices.

    Equal elements come by ascending index; NaN is greater than all.

    Args:
        x: `[.., D]`.
        k: 1 to D.
        largest: Else the smallest.

    Returns:
        `[.., k]`, and int64 `[.., k]`.
    """
    values, indices = call("topk", x, k, largest)
    return values, indices


def scaled_dot_product_attention(
    q: "Array",
    k: "Array",
    v: "Array",
    mask: "Array | None" = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
) -> "Array":
    """Attention of queries, keys and values that are given at once, with any mask.

    A query's bits depend on the keys it admits and their places alone. One that admits none gives zeros.

    Args:
        q: `[B, QH, T, K]`.
        k: `[B, KVH, S, K]`, KVH a divisor of QH.
        v: `[B, KVH, S, V]`.
        mask: `[B, QH, T, S]`, where all but S may be 1: bool, true where a key is admitted, or added to the scores.
        is_causal: Query t admits keys 0 to t; without a mask.
        scale: Multiplies the scores; `1 / sqrt(K)` where not given.

    Returns:
        `[B, QH, T, V]`.
    """
    return call("scaled_dot_product_attention", q, k, v, mask, is_causal, scale)
