"""Noise of images, and samplers on a model whose exact answer is known."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import jetblock
from jetblock.diffusion.noise import image_noise
from jetblock.diffusion.samplers import SAMPLERS, Walk, sample
from tests.second_implementation import torch_ops as second

NOISY = ("euler_ancestral", "dpmpp_2s_ancestral", "dpmpp_2m_sde")
SIZE = (4, 9, 9)
SPREAD = 0.5
"""Standard deviation of the data: normal numbers, so the perfect network is a formula."""


def gaussian(*, flow: bool) -> Callable[[torch.Tensor, float], torch.Tensor]:
    """The mean of the data given x."""

    def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
        signal = 1 - sigma if flow else 1.0
        return x * (signal * SPREAD**2 / (signal**2 * SPREAD**2 + sigma**2))

    return denoise


def levels(steps: int, *, flow: bool) -> list[float]:
    if flow:
        return [1 - i / steps for i in range(steps + 1)]
    ramp = np.linspace(20 ** (1 / 7), 0.01 ** (1 / 7), steps)
    return [*(ramp**7).tolist(), 0.0]


def walk(images: list[int], steps: int = 6, *, flow: bool = False, seed: int = 3, **settings: Any) -> Walk:
    size = settings.pop("size", SIZE)
    return Walk(
        denoise=gaussian(flow=flow),
        noise=lambda step: image_noise(seed, images, size, step + 1),
        sigmas=levels(steps, flow=flow),
        flow=flow,
        **settings,
    )


def start(images: list[int], *, flow: bool, size: tuple[int, ...] = SIZE) -> torch.Tensor:
    return image_noise(3, images, size) * levels(6, flow=flow)[0]


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("name", SAMPLERS)
def test_an_image_walks_alone_in_any_batch(name: str, *, flow: bool) -> None:
    whole = sample(name, walk([0, 1, 2, 3], flow=flow), start([0, 1, 2, 3], flow=flow))
    assert len({image.numpy().tobytes() for image in whole}) == 4
    for images in ([0], [2], [3, 1], [1, 1, 0]):
        assert torch.equal(sample(name, walk(images, flow=flow), start(images, flow=flow)), whole[images])


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("name", NOISY)
def test_noise_is_added_and_eta_turns_it_off(name: str, *, flow: bool) -> None:
    begin = start([0, 1], flow=flow)
    one, other = (sample(name, walk([0, 1], flow=flow, seed=seed), begin) for seed in (3, 4))
    assert not torch.equal(one, other)
    calm, other = (sample(name, walk([0, 1], flow=flow, seed=seed, eta=0.0), begin) for seed in (3, 4))
    assert torch.equal(calm, other)
    if name == "euler_ancestral":
        torch.testing.assert_close(calm, sample("euler", walk([0, 1], flow=flow), begin), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("name", SAMPLERS)
def test_many_steps_end_in_the_distribution_of_the_data(name: str, *, flow: bool) -> None:
    size = (1, 100, 100)
    begin = start([0], flow=flow, size=size) if flow else image_noise(3, [0], size) * math.sqrt(20**2 + SPREAD**2)
    end = sample(name, walk([0], 200, flow=flow, size=size), begin)
    deviation = end.double().std().item()
    assert abs(deviation - SPREAD) < 0.04 * SPREAD, deviation


@pytest.mark.parametrize(
    ("name", "order"), [("euler", 1), ("dpmpp_2m", 2), ("dpmpp_2s_ancestral", 2), ("dpmpp_2m_sde", 2)]
)
def test_order_of_convergence(name: str, order: int) -> None:
    """Without new noise, halving the steps divides the error by 2 to the order."""
    begin = image_noise(3, [0], SIZE)
    errors = []
    for steps in (5, 10):
        sigmas = np.geomspace(4.0, 1.0, steps + 1).tolist()
        path = Walk(gaussian(flow=False), lambda _: begin, sigmas, eta=0.0)
        exact = begin * math.sqrt((1 + SPREAD**2) / (16 + SPREAD**2))
        errors.append((sample(name, path, begin) - exact).abs().max().item())
    assert 0.8 * 2**order < errors[0] / errors[1] < 1.3 * 2**order, errors


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("name", SAMPLERS)
def test_bits_of_the_second_implementation(name: str, *, flow: bool) -> None:
    size = (2, 1, 3, 5)
    path = walk([6], flow=flow, size=size, eta=0.7, s_noise=1.1)
    sigmas = [float(np.float32(sigma)) for sigma in path.sigmas]
    begin = start([6], flow=flow, size=size)
    given = sample(name, replace(path, sigmas=sigmas), begin)

    def denoise(x: np.ndarray, sigma: float) -> np.ndarray:
        return gaussian(flow=flow)(torch.from_numpy(x), sigma).numpy()

    def noise(step: int) -> np.ndarray:
        return second.randn(3, 6, step + 1, size)[None]

    expected = second.sampler(name, denoise, noise, sigmas, begin.numpy(), flow, 0.7, 1.1)
    assert given.numpy().tobytes() == expected.tobytes()
    another = second.sampler(name, denoise, noise, sigmas, begin.numpy(), not flow, 0.8, 1.1)
    assert name in ("euler", "dpmpp_2m") or another.tobytes() != expected.tobytes()


def test_noise_depends_on_all_that_it_belongs_to() -> None:
    one = image_noise(7, [0], SIZE)
    for other in (image_noise(8, [0], SIZE), image_noise(7, [1], SIZE), image_noise(7, [0], SIZE, 1)):
        assert not (one == other).any()
    assert torch.equal(image_noise(7, [0], (5, 20, 20))[:, :4, :9, :9], one)
    assert torch.equal(image_noise(7, [0], (4, 3, 9, 9))[:, :, 0], one)
    assert not (image_noise(7 + 2**63, [0], SIZE) == one).any()


def test_mistakes_are_named() -> None:
    with pytest.raises(jetblock.ArgumentError, match="seed is -1, expected at least 0"):
        image_noise(-1, [0], SIZE)
    with pytest.raises(jetblock.ArgumentError, match="sampler is 'ddim', expected one of euler, "):
        sample("ddim", walk([0]), torch.zeros(1, *SIZE))
