"""Images: resizing between elements, means of windows. Nearest neighbours and largest elements are exact."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from jetblock.mode._call import check_floats, contract
from jetblock.mode._table import covers


def _resize(
    x: torch.Tensor, size: Sequence[int] | None, mode: str, align_corners: bool, scales: Sequence[float | None] | None
) -> torch.Tensor:
    check_floats(x)
    if size is None:
        size = [int(n * (s or 1)) for n, s in zip(x.shape[2:], scales or (), strict=True)]
    scale_factor = [s or 0.0 for s in scales] if scales else None
    return contract("interpolate", x, list(size), mode, align_corners, scale_factor)


def _cover_resizing(name: str, mode: str) -> None:
    def of_factors(
        input: torch.Tensor,
        output_size: Sequence[int] | None,
        align_corners: bool,
        scale_factors: Sequence[float] | None,
    ) -> torch.Tensor:
        return _resize(input, output_size, mode, align_corners, scale_factors)

    def of_size(
        self: torch.Tensor, output_size: Sequence[int], align_corners: bool, *scales: float | None
    ) -> torch.Tensor:
        return _resize(self, output_size, mode, align_corners, scales)

    covers(f"aten.{name}.vec")(of_factors)
    covers(f"aten.{name}.default")(of_size)


_cover_resizing("upsample_linear1d", "linear")
_cover_resizing("upsample_bilinear2d", "linear")
_cover_resizing("upsample_trilinear3d", "linear")
_cover_resizing("upsample_bicubic2d", "cubic")


def _batched(run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, dims: int) -> torch.Tensor:
    """Of an image without a batch too."""
    check_floats(x)
    return run(x[None])[0] if x.dim() == dims + 1 else run(x)


def _cover_pooling(dims: int) -> None:
    def avg_pool(
        self: torch.Tensor,
        kernel_size: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> torch.Tensor:
        window = list(kernel_size), list(stride), list(padding)
        options: Any = (ceil_mode, count_include_pad, divisor_override)
        return _batched(lambda x: contract("avg_pool", x, *window, *options), self, dims)

    def adaptive_avg_pool(self: torch.Tensor, output_size: Sequence[int]) -> torch.Tensor:
        return _batched(lambda x: contract("adaptive_avg_pool", x, list(output_size)), self, dims)

    covers(f"aten.avg_pool{dims}d.default")(avg_pool)
    covers(f"aten.adaptive_avg_pool{dims}d.default", f"aten._adaptive_avg_pool{dims}d.default")(adaptive_avg_pool)


for _dims in (1, 2, 3):
    _cover_pooling(_dims)
