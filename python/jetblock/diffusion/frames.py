"""Frames of a video that are not computed in every step, but follow their neighbours.

From one step to the next the estimate of a video changes little, and what changes in a frame changes much alike in the
frames beside it. So some steps compute key frames alone: the change that these made since all frames were computed last
is spread over the frames between them, along the time axis. Only changes are spread, never pictures.

Each video of a batch is computed as it would be alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from jetblock._errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

FULL_FIRST = 2
"""Computed steps at the start that compute all frames: it is there that the video's layout is decided."""


def key_frames(frames: int, stride: int) -> list[int]:
    """Every frame of this stride, and the last.

    >>> key_frames(9, 4), key_frames(6, 4), key_frames(2, 4)
    ([0, 4, 8], [0, 4, 5], [0, 1])
    """
    if stride < 1:
        raise ArgumentError(f"stride is {stride}, expected at least 1")
    return sorted({*range(0, frames, stride), frames - 1})


def spread(change: Tensor, keys: list[int], frames: int) -> Tensor:
    """What changes at key frames, for all frames: on the line between the neighbours in time.

    >>> spread(torch.tensor([0.0, 4.0]).reshape(1, 1, 2, 1, 1), [0, 2], 3).flatten().tolist()
    [0.0, 2.0, 4.0]

    Args:
        change: `[B, C, len(keys), H, W]`.
        keys: Frames, ascending, with the first and the last.
        frames: T.

    Returns:
        `[B, C, T, H, W]`.
    """
    parts = []
    right = 0
    for frame in range(frames):
        if frame > keys[right]:
            right += 1
        if frame == keys[right]:
            parts.append(change[:, :, right])
        else:
            before, after = keys[right - 1], keys[right]
            first = change[:, :, right - 1]
            parts.append(first + (change[:, :, right] - first) * ((frame - before) / (after - before)))
    return torch.stack(parts, 2)


class FrameSkipper:
    """The memory of one sampling run of a video.

    Attributes:
        computed: Frames that were computed, over all steps and tries.
        skipped: Frames that were not.
    """

    def __init__(self, stride: int, full_every: int, sigmas: Sequence[float]) -> None:
        """Starts a run.

        Args:
            stride: Distance of key frames.
            full_every: Of so many computed steps one computes all frames.
            sigmas: The noise levels of the schedule, falling, with the last one where the sampler ends.
        """
        if full_every < 1:
            raise ArgumentError(f"full_every is {full_every}, expected at least 1")
        self.stride = stride
        self.full_every = full_every
        self.last = min((float(sigma) for sigma in sigmas[:-1]), default=0.0)
        self.computed = 0
        self.skipped = 0
        self._whole: Tensor | None = None
        self._sigma = float("inf")
        self._steps = 0
        self._since_whole = 0

    def predict(self, x: Tensor, sigma: float, compute: Callable[[list[int]], Tensor]) -> Tensor:
        """The estimate of the video.

        Args:
            x: `[B, C, T, H, W]`.
            sigma: The noise level.
            compute: Gives the network's estimate for some frames, `[B, C, len(frames), H, W]`.

        Returns:
            `[B, C, T, H, W]`.
        """
        frames = x.shape[2]
        keys = key_frames(frames, self.stride)
        if sigma < self._sigma:
            self._sigma = sigma
            self._steps += 1
            self._since_whole += 1
        due = self._steps <= FULL_FIRST or self._since_whole >= self.full_every or sigma <= self.last
        if due or self._whole is None or len(keys) == frames:
            self._since_whole = 0
            self._whole = compute(list(range(frames)))
            self.computed += frames
            return self._whole.clone()
        self.computed += len(keys)
        self.skipped += frames - len(keys)
        changed = compute(keys)
        result = self._whole + spread(changed - self._whole[:, :, keys], keys, frames)
        result[:, :, keys] = changed
        return result
