"""Steps of a diffusion sampler that are not computed, but continued from those before.

A network answers x at the noise level sigma with an estimate D of the picture. What changes slowly from step to step is
the direction `v = (x - D) / sigma` in which a sampler moves. On a skipped step v is continued from the last computed
ones, and `D = x - sigma v`. Samplers that add noise in each step put into x what no earlier v knows of; for them it is
D itself that is continued. x is never written to.

That is meant for models that mix picture and noise, `x = (1 - t) D + t n`, whose sigma is t. Others add, `x = D + sigma
n`; divided by `1 + sigma` it is a mixture with `t = sigma / (1 + sigma)`, and is treated as one.

Every image has a history of its own, and decides alone, so its result does not depend on the batch it is in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch

from jetblock import ops
from jetblock._errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

Mode = Literal["fixed", "adaptive"]
Method = Literal["extrapolate", "interpolate", "hold"]

LEAN: dict[str, float] = {"extrapolate": 1.0, "interpolate": 0.5, "hold": 0.0}
"""How far a skipped direction follows the line through the last two computed ones."""
FIRST = 2
"""Steps at the start that are always computed: two directions are the least that can be continued."""
MAX_RUN = 3
"""Skipped steps in a row at most, in mode adaptive."""


@dataclass(frozen=True)
class SkipSettings:
    """What is skipped, and how it is continued.

    Attributes:
        skip_ratio: Part of the steps that is skipped; at most that in mode adaptive.
        mode: `fixed` skips the same steps of every image, evenly spread, by the number of steps alone. `adaptive`
            skips, image by image, while the error foretold from the last computed steps stays below `threshold`.
        method: `extrapolate`: the line through the last two computed directions. `hold`: the last one, which with
            Euler's method is the same as fewer steps. `interpolate`: half way between the two, which is as good as the
            line where it is smooth and better where a sampler's noise shakes it.
        threshold: In mode adaptive, the relative error of a direction that may be foretold for a skipped step.
        minimum_steps: With fewer steps than this nothing is skipped.
    """

    skip_ratio: float = 0.4
    mode: Mode = "fixed"
    method: Method = "interpolate"
    threshold: float = 0.1
    minimum_steps: int = 12

    def __post_init__(self) -> None:
        """Refuses what is out of range."""
        for name, value, allowed in (("mode", self.mode, get_args(Mode)), ("method", self.method, get_args(Method))):
            if value not in allowed:
                raise ArgumentError(f"{name} is {value!r}, expected one of {', '.join(allowed)}")
        if not 0 <= self.skip_ratio < 1:
            raise ArgumentError(f"skip_ratio is {self.skip_ratio}, expected at least 0 and less than 1")
        if not self.threshold >= 0:
            raise ArgumentError(f"threshold is {self.threshold}, expected at least 0")


def fixed_mask(steps: int, skip_ratio: float) -> list[bool]:
    """Which of the steps are skipped: this part of them, evenly spread, but not the first two and not the last.

    >>> "".join("-" if skipped else "x" for skipped in fixed_mask(12, 0.5))
    'xxx--x--x--x'
    """
    candidates = max(0, steps - FIRST - 1)
    count = min(candidates, int(steps * skip_ratio))
    spread = [(i + 1) * count // candidates > i * count // candidates for i in range(candidates)]
    return ([False] * FIRST + spread + [False])[:steps]


class StepSkipper:
    """The memory of one sampling run.

    >>> skipper = StepSkipper(SkipSettings(skip_ratio=0.5), [float(s) for s in range(16, -1, -1)], images=1)
    >>> x = torch.ones(1, 4)
    >>> for sigma in range(16, 0, -1):
    ...     denoised = skipper.predict(x, float(sigma), lambda rows: 0.5 * x[rows])
    >>> skipper.computed, skipper.skipped
    ([8], [8])
    """

    def __init__(
        self,
        settings: SkipSettings,
        sigmas: Sequence[float],
        images: int,
        *,
        adds_noise: bool = False,
        mixes: bool = True,
    ) -> None:
        """Starts a run.

        Args:
            settings: What is skipped.
            sigmas: The noise levels of the schedule, falling, with the last one where the sampler ends.
            images: Rows of the batch.
            adds_noise: Whether the sampler does so in its steps.
            mixes: Whether the model mixes picture and noise; else it adds noise to the picture.
        """
        self.settings = settings
        self.adds_noise = adds_noise
        self.mixes = mixes
        self.sigmas = [float(sigma) for sigma in sigmas]
        steps = len(self.sigmas) - 1
        self.active = steps >= settings.minimum_steps
        self.mask = fixed_mask(steps, settings.skip_ratio if self.active else 0.0)
        self.images = [_Image() for _ in range(images)]
        self._step = -1
        self._skipped: list[bool] = []

    @property
    def computed(self) -> list[int]:
        """Predictions that the network made, by image."""
        return [image.computed for image in self.images]

    @property
    def skipped(self) -> list[int]:
        """Predictions that were continued instead, by image."""
        return [image.skipped for image in self.images]

    def predict(self, x: Tensor, sigma: float, compute: Callable[[list[int]], Tensor]) -> Tensor:
        """The estimate of the picture, computed or continued.

        Args:
            x: `[B, ..]`, one row per image.
            sigma: The noise level of all rows.
            compute: Gives the network's estimate for some rows, `[len(rows), ..]`.

        Returns:
            `[B, ..]`, in memory of its own.
        """
        if x.shape[0] != len(self.images):
            raise ArgumentError(f"x has {x.shape[0]} rows, expected {len(self.images)}, as many as images")
        step = self._step_of(sigma)
        if step != self._step:
            self._step = step
            self._skipped = [self._may_skip(image, step) for image in self.images]
        rows = [row for row, skipped in enumerate(self._skipped) if not skipped]
        computed = compute(rows) if rows else None
        if computed is not None:
            for row, denoised in zip(rows, computed, strict=True):
                self._learn(self.images[row], x[row], denoised, sigma, step)
        if computed is not None and len(rows) == len(self.images):
            return computed
        result = torch.empty_like(x)
        for row, image in enumerate(self.images):
            if self._skipped[row]:
                scale, time = self._mixture(sigma)
                continued = image.at(time, LEAN[self.settings.method])
                result[row] = continued if self.adds_noise else x[row] / scale - continued * time
                image.skipped += 1
        if computed is not None:
            result[rows] = computed
        return result

    def _step_of(self, sigma: float) -> int:
        """The last step of the schedule that does not begin below sigma. Roundings of other dtypes are forgiven."""
        step = 0
        for i, start in enumerate(self.sigmas[:-1]):
            if start * (1 + 1e-6) >= sigma:
                step = i
        return step

    def _mixture(self, sigma: float) -> tuple[float, float]:
        """What x is divided by, and the noise's share of it then."""
        scale = 1.0 if self.mixes else 1.0 + sigma
        return scale, sigma / scale

    def _may_skip(self, image: _Image, step: int) -> bool:
        settings = self.settings
        steps = len(self.sigmas) - 1
        if not self.active or not FIRST <= step < steps - 1 or len(image.values) < FIRST:
            return False
        if settings.mode == "fixed":
            return self.mask[step]
        run = step - image.step
        allowed = image.skipped_steps < int(steps * settings.skip_ratio) and run <= MAX_RUN
        if allowed and image.error_per_step * run <= settings.threshold:
            image.skipped_steps += 1
            return True
        return False

    def _learn(self, image: _Image, x: Tensor, denoised: Tensor, sigma: float, step: int) -> None:
        """Takes a computed estimate into the history; in mode adaptive, compares it with what was foretold."""
        scale, time = self._mixture(sigma)
        value = denoised if self.adds_noise else (x / scale - denoised) / time
        if self.settings.mode == "adaptive" and len(image.values) == FIRST and step > image.step:
            foretold = image.at(time, LEAN[self.settings.method])
            image.error_per_step = _size(value - foretold) / max(_size(value), 1e-30) / (step - image.step)
        image.add(time, value, step)
        image.computed += 1


class _Image:
    """What is known of an image: its last two computed directions (or pictures), and counts."""

    def __init__(self) -> None:
        self.values: list[tuple[float, Tensor]] = []
        self.step = -1
        self.error_per_step = float("inf")
        self.computed = 0
        self.skipped = 0
        self.skipped_steps = 0

    def add(self, time: float, value: Tensor, step: int) -> None:
        """Samplers that try a step twice leave the last answer at each time."""
        others = [known for known in self.values if known[0] != time]
        self.values = [*others[1 - FIRST :], (time, value)]
        self.step = step

    def at(self, time: float, lean: float) -> Tensor:
        """The last value, moved by a part of what the line through the last two would move it."""
        last_time, last = self.values[-1]
        if len(self.values) < FIRST:
            return last
        first_time, first = self.values[0]
        return last + (last - first) * (lean * (time - last_time) / (last_time - first_time))


def _size(x: Tensor) -> float:
    """The sum of absolute values, in the contract's order: the same bits on every machine and in every batch."""
    return float(ops.sum(x.detach().abs().float().cpu().reshape(1, -1)))
