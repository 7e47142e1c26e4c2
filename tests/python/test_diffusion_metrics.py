"""PSNR and SSIM: from NUMERICS.md alone, bit for bit, and by another formula."""

import itertools
import math

import numpy as np
import pytest
import torch

from jetblock import ArgumentError
from jetblock.diffusion.metrics import similarity

WINDOW = 7


def image(height: int, width: int, channels: int, seed: int) -> np.ndarray:
    """Pixels that look like nothing in particular."""
    places = np.arange(height * width * channels)
    return (((places * 7919 + seed * 104_729) % 1009).astype(np.float32) / np.float32(1009)).reshape(
        height, width, channels
    )


def by_numerics(left: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """Section 13.9; Python's numbers are binary64 and its operations rounded one by one."""
    squares = 0.0
    for l, r in zip(left.ravel().tolist(), right.ravel().tolist(), strict=True):  # noqa: E741 (as there)
        squares += (l - r) * (l - r)
    height, width, channels = left.shape
    total, count = 0.0, 0
    for c, y, x in itertools.product(range(channels), range(height - WINDOW + 1), range(width - WINDOW + 1)):
        sums = [0.0] * 5
        for row in range(y, y + WINDOW):
            parts = [0.0] * 5
            for column in range(x, x + WINDOW):
                l, r = float(left[row, column, c]), float(right[row, column, c])  # noqa: E741
                parts = [a + b for a, b in zip(parts, (l, r, l * l, r * r, l * r), strict=True)]
            sums = [a + b for a, b in zip(sums, parts, strict=True)]
        l, r, ll, rr, lr = (value / 49 for value in sums)  # noqa: E741
        s = 49 / 48
        above = (2 * l * r + 0.01 * 0.01) * (2 * (s * (lr - l * r)) + 0.03 * 0.03)
        total += above / ((l * l + r * r + 0.01 * 0.01) * (s * (ll - l * l) + s * (rr - r * r) + 0.03 * 0.03))
        count += 1
    return squares / left.size, total / count


@pytest.mark.parametrize("size", [(9, 11, 3), (7, 7, 1), (10, 8, 4)])
def test_the_bits_are_those_of_the_contract(size: tuple[int, int, int]) -> None:
    left, right = image(*size, 4), image(*size, 5)
    [found] = similarity(torch.from_numpy(left)[None], torch.from_numpy(right)[None])
    assert (found.mse, found.ssim) == by_numerics(left, right)


def test_pairs_apart() -> None:
    left = torch.rand(3, 16, 16, 3, generator=torch.Generator().manual_seed(1))
    right = (left + torch.tensor([0.0, 0.01, 0.3])[:, None, None, None]).clamp(0, 1)
    found = similarity(left, right)
    assert found[0].psnr == math.inf
    assert found[0].ssim == 1
    assert found[0].ssim > found[1].ssim > found[2].ssim
    assert 39.5 < found[1].psnr < 41
    assert [similarity(left[i : i + 1], right[i : i + 1]) == [found[i]] for i in range(3)] == [True] * 3


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        (torch.zeros(8, 8, 3), torch.zeros(8, 8, 3), r"left"),
        (torch.zeros(1, 8, 8, 3), torch.zeros(2, 8, 8, 3), r"right"),
        (torch.zeros(1, 6, 8, 3), torch.zeros(1, 6, 8, 3), "height is 6, expected at least 7 pixels"),
        (torch.full((1, 8, 8, 1), torch.nan), torch.zeros(1, 8, 8, 1), "is NaN at index 0"),
    ],
)
def test_bad_pictures(left: torch.Tensor, right: torch.Tensor, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        similarity(left, right)
