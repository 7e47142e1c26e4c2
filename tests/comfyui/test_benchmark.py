"""JetBlockBenchmark: what it counts, times and compares is what happened."""

import json
from typing import Any

import torch
from graphs import ksampler, sd3
from harness import ComfyUI

SETTINGS = {
    "seed": 1,
    "steps": 20,
    "cfg": 3.0,
    "sampler_name": "euler",
    "scheduler": "simple",
    "warmup_runs": 0,
    "measured_runs": 3,
}
FAST = {"skip_ratio": 0.4, "mode": "fixed", "method": "interpolate", "threshold": 0.1, "minimum_steps": 12}


def benchmark(comfyui: ComfyUI, *, fast: bool, vae: bool = True, **settings: Any) -> tuple[Any, ...]:
    graph = comfyui.graph()
    parts = sd3(graph, batch_size=2)
    plain = parts["model"]
    if fast:
        parts["model"] = graph.add("JetBlockFastSampler", model=plain, **FAST)
    if vae:
        parts["vae"] = graph.add("VAELoader", vae_name="tiny_ae.safetensors")
    node = graph.add("JetBlockBenchmark", reference=plain, **parts, **{**SETTINGS, **settings})
    text, told, chart, images = graph.run(*[node[slot] for slot in range(4)])
    return text, json.loads(told), chart, images


def test_calls_times_and_errors(comfyui: ComfyUI) -> None:
    text, told, chart, images = benchmark(comfyui, fast=True)
    plain, patched, fewer = told["variants"]
    # Two images, two conditionings each.
    assert [row["model_calls"] for row in told["variants"]] == [20 * 4, 12 * 4, 12 * 4]
    assert [row["sampling"]["step_count"] for row in told["variants"]] == [20, 20, 12]
    for row in told["variants"]:
        runs = row["durations"]["sampler_ms_runs"]
        assert len(runs) == 3
        assert row["durations"]["sampler_ms"] == sorted(runs)[1]
    assert plain["quality"]["equal_bits"]
    assert plain["quality"]["ssim"] == 1.0
    assert plain["quality"]["psnr_db"] is None
    for row in (patched, fewer):
        assert not row["quality"]["equal_bits"]
        assert 0.5 < row["quality"]["ssim"] < 1
        assert 15 < row["quality"]["psnr_db"] < 60
    assert patched["quality"]["psnr_db"] > fewer["quality"]["psnr_db"]
    assert told["device"]["backend"] == "cpu"
    assert told["device"]["pytorch_version"] == torch.__version__
    assert text.splitlines()[0].startswith("plain: 20 steps, 80 calls, ")
    assert images.shape == (3, 128, 128, 3)
    assert chart.shape[0] == 1
    assert chart.shape[3] == 3
    assert 0 <= float(chart.min()) < 0.2
    assert 0.8 < float(chart.max()) <= 1


def test_the_plain_run_is_ksamplers(comfyui: ComfyUI) -> None:
    """What it measures is what a graph would do: the shown image is the one KSampler makes."""
    *_, images = benchmark(comfyui, fast=False, measured_runs=1)
    graph = comfyui.graph()
    parts = sd3(graph, batch_size=2)
    vae = graph.add("VAELoader", vae_name="tiny_ae.safetensors")
    decoded = graph.run(graph.add("VAEDecode", samples=ksampler(graph, parts, steps=20), vae=vae))
    assert torch.equal(images[0], decoded[0].clamp(0, 1))
    assert torch.equal(images[1], images[0])


def test_a_patch_that_does_nothing_has_no_error(comfyui: ComfyUI) -> None:
    _, told, _, _ = benchmark(comfyui, fast=False, measured_runs=1)
    assert all(row["quality"]["equal_bits"] for row in told["variants"])
    assert [row["sampling"]["step_count"] for row in told["variants"]] == [20, 20, 20]


def test_without_a_vae_latents_are_compared(comfyui: ComfyUI) -> None:
    _, told, _, images = benchmark(comfyui, fast=True, vae=False, measured_runs=1)
    _, patched, _ = told["variants"]
    assert patched["quality"]["ssim"] is None
    assert 0 < patched["quality"]["relative_error"] < 0.1
    assert images.shape == (1, 64, 64, 3)
    assert not images.any()
