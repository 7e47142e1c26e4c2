"""A tiny Flux: joint and single blocks, rotated positions, and no hook that the other tiny models share."""

from typing import Any

import pytest
import torch
from graphs import flux, ksampler
from harness import ComfyUI
from test_deterministic_sampling import LEVELS, SIZES, assert_images_are_apart, deterministic


def test_it_is_one(comfyui: ComfyUI) -> None:
    import comfy.model_base
    import comfy.supported_models

    graph = comfyui.graph()
    model = graph.run(flux(graph)["model"]).model
    assert type(model) is comfy.model_base.Flux
    assert type(model.model_config) is comfy.supported_models.FluxSchnell


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("sampler_name", ["euler", "euler_ancestral", "dpmpp_2m_sde"])
@pytest.mark.parametrize("level", LEVELS)
def test_an_image_has_the_bits_that_it_has_alone(comfyui: ComfyUI, level: str, sampler_name: str, size: str) -> None:
    def run(batch: int, first_image: int = 0) -> torch.Tensor:
        graph = comfyui.graph()
        width, height = SIZES[size]
        parts = flux(graph, width=width, height=height, batch_size=batch)
        settings = {"level": level, "sampler_name": sampler_name, "first_image": first_image, "steps": 3}
        return graph.run(deterministic(graph, parts, **settings))["samples"]

    assert_images_are_apart(run, (4, 2))


def test_comfyui_alone_does_differ(comfyui: ComfyUI) -> None:
    """The control: the same comparison, of ComfyUI's own nodes."""

    def run(batch: int) -> torch.Tensor:
        graph = comfyui.graph()
        return graph.run(ksampler(graph, flux(graph, batch_size=batch)))["samples"]

    assert not torch.equal(run(1), run(4)[:1])


def test_speed_nodes_work_on_it(comfyui: ComfyUI) -> None:
    def sample(node: str | None = None, **settings: Any) -> torch.Tensor:
        graph = comfyui.graph()
        parts = flux(graph, width=256, height=256)
        if node:
            parts["model"] = graph.add(node, model=parts["model"], **settings)[0]
        return graph.run(ksampler(graph, parts, steps=16))["samples"]

    plain = sample()
    skipped = {"skip_ratio": 0.4, "mode": "fixed", "method": "interpolate", "threshold": 0.1, "minimum_steps": 12}
    measured = {"measure": False, "steps": 16, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple"}
    measured |= {"measured_runs": 1, "sparse_tokens": 128}
    optimized = {
        level: sample("JetBlockModelOptimizer", level=level, **measured) for level in comfyui.module("_levels").LEVELS
    }
    assert (optimized["low"] - plain).norm() < 1e-4 * plain.norm()
    results = [plain, sample("JetBlockFastSampler", **skipped), *list(optimized.values())[1:]]
    assert all(torch.isfinite(result).all() for result in results)
    assert len({result.numpy().tobytes() for result in results[1:]} - {plain.numpy().tobytes()}) >= 3
