"""Operators along a dimension: softmax, norms, sums, orders."""

from collections.abc import Sequence
from typing import Any

import torch

from jetblock.mode._call import FLOATS, check_floats, contract
from jetblock.mode._elements import sqrt
from jetblock.mode._report import EXACT
from jetblock.mode._table import covers, refuse

Number = int | float


def _along(name: str, x: torch.Tensor, dim: int, dtype: torch.dtype | None) -> torch.Tensor:
    """An operator on rows, along any dimension."""
    if dtype is not None:
        x = x.to(dtype)
    check_floats(x)
    if x.dim() == 0 or x.numel() == 0:
        return torch.zeros_like(x) if name == "log_softmax" else torch.ones_like(x)
    if dim in (-1, x.dim() - 1):
        return contract(name, x)
    return contract(name, x.transpose(dim, -1)).transpose(dim, -1).contiguous()


@covers("aten.softmax.int", "aten._softmax.default")
def softmax(self: torch.Tensor, dim: int, dtype: torch.dtype | bool | None = None, **half: bool) -> torch.Tensor:
    return _along("softmax", self, dim, _softmax_dtype(dtype, **half))


@covers("aten.log_softmax.int", "aten._log_softmax.default")
def log_softmax(self: torch.Tensor, dim: int, dtype: torch.dtype | bool | None = None, **half: bool) -> torch.Tensor:
    return _along("log_softmax", self, dim, _softmax_dtype(dtype, **half))


def _softmax_dtype(dtype: torch.dtype | bool | None, *, half_to_float: bool = False) -> torch.dtype | None:
    """The third argument is a dtype or, of `_softmax`, whether f16 becomes f32."""
    if half_to_float or dtype is True:
        return torch.float32
    return dtype if isinstance(dtype, torch.dtype) else None


@covers("aten.layer_norm.default")
def layer_norm(
    input: torch.Tensor,
    normalized_shape: Sequence[int],
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> torch.Tensor:
    check_floats(input)
    check_floats(weight, bias)
    weight, bias = (None if vector is None else vector.reshape(-1) for vector in (weight, bias))
    rows = input.flatten(-len(normalized_shape))
    return contract("layer_norm", rows, weight, bias, eps).view(input.shape)


@covers("aten.group_norm.default")
def group_norm(
    input: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> torch.Tensor:
    check_floats(input)
    check_floats(weight, bias)
    return contract("group_norm", input, weight, bias, num_groups, eps)


@covers("aten.rms_norm.default")
def rms_norm(
    input: torch.Tensor,
    normalized_shape: Sequence[int],
    weight: torch.Tensor | None = None,
    eps: float | None = None,
) -> torch.Tensor:
    check_floats(input)
    rows = input.flatten(-len(normalized_shape))
    weight = torch.ones(rows.shape[-1], dtype=input.dtype) if weight is None else weight.reshape(-1)
    eps = torch.finfo(torch.float32).eps if eps is None else eps
    return contract("rms_norm", rows, weight, eps).view(input.shape)


@covers("aten.batch_norm.default")
def batch_norm(
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> torch.Tensor:
    """`((x - mean) * (1 / sqrt(var + eps))) * weight + bias` of each channel, each operation rounded."""
    if training or running_mean is None or running_var is None:
        refuse("statistics of the batch")
    check_floats(input)
    check_floats(running_mean, running_var, weight, bias)

    def channels(vector: torch.Tensor) -> torch.Tensor:
        return vector.float().view(-1, *[1] * (input.dim() - 2))

    y = (input.float() - channels(running_mean)) * channels(contract("rsqrt", running_var.float() + eps))
    y = y if weight is None else y * channels(weight)
    y = y if bias is None else y + channels(bias)
    return y.to(input.dtype)


def _reduced(name: str, x: torch.Tensor, dims: Sequence[int] | None, *options: int, keepdim: bool) -> torch.Tensor:
    """A reduction of several dimensions: of the row that they are, the elements in logical order."""
    check_floats(x)
    rank = x.dim()
    dims = sorted(dim % rank for dim in dims) if dims else list(range(rank))
    shape = [1 if dim in dims else size for dim, size in enumerate(x.shape)]
    if dims and dims == list(range(dims[0], dims[-1] + 1)):
        # Neighbours are one dimension where they stand.
        y = contract(name, x.flatten(dims[0], dims[-1]), dims[0], *options)
    else:
        kept = [dim for dim in range(rank) if dim not in dims]
        rows = x.permute(*kept, *dims).reshape(*(x.shape[dim] for dim in kept), -1)
        y = contract(name, rows, -1, *options)
    return y.view(shape) if keepdim else y.view([size for dim, size in enumerate(x.shape) if dim not in dims])


@covers("aten.sum.default", "aten.sum.dim_IntList")
def sum_of(
    self: torch.Tensor,
    dim: Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    if dtype is not None and dtype.is_floating_point:
        self = self.to(dtype)
    if not self.is_floating_point() and not self.is_complex():
        # Of integers every order gives the same.
        return torch.sum(self, list(dim) if dim else None, keepdim, dtype=dtype)
    return _reduced("sum", self, dim, keepdim=keepdim)


@covers("aten.mean.default", "aten.mean.dim")
def mean(
    self: torch.Tensor,
    dim: Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    return _reduced("mean", self if dtype is None else self.to(dtype), dim, keepdim=keepdim)


@covers("aten.var.correction", "aten.var.dim", "aten.var.default")
def var(
    self: torch.Tensor,
    dim: Sequence[int] | bool | None = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: float | None = 1,
) -> torch.Tensor:
    dims: Sequence[int] | None
    dims, unbiased = (None, dim) if isinstance(dim, bool) else (dim, unbiased)
    correction = 0 if not unbiased else 1 if correction is None else correction
    if correction != int(correction):
        refuse(f"correction={correction}")
    return _reduced("var", self, dims, int(correction), keepdim=keepdim)


@covers("aten.std.correction", "aten.std.dim", "aten.std.default")
def std(self: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
    """The root of the variance, which is rounded to f32 before."""
    check_floats(self)
    return sqrt(var(self.float(), *arguments, **options)).to(self.dtype)


@covers("aten.linalg_vector_norm.default")
def vector_norm(
    self: torch.Tensor,
    ord: Number = 2,
    dim: Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """The root of the sum of squares, or the sum of magnitudes."""
    if ord not in (1, 2):
        refuse(f"ord={ord}")
    self = self if dtype is None else self.to(dtype)
    check_floats(self)
    x = self.float()
    if ord == 1:
        return _reduced("sum", x.abs(), dim, keepdim=keepdim).to(self.dtype)
    return sqrt(_reduced("sum_of_squares", x, dim, keepdim=keepdim)).to(self.dtype)


@covers("aten.amax.default")
def amax(self: torch.Tensor, dim: Sequence[int] = (), keepdim: bool = False) -> torch.Tensor:
    if not self.is_floating_point():
        return torch.amax(self, tuple(dim), keepdim)
    return _reduced("amax", self, dim, keepdim=keepdim)


@covers("aten.amin.default")
def amin(self: torch.Tensor, dim: Sequence[int] = (), keepdim: bool = False) -> torch.Tensor:
    if not self.is_floating_point():
        return torch.amin(self, tuple(dim), keepdim)
    return _reduced("amin", self, dim, keepdim=keepdim)


@covers("aten.max.default")
def largest(self: torch.Tensor) -> torch.Tensor:
    return amax(self)


@covers("aten.min.default")
def smallest(self: torch.Tensor) -> torch.Tensor:
    return amin(self)


@covers("aten.cumsum.default")
def cumsum(self: torch.Tensor, dim: int, *, dtype: torch.dtype | None = None) -> torch.Tensor:
    x = self if dtype is None else self.to(dtype)
    if not x.is_floating_point() and not x.is_complex():
        return torch.cumsum(x, dim)
    check_floats(x)
    return contract("cumsum", x, dim) if x.dim() else x.clone()


@covers("aten.sort.default", status=EXACT)
def sort(self: torch.Tensor, dim: int = -1, descending: bool = False) -> Any:
    """Equal elements stay in order."""
    return torch.sort(self, stable=True, dim=dim, descending=descending)


@covers("aten.sort.stable", status=EXACT)
def sort_stable(self: torch.Tensor, *, stable: bool | None, dim: int = -1, descending: bool = False) -> Any:
    return sort(self, dim, descending)


@covers("aten.topk.default", status=EXACT)
def topk(
    self: torch.Tensor,
    k: int,
    dim: int = -1,
    largest: bool = True,
    sorted: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The first k in stable order, so that equal elements are taken and given by ascending index."""
    if self.dim() == 0:
        return self.clone(), torch.zeros((), dtype=torch.int64)
    if self.dtype in FLOATS and dim in (-1, self.dim() - 1) and self.numel():
        return contract("topk", self, k, largest)
    values, indices = torch.sort(self, stable=True, dim=dim, descending=largest)
    return values.narrow(dim, 0, k).contiguous(), indices.narrow(dim, 0, k).contiguous()
