"""The walk from noise to image, one element at a time: no sum over a batch, no generator with a state.

An element of the result is a function of the same element of x, of what the network said about it and of its own
noise. The numbers of a step are computed in binary64 with `+ - * / sqrt` and the contract's logarithm and power, and
meet tensors rounded to f32; operations on tensors are single multiplications, additions and subtractions in f32. So
the bits are the same on every machine whose network gives the same bits.

| name | source |
|---|---|
| `euler`, `euler_ancestral` | Karras et al. 2022, algorithm 1 and its ancestral form in k-diffusion |
| `dpmpp_2m`, `dpmpp_2s_ancestral` | Lu et al. 2022, DPM-Solver++(2M), (2S); ancestral form in k-diffusion |
| `dpmpp_2m_sde` | Lu et al. 2022, SDE-DPM-Solver++(2M), with fresh noise in each step |

In models of rectified flow (`flow`) the signal is scaled by 1 - sigma; ancestral steps then keep signal and noise in
that proportion.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from jetblock import ops
from jetblock._errors import ArgumentError

NEAR_ONE = 0.9999
"""Stands for sigma = 1 of flow models where the ratio of signal to noise is needed, which is 0 there."""


@dataclass(frozen=True, slots=True)
class Walk:
    """What a sampler goes by.

    Attributes:
        denoise: The network: `x [B, ..]` and sigma to the denoised `x`.
        noise: The noise `[B, ..]` of a step, counted from 0.
        sigmas: Falling noise levels; the last is where the walk ends, usually 0.
        flow: Whether the model is one of rectified flow.
        eta: How much of the noise ancestral and SDE samplers make anew; 0 makes none.
        s_noise: Scale of that noise.
        report: Called after each call of the network that begins a step: step, x, denoised.
    """

    denoise: Callable[[torch.Tensor, float], torch.Tensor]
    noise: Callable[[int], torch.Tensor]
    sigmas: Sequence[float]
    flow: bool = False
    eta: float = 1.0
    s_noise: float = 1.0
    report: Callable[[int, torch.Tensor, torch.Tensor], object] | None = None

    def steps(self) -> list[tuple[int, float, float]]:
        """Number, sigma before and sigma after of each step."""
        return [(i, *pair) for i, pair in enumerate(zip(self.sigmas[:-1], self.sigmas[1:], strict=True))]

    def begin(self, step: int, x: torch.Tensor, sigma: float) -> torch.Tensor:
        """The first call of the network in a step."""
        denoised = self.denoise(x, sigma)
        if self.report:
            self.report(step, x, denoised)
        return denoised

    def add_noise(self, x: torch.Tensor, step: int, scale: float) -> torch.Tensor:
        """X with the step's noise."""
        scale *= self.s_noise
        return x + self.noise(step).to(x) * scale if scale > 0 else x

    def signal(self, sigma: float) -> float:
        """What the image is scaled by at a noise level."""
        return 1 - sigma if self.flow else 1.0

    def ancestral(self, sigma: float, after: float) -> tuple[float, float, float]:
        """An ancestral step in three: walk down to a lower sigma, scale, add noise of a size."""
        if self.flow:
            down = after * (1 + (after / sigma - 1) * self.eta)
            scale = (1 - after) / (1 - down)
            return down, scale, math.sqrt(max(after * after - down * down * scale * scale, 0.0))
        up = min(after, self.eta * math.sqrt(after * after * (sigma * sigma - after * after) / (sigma * sigma)))
        return math.sqrt(after * after - up * up), 1.0, up


def sample(name: str, walk: Walk, x: torch.Tensor) -> torch.Tensor:
    """Walks from `x`, which has the noise of the first sigma, to the last sigma. The state is f32.

    >>> walk = Walk(lambda x, sigma: x / (1 + sigma**2), lambda step: torch.zeros(2), [4.0, 2.0, 1.0, 0.0])
    >>> sample("euler", walk, torch.tensor([4.0, -8.0]))
    tensor([ 0.6353, -1.2706])
    """
    if name not in SAMPLERS:
        raise ArgumentError(f"sampler is {name!r}, expected one of {', '.join(SAMPLERS)}")
    return SAMPLERS[name](walk, x.float())


def toward(x: torch.Tensor, denoised: torch.Tensor, sigma: float, to: float) -> torch.Tensor:
    """X on the straight line to the denoised image, where its noise has the level `to`."""
    return denoised + (x - denoised) * (to / sigma)


def log(x: float) -> float:
    """The contract's logarithm of the number rounded to f32."""
    return float(ops.log(np.array([x], np.float32))[0])


def power(x: float, exponent: float) -> float:
    """The contract's power, likewise."""
    return float(ops.pow(np.array([x], np.float32), exponent)[0])


def euler(walk: Walk, x: torch.Tensor) -> torch.Tensor:
    """Straight steps."""
    for step, sigma, after in walk.steps():
        x = toward(x, walk.begin(step, x, sigma), sigma, after)
    return x


def euler_ancestral(walk: Walk, x: torch.Tensor) -> torch.Tensor:
    """Straight steps beyond the next level, and noise to come back to it."""
    for step, sigma, after in walk.steps():
        down, scale, up = walk.ancestral(sigma, after)
        x = toward(x, walk.begin(step, x, sigma), sigma, down)
        x = walk.add_noise(x if scale == 1 else x * scale, step, up)
    return x


def dpmpp_2m(walk: Walk, x: torch.Tensor) -> torch.Tensor:
    """Steps toward a denoised image that is extrapolated from the last two."""
    old, last = None, 0.0
    for step, sigma, after in walk.steps():
        denoised = walk.begin(step, x, sigma)
        length = log(sigma / after) if after > 0 else 0.0
        target = denoised if old is None or after == 0 else denoised + (denoised - old) * (length / (2 * last))
        x = toward(x, target, sigma, after)
        old, last = denoised, length
    return x


def dpmpp_2s_ancestral(walk: Walk, x: torch.Tensor) -> torch.Tensor:
    """Two calls of the network in a step, the second in its middle."""
    for step, sigma, after in walk.steps():
        down, scale, up = walk.ancestral(sigma, after)
        denoised = walk.begin(step, x, sigma)
        if down > 0:
            middle = _middle(walk, sigma, down)
            denoised = walk.denoise(toward(x, denoised, sigma, middle), middle)
        x = toward(x, denoised, sigma, down)
        x = walk.add_noise(x if scale == 1 else x * scale, step, up)
    return x


def dpmpp_2m_sde(walk: Walk, x: torch.Tensor) -> torch.Tensor:
    """Like `dpmpp_2m`, with noise made anew in each step."""
    old, last = None, 0.0
    for step, sigma, after in walk.steps():
        denoised = walk.begin(step, x, sigma)
        if after == 0:
            return denoised
        # The ratio of noise to signal falls by this factor.
        before = min(sigma, NEAR_ONE) if walk.flow else sigma
        fall = (after * walk.signal(before)) / (before * walk.signal(after))
        length = -log(fall)
        gain = walk.signal(after) * (1 - power(fall, 1 + walk.eta))
        moved = x * (after / sigma * power(fall, walk.eta)) + denoised * gain
        if old is not None:
            moved = moved + (denoised - old) * (gain * length / (2 * last))
        x = walk.add_noise(moved, step, after * math.sqrt(1 - power(fall, 2 * walk.eta)))
        old, last = denoised, length
    return x


def _middle(walk: Walk, sigma: float, down: float) -> float:
    """The sigma whose ratio of signal to noise is the geometric mean of those of two others."""
    if not walk.flow:
        return math.sqrt(sigma * down)
    if sigma >= 1:
        return NEAR_ONE
    return 1 / (1 + math.sqrt((1 - sigma) / sigma * (1 - down) / down))


SAMPLERS: dict[str, Callable[[Walk, torch.Tensor], torch.Tensor]] = {
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2s_ancestral": dpmpp_2s_ancestral,
    "dpmpp_2m_sde": dpmpp_2m_sde,
}
"""By the names that ComfyUI's samplers have."""
