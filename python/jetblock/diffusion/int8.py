"""Linear layers in 8-bit integers: weights rounded once, activations row by row as they come.

The products are sums of integers, which are exact, so a row's result depends on no other row and on no order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from jetblock.ops._weights import CACHE

if TYPE_CHECKING:
    from torch import Tensor

LEAST_ROWS = 32
"""Below, rounding the activations costs more than is saved."""
SAMPLE = 64
"""Elements of a weight, about, by which it is known again."""


@dataclass(frozen=True)
class Int8Weight:
    """A weight as integers with a scale for each row.

    Attributes:
        values: `[N, K]` int8, from -127 to 127.
        scales: `[N]` f32.
        sample: Some elements of the weight as it was.
    """

    values: Tensor
    scales: Tensor
    sample: Tensor

    @property
    def nbytes(self) -> int:
        """Memory."""
        return self.values.nbytes + self.scales.nbytes


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Integers `[.., K]` and scales `[..]` of rows: to nearest, the greatest magnitude of a row becoming 127.

    >>> values, scales = quantize_rows(torch.tensor([[1.0, -2.0, 0.3]]))
    >>> values, round(scales.item(), 4)
    (tensor([[  64, -127,   19]], dtype=torch.int8), 0.0157)
    """
    wide = x.float()
    scales = (wide.abs().amax(-1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
    return (wide / scales[..., None]).round().to(torch.int8), scales


def int8_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`x weight^T + bias` with both factors in 8 bits. The integer weight is kept in JetBlock's cache of weights.

    Args:
        x: `[.., K]`.
        weight: `[N, K]`.
        bias: `[N]`.
    """
    # In inference mode weights have no counter of changes; what changes one, such as a LoRA, changes it everywhere.
    sample = weight.detach().flatten()[:: max(1, weight.numel() // SAMPLE)]

    def pack(weight: Tensor) -> Int8Weight:
        return Int8Weight(*quantize_rows(weight.detach()), sample.clone())

    packed = CACHE.get(weight, "int8", pack, is_constant=True)
    if not torch.equal(packed.sample, sample):
        CACHE.drop([weight])
        packed = CACHE.get(weight, "int8", pack, is_constant=True)
    values, scales = quantize_rows(x.reshape(-1, x.shape[-1]))
    sums = torch._int_mm(values, packed.values.t()).float()  # noqa: SLF001 (PyTorch's only product of int8)
    result = (sums * scales[:, None]) * packed.scales
    if bias is not None:
        result = result + bias.float()
    return result.to(x.dtype).reshape(*x.shape[:-1], -1)


def worthwhile(x: Tensor, weight: Tensor) -> bool:
    """Whether such a product is faster than the plain one, and possible: CUDA wants multiples of 8."""
    rows = x.numel() // max(x.shape[-1], 1)
    return rows >= LEAST_ROWS and min(weight.shape) >= 64 and all(side % 8 == 0 for side in weight.shape)
