"""Elementwise functions, numbers in order (`arange`), and what must be looked at before it is exact."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from jetblock import _core
from jetblock.mode._call import FLOATS, check_floats, contract
from jetblock.mode._report import EXACT
from jetblock.mode._table import covers, refuse

Number = int | float
_Binary = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _elementwise(name: str, x: torch.Tensor) -> torch.Tensor:
    """A function of the contract of the same name; of integers in f32, as PyTorch has it."""
    if not x.is_floating_point() and not x.is_complex():
        x = x.float()
    if x.dtype == torch.float64 and name in ("cos", "exp", "log", "sin"):
        return _binary64(name, x)
    check_floats(x)
    return contract(name, x)


def _binary64(name: str, x: torch.Tensor, number: Number = 0) -> torch.Tensor:
    """A function of f64 elements: of angles, which models keep in f64 although the rest is in f32."""
    out = torch.empty(x.shape, dtype=torch.float64)
    _core.binary64_function(name, x.contiguous(), float(number), out)
    return out


def _cover_functions(*names: str) -> None:
    def of(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda self: _elementwise(name, self)

    for name in names:
        covers(f"aten.{name}.default")(of(name))


_cover_functions(*["cos", "erf", "exp", "exp2", "log", "log1p", "rsqrt", "sigmoid", "silu", "sin", "tanh"])


@covers("aten.gelu.default")
def gelu(self: torch.Tensor, *, approximate: str = "none") -> torch.Tensor:
    return _elementwise("gelu_tanh" if approximate == "tanh" else "gelu", self)


@covers("aten.softplus.default")
def softplus(self: torch.Tensor, beta: Number = 1, threshold: Number = 20) -> torch.Tensor:
    if (beta, threshold) != (1, 20):
        refuse(f"beta={beta}, threshold={threshold}")
    return _elementwise("softplus", self)


# Composed of exact operators and the contract's, in f32 and rounded once at the end.


@covers("aten.sqrt.default")
def sqrt(self: torch.Tensor) -> torch.Tensor:
    """PyTorch's own comes from Intel's MKL, which on AMD's processors rounds one in six to a neighbour."""
    return power(self, 0.5)


@covers("aten.maximum.default", "aten.max.other")
def maximum(self: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return _chosen(torch.maximum, torch.bitwise_and, self, other)


@covers("aten.minimum.default", "aten.min.other")
def minimum(self: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return _chosen(torch.minimum, torch.bitwise_or, self, other)


@covers("aten.clamp.Tensor")
def clamp(self: torch.Tensor, min: torch.Tensor | None = None, max: torch.Tensor | None = None) -> torch.Tensor:
    """The minimum of max and the maximum of self and min."""
    self = self if min is None else maximum(self, min)
    return self if max is None else minimum(self, max)


@covers("aten.clamp_min.Tensor")
def clamp_min(self: torch.Tensor, min: torch.Tensor) -> torch.Tensor:
    return maximum(self, min)


@covers("aten.clamp_max.Tensor")
def clamp_max(self: torch.Tensor, max: torch.Tensor) -> torch.Tensor:
    return minimum(self, max)


def _chosen(choose: _Binary, of_equal: _Binary, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Section 1's `max` and `min`, where `+0 > -0`."""
    dtype = torch.result_type(a, b)
    if not dtype.is_floating_point:
        return choose(a, b)
    check_floats(torch.empty(0, dtype=dtype))
    a, b = torch.broadcast_tensors(a.to(dtype), b.to(dtype))
    pattern = torch.int32 if dtype == torch.float32 else torch.int16
    equal = of_equal(a.contiguous().view(pattern), b.contiguous().view(pattern)).view(dtype)
    return torch.where(a == b, equal, choose(a, b))


@covers("aten.square.default")
def square(self: torch.Tensor) -> torch.Tensor:
    return self * self


@covers("aten.pow.Tensor_Scalar")
def power(self: torch.Tensor, exponent: Number) -> torch.Tensor:
    if not self.is_floating_point() and not self.is_complex():
        if isinstance(exponent, int) and exponent >= 0:
            return torch.pow(self, exponent)
        self = self.float()
    if self.dtype == torch.float64:
        return _binary64("pow", self, exponent)
    check_floats(self)
    return contract("pow", self, exponent)


LARGEST_TABLE = 4096
"""Exponents of a power of a number."""


@covers("aten.pow.Scalar")
def power_of(self: Number, exponent: torch.Tensor) -> torch.Tensor:
    """2 and e have functions of their own; with another base it is a table of frequencies, computed one by one."""
    if exponent.dtype == torch.float64:
        return _binary64("power_of", exponent, self)
    if self in (2, math.e):
        return _elementwise("exp2" if self == 2 else "exp", exponent)
    if exponent.numel() > LARGEST_TABLE:
        refuse(f"a base of {self} and {exponent.numel()} exponents, more than {LARGEST_TABLE}")
    check_floats(exponent)
    base = torch.tensor([float(self)])
    powers = [contract("pow", base, e) for e in exponent.float().flatten().tolist()]
    return torch.cat([*powers, base[:0]]).reshape(exponent.shape).to(exponent.dtype)


@covers("aten.addcmul.default")
def addcmul(self: torch.Tensor, tensor1: torch.Tensor, tensor2: torch.Tensor, *, value: Number = 1) -> torch.Tensor:
    """`self + value * (tensor1 * tensor2)`, each operation rounded."""
    return _plus(self, tensor1 * tensor2 if self.dtype not in FLOATS else tensor1.float() * tensor2.float(), value)


@covers("aten.addcdiv.default")
def addcdiv(self: torch.Tensor, tensor1: torch.Tensor, tensor2: torch.Tensor, *, value: Number = 1) -> torch.Tensor:
    """`self + value * (tensor1 / tensor2)`, each operation rounded."""
    return _plus(self, tensor1 / tensor2 if self.dtype not in FLOATS else tensor1.float() / tensor2.float(), value)


def _plus(x: torch.Tensor, y: torch.Tensor, factor: Number) -> torch.Tensor:
    """`x + factor * y`, a factor of 1 left out; in the wider dtype of the two, and rounded to that of x."""
    return (x + (y if factor == 1 else y * factor)).to(x.dtype)


@covers("aten.lerp.Scalar", "aten.lerp.Tensor")
def lerp(self: torch.Tensor, end: torch.Tensor, weight: torch.Tensor | Number) -> torch.Tensor:
    """`self + weight * (end - self)`, each operation rounded."""
    check_floats(self, end)
    x = self.float()
    return (x + (end.float() - x) * weight).to(self.dtype)


@covers("aten.hardsigmoid.default")
def hardsigmoid(self: torch.Tensor) -> torch.Tensor:
    """`min(max(x + 3, 0), 6) / 6`."""
    check_floats(self)
    return ((self.float() + 3).clamp(0, 6) / 6).to(self.dtype)


@covers("aten.hardswish.default")
def hardswish(self: torch.Tensor) -> torch.Tensor:
    """`x * min(max(x + 3, 0), 6) / 6`, from left to right."""
    check_floats(self)
    x = self.float()
    return (x * (x + 3).clamp(0, 6) / 6).to(self.dtype)


@covers("aten.glu.default")
def glu(self: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """`a * sigmoid(b)` of the two halves."""
    check_floats(self)
    a, b = self.chunk(2, dim)
    return (a.float() * contract("sigmoid", b.float())).to(self.dtype)


# Numbers in order: `start + i * step` in binary64, rounded once.


@covers("aten.arange.default", status=EXACT)
def arange(end: Number, **options: Any) -> torch.Tensor:
    return arange_step(0, end, 1, **options)


@covers("aten.arange.start", status=EXACT)
def arange_start(start: Number, end: Number, **options: Any) -> torch.Tensor:
    return arange_step(start, end, 1, **options)


@covers("aten.arange.start_step", status=EXACT)
def arange_step(start: Number, end: Number, step: Number = 1, **options: Any) -> torch.Tensor:
    like = torch.arange(start, end, step, **options)
    if not like.is_floating_point():
        return like
    count = torch.arange(like.numel(), dtype=torch.float64)
    return (count * float(step) + float(start)).to(like.dtype)


@covers("aten.linspace.default", status=EXACT)
def linspace(start: Number, end: Number, steps: int, **options: Any) -> torch.Tensor:
    """From the nearer end: `start + i * step`, and `end - (steps - 1 - i) * step` from the middle on."""
    like = torch.empty(steps, **options)
    if not like.is_floating_point():
        refuse(f"dtype {like.dtype}")
    step = (float(end) - float(start)) / max(steps - 1, 1)
    count = torch.arange(steps, dtype=torch.float64)
    rising, falling = count * step + float(start), float(end) - (steps - 1 - count) * step
    return torch.where(count < steps / 2, rising, falling).to(like.dtype)


# Exact under a condition.


@covers("aten.index_put_.default", "aten._index_put_impl_.default", status=EXACT)
def index_put_(
    self: torch.Tensor,
    indices: Sequence[torch.Tensor | None],
    values: torch.Tensor,
    accumulate: bool = False,
    unsafe: bool = False,
) -> torch.Tensor:
    """Where no element is written twice: the order of the writes is PyTorch's secret."""
    if accumulate and self.is_floating_point():
        refuse("accumulate=True")
    if values.numel() > 1 and not accumulate and _repeats(indices):
        refuse("repeated indices")
    return self.index_put_(tuple(indices), values, accumulate=accumulate)  # type: ignore[arg-type]


@covers("aten.index_put.default", status=EXACT)
def index_put(self: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
    return index_put_(self.clone(), *arguments, **options)


def _repeats(indices: Sequence[torch.Tensor | None]) -> bool:
    given = [index for index in indices if index is not None]
    if all(index.dtype == torch.bool for index in given):
        return False
    if any(index.dtype in (torch.bool, torch.uint8) for index in given):
        return True
    places = torch.stack([index.flatten() for index in torch.broadcast_tensors(*given)])
    return torch.unique(places, dim=1).shape[1] < places.shape[1]


@covers("aten.scatter.src", status=EXACT)
def scatter(self: torch.Tensor, dim: int, index: torch.Tensor, src: torch.Tensor) -> torch.Tensor:
    """Where no element is written twice."""
    ordered = index.sort(dim).values
    length = index.shape[dim] if index.dim() else 1
    if length > 1 and bool((ordered.narrow(dim, 1, length - 1) == ordered.narrow(dim, 0, length - 1)).any()):
        refuse("repeated indices")
    return torch.scatter(self, dim, index, src)


@covers("aten.scatter.value", status=EXACT)
def scatter_value(self: torch.Tensor, dim: int, index: torch.Tensor, value: Number) -> torch.Tensor:
    return torch.scatter(self, dim, index, value)


@covers("aten.index_add.default", status=EXACT)
def index_add(
    self: torch.Tensor, dim: int, index: torch.Tensor, source: torch.Tensor, *, alpha: Number = 1
) -> torch.Tensor:
    """Adds in the order of the index, each addition rounded to the dtype."""
    if alpha != 1:
        refuse(f"alpha={alpha}")
    return torch.index_add(self, dim, index, source)


@covers("aten.histc.default", status=EXACT)
def histc(self: torch.Tensor, bins: int = 100, min: Number = 0, max: Number = 0) -> torch.Tensor:
    """Counts, below 2^24 of which f32 holds exactly."""
    if self.numel() >= 1 << 24:
        refuse(f"{self.numel()} elements")
    return torch.histc(self, bins, min, max)
