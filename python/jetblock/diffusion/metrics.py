"""How alike two pictures are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jetblock import _core

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Similarity:
    """Of a picture to its reference.

    Attributes:
        mse: Mean squared difference.
        ssim: Mean structural similarity over 7 x 7 windows: 1 for equal pictures.
    """

    mse: float
    ssim: float

    @property
    def psnr(self) -> float:
        """In decibels, of values from 0 to 1; infinite for equal pictures."""
        return -10 * math.log10(self.mse) if self.mse else math.inf


def similarity(left: torch.Tensor, right: torch.Tensor) -> list[Similarity]:
    """Compares pictures pair by pair, in binary64 and in a stated order (NUMERICS.md, section 13.9).

    >>> import torch
    >>> grey = torch.full((1, 8, 8, 3), 0.5)
    >>> similarity(grey, grey + 0.25)[0].psnr
    12.041199826559248

    Args:
        left: `[B, H, W, C]`, values from 0 to 1, at least 7 pixels a side.
        right: Likewise.
    """
    pair = [pictures.detach().float().cpu() for pictures in (left, right)]
    return [Similarity(mse, ssim) for mse, ssim in _core.similarity(*pair)]
