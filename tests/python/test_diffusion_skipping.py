"""Skipped steps: which ones, and what stands in their place."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from jetblock import ArgumentError
from jetblock.diffusion.skipping import SkipSettings, StepSkipper, fixed_mask

SIGMAS = [1 - i / 20 for i in range(21)]


def directions(sigma: float, count: int = 3) -> Tensor:
    """Row r turns r times as much as row 1, along a parabola where r is 2."""
    base = torch.arange(1.0, 9.0)
    return torch.stack([base + r * sigma * (sigma if r == 2 else 1.0) * base.sin() for r in range(count)])


def walk(settings: SkipSettings, rows: list[int], *, adds_noise: bool = False) -> tuple[Tensor, StepSkipper]:
    """Euler's method through a field that is known, so that what is continued can be compared with it."""
    x = torch.linspace(-1, 1, 24).reshape(3, 8)[rows]
    skipper = StepSkipper(settings, SIGMAS, len(rows), adds_noise=adds_noise)
    for sigma, until in pairwise(SIGMAS):
        before = x.clone()

        def compute(chosen: list[int], sigma: float = sigma, x: Tensor = x) -> Tensor:
            return x[chosen] - sigma * directions(sigma)[rows][chosen]

        denoised = skipper.predict(x, sigma, compute)
        assert torch.equal(x, before)
        x = denoised + (x - denoised) * (until / sigma)
    return x, skipper


@pytest.mark.parametrize("steps", range(1, 60))
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 0.79])
def test_mask_counts(steps: int, ratio: float) -> None:
    mask = fixed_mask(steps, ratio)
    assert len(mask) == steps
    assert not any(mask[:2])
    assert not mask[-1]
    assert sum(mask) == min(int(steps * ratio), max(0, steps - 3))


def test_a_line_is_continued_exactly() -> None:
    exact, whole = walk(SkipSettings(skip_ratio=0.0), [0, 1])
    fast, skipper = walk(SkipSettings(skip_ratio=0.5, method="extrapolate"), [0, 1])
    held, _ = walk(SkipSettings(skip_ratio=0.5, method="hold"), [0, 1])
    half, _ = walk(SkipSettings(skip_ratio=0.5), [0, 1])
    assert (whole.skipped, skipper.skipped, skipper.computed) == ([0, 0], [10, 10], [10, 10])
    torch.testing.assert_close(fast, exact)
    errors = [float((x - exact)[1].abs().max()) for x in (fast, half, held)]
    assert errors[0] < 1e-5 < errors[1] < 0.6 * errors[2]


def test_rows_do_not_know_each_other() -> None:
    settings = SkipSettings(skip_ratio=0.7, mode="adaptive", method="extrapolate", threshold=0.002)
    together, skipper = walk(settings, [0, 1, 2])
    assert skipper.skipped[0] == skipper.skipped[1] > skipper.skipped[2] > 0
    for row in range(3):
        alone, one = walk(settings, [row])
        assert torch.equal(alone, together[row : row + 1])
        assert one.skipped == [skipper.skipped[row]]


def test_with_noise_the_picture_is_continued() -> None:
    settings = SkipSettings(skip_ratio=0.5, method="hold")
    skipper = StepSkipper(settings, SIGMAS, 1, adds_noise=True)
    for step, sigma in enumerate(SIGMAS[:-1]):
        x = torch.full((1, 4), float(step))
        denoised = skipper.predict(x, sigma, lambda rows: torch.full((len(rows), 4), 7.0))
        assert torch.equal(denoised, torch.full((1, 4), 7.0))
    assert skipper.skipped == [10]


def test_a_model_that_adds_noise_is_a_mixture_in_other_words() -> None:
    """The same walk, x stretched by 1 + sigma: the same pictures."""
    settings = SkipSettings(skip_ratio=0.5)
    times = SIGMAS[1:]
    mixing = StepSkipper(settings, times, 1)
    adding = StepSkipper(settings, [time / (1 - time) for time in times], 1, mixes=False)
    for step, time in enumerate(times[:-1]):
        x = torch.linspace(-1, 1, 8).reshape(1, 8).cos() * (1 + step)
        picture = (x * 3 + step).sin()
        scale = 1 / (1 - time)
        one = mixing.predict(x, time, lambda _, picture=picture: picture)
        other = adding.predict(x * scale, time * scale, lambda _, picture=picture: picture)
        torch.testing.assert_close(other, one)
    assert mixing.skipped == adding.skipped == [9]


def test_a_step_that_is_tried_twice_is_decided_once() -> None:
    settings = SkipSettings(skip_ratio=0.5)
    skipper = StepSkipper(settings, SIGMAS, 1)
    for sigma in SIGMAS[:-1]:
        for middle in (sigma, sigma - 0.01):
            skipper.predict(torch.ones(1, 4), middle, lambda rows: torch.zeros(len(rows), 4))
    assert (skipper.computed, skipper.skipped) == ([20], [20])


def test_short_runs_are_left_alone() -> None:
    skipper = StepSkipper(SkipSettings(skip_ratio=0.5), SIGMAS[-9:], 1)
    assert not skipper.active
    assert not any(skipper.mask)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"skip_ratio": 1.0}, "skip_ratio is 1.0, expected at least 0 and less than 1"),
        ({"mode": "often"}, "mode is 'often', expected one of fixed, adaptive"),
        ({"method": "guess"}, "method is 'guess', expected one of extrapolate, interpolate, hold"),
        ({"threshold": -1.0}, "threshold is -1.0, expected at least 0"),
    ],
)
def test_bad_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        SkipSettings(**settings)  # type: ignore[arg-type]


def test_another_batch_is_refused() -> None:
    skipper = StepSkipper(SkipSettings(), SIGMAS, 2)
    with pytest.raises(ArgumentError, match="x has 3 rows, expected 2"):
        skipper.predict(torch.ones(3, 4), 1.0, lambda rows: torch.ones(len(rows), 4))
