"""Frames that follow their neighbours."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from jetblock import ArgumentError
from jetblock.diffusion.frames import FrameSkipper, key_frames, spread

SIGMAS = [1 - i / 10 for i in range(11)]


def estimate(step: int, frames: list[int], *, curved: bool = False) -> Tensor:
    """A video whose change from step to step is a line (or a parabola) over time, on a picture that is not."""
    time = torch.tensor(frames, dtype=torch.float32)
    picture = (time * 7.3).sin()
    change = step * (time * time if curved else time) / 10
    return (picture + change).reshape(1, 1, -1, 1, 1).expand(2, 3, -1, 4, 4)


def walk(stride: int, full_every: int, frames: int = 9, *, curved: bool = False) -> tuple[list[Tensor], FrameSkipper]:
    skipper = FrameSkipper(stride, full_every, SIGMAS)
    x = torch.zeros(2, 3, frames, 4, 4)
    steps = [
        skipper.predict(x, sigma, lambda chosen, step=step: estimate(step, chosen, curved=curved))
        for step, sigma in enumerate(SIGMAS[:-1])
    ]
    return steps, skipper


def test_changes_on_a_line_are_exact() -> None:
    steps, skipper = walk(4, 3)
    for step, found in enumerate(steps):
        torch.testing.assert_close(found, estimate(step, list(range(9))).contiguous())
    # Whole: steps 0, 1, 4, 7 and the last; the others have frames 0, 4 and 8.
    assert (skipper.computed, skipper.skipped) == (5 * 9 + 5 * 3, 5 * 6)


def test_other_changes_are_near_and_key_frames_exact() -> None:
    steps, _ = walk(4, 3, curved=True)
    whole = estimate(2, list(range(9)), curved=True)
    assert torch.equal(steps[2][:, :, [0, 4, 8]], whole[:, :, [0, 4, 8]])
    error = float((steps[2] - whole).abs().max())
    assert 0.01 < error < 0.5
    assert torch.equal(steps[9], estimate(9, list(range(9)), curved=True))  # the last step is whole


@pytest.mark.parametrize("frames", [1, 2])
def test_short_videos_are_computed_whole(frames: int) -> None:
    _, skipper = walk(4, 2, frames)
    assert (skipper.computed, skipper.skipped) == (10 * frames, 0)


@pytest.mark.parametrize(("frames", "stride"), [(1, 2), (5, 2), (6, 2), (7, 3), (16, 5)])
def test_key_frames_have_both_ends(frames: int, stride: int) -> None:
    keys = key_frames(frames, stride)
    assert keys == sorted(set(keys))
    assert (keys[0], keys[-1]) == (0, frames - 1)
    assert all(b - a <= stride for a, b in pairwise(keys))
    ones = torch.ones(1, 2, len(keys), 3, 3)
    assert torch.equal(spread(ones, keys, frames), torch.ones(1, 2, frames, 3, 3))


def test_bad_settings() -> None:
    with pytest.raises(ArgumentError, match="stride is 0, expected at least 1"):
        key_frames(5, 0)
    with pytest.raises(ArgumentError, match="full_every is 0, expected at least 1"):
        FrameSkipper(2, 0, SIGMAS)
