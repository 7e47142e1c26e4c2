"""Noise that belongs to an image: not to its batch, its place in it, its size or the device.

>>> four = image_noise(7, range(4), (4, 65, 65))
>>> bool((image_noise(7, [2], (4, 65, 65)) == four[2:3]).all())
True
"""

from collections.abc import Sequence

import torch

from jetblock import ops
from jetblock._errors import ArgumentError

START = 0
"""The step of the noise that sampling starts from; the noise added in sampling step i has the step i + 1."""


def image_noise(seed: int, images: Sequence[int], size: Sequence[int], step: int = START) -> torch.Tensor:
    """Standard normal noise `[len(images), *size]` in f32 on the CPU, by `jetblock.ops.randn`.

    Args:
        seed: Of the run, at least 0 and below 2^64.
        images: The number of each image in its run, which need not be its place in this batch.
        size: Of a latent: `[C, T, H, W]`, `[C, H, W]`, `[C, W]` or `[W]`.
        step: Which of an image's noises.
    """
    if not 0 <= seed < 1 << 64:
        raise ArgumentError(f"seed is {seed}, expected at least 0 and below 2^64")
    signed = seed - (1 << 64) if seed >> 63 else seed
    seeds = torch.full((len(images),), signed, dtype=torch.int64)
    return ops.randn(seeds, torch.tensor(list(images), dtype=torch.int64), size, step=step)
