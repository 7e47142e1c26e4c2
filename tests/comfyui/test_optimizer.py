"""JetBlockModelOptimizer, JetBlockAutoOptimizer, JetBlockCacheManager."""

import json
import re
from typing import Any

import pytest
import torch
from graphs import ksampler, sd3
from harness import ComfyUI

SETTINGS = {
    "sparse_tokens": 4096,
    "measure": False,
    "steps": 20,
    "cfg": 3.0,
    "sampler_name": "euler",
    "scheduler": "simple",
    "measured_runs": 1,
}


def sample(comfyui: ComfyUI, level: str | None, size: int = 128, steps: int = 20, **settings: Any) -> torch.Tensor:
    graph = comfyui.graph()
    parts = sd3(graph, width=size, height=size)
    if level:
        parts["model"] = graph.add(
            "JetBlockModelOptimizer", model=parts["model"], level=level, **{**SETTINGS, **settings}
        )[0]
    return graph.run(ksampler(graph, parts, steps=steps))["samples"]


def error(x: torch.Tensor, reference: torch.Tensor) -> float:
    return float((x - reference).norm() / reference.norm())


def test_each_level_is_what_it_says(comfyui: ComfyUI) -> None:
    """At 512 pixels the tiny model has 1024 tokens, so that two paths can be had with a lower bound."""
    bound = {"sparse_tokens": 512}
    plain = sample(comfyui, None, 512)
    results = {level: sample(comfyui, level, 512, **bound) for level in ("low", "medium", "high", "extreme")}
    errors = {level: error(x, plain) for level, x in results.items()}
    assert errors["low"] < 1e-4
    assert 1e-3 < errors["medium"] < 0.1
    assert not torch.equal(results["high"], results["medium"])  # two paths
    assert errors["high"] < 0.2
    assert not torch.equal(results["extreme"], results["high"])
    assert errors["extreme"] < 0.3
    # Below the bound high is medium.
    assert torch.equal(sample(comfyui, "high", 512), results["medium"])
    # No level leaves anything in the model that it was made from.
    assert torch.equal(sample(comfyui, None, 512), plain)


def test_extreme_computes_in_8_bits_and_the_manager_sees_it(comfyui: ComfyUI) -> None:
    graph = comfyui.graph()
    parts = sd3(graph)
    node = graph.add("JetBlockModelOptimizer", model=parts["model"], level="extreme", **SETTINGS)
    cleared = graph.add("JetBlockCacheManager", action="clear", limit_mib=0, after=node)
    parts["model"] = cleared
    one = ksampler(graph, parts, steps=20)
    kept = graph.add("JetBlockCacheManager", action="statistics", limit_mib=0, after=one)
    parts["latent_image"] = graph.add("LatentMultiply", samples=kept, multiplier=0.0)
    again = ksampler(graph, parts, steps=20)
    after = graph.add("JetBlockCacheManager", action="statistics", limit_mib=0, after=again)
    first, second, *told = graph.run(one, again, cleared[2], kept[2], after[2])
    cleared, kept, after = map(json.loads, told)
    assert cleared["weights"] == 0
    assert kept["weights"] > 5
    assert kept["bytes"] > 100_000
    assert after["packed"] == kept["packed"]  # the second sampling found all it needed
    assert torch.equal(first["samples"], second["samples"])


def test_the_manager_bounds_and_clears(comfyui: ComfyUI) -> None:
    from jetblock import ops

    weights = [torch.ones(256, 256) for _ in range(8)]
    manage(comfyui, "clear")
    try:
        for weight in weights:
            ops.linear(torch.ones(1, 256), weight)
        kept = manage(comfyui)
        assert kept["weights"] == 8
        assert kept["bytes"] >= 8 * 256 * 256 * 2
        bounded = manage(comfyui, "set limit", limit_mib=1)
        assert 0 < bounded["bytes"] <= 1 << 20
        assert bounded["freed"] == kept["bytes"] - bounded["bytes"]
        cleared = manage(comfyui, "clear")
        assert (cleared["weights"], cleared["freed"], cleared["limit"]) == (0, bounded["bytes"], 1 << 20)
    finally:
        manage(comfyui, "set limit")


def manage(comfyui: ComfyUI, action: str = "statistics", limit_mib: int = 4096) -> dict[str, int]:
    graph = comfyui.graph()
    latent = graph.add("EmptySD3LatentImage", width=64, height=64, batch_size=1)
    node = graph.add("JetBlockCacheManager", action=action, limit_mib=limit_mib, after=latent)
    passed, text, told = graph.run(node, node[1], node[2])
    assert passed["samples"].shape == (1, 16, 8, 8)
    assert re.match(r"\d+ packed weights, [\d.]+ MiB of at most \d+ MiB", text)
    return json.loads(told)


def test_measured_levels(comfyui: ComfyUI) -> None:
    graph = comfyui.graph()
    parts = sd3(graph)
    vae = graph.add("VAELoader", vae_name="tiny_ae.safetensors")
    inputs = {**SETTINGS, "measure": True}
    node = graph.add("JetBlockModelOptimizer", level="medium", vae=vae, **parts, **inputs)
    text, told = graph.run(node[1], node[2])
    rows = {row["name"]: row for row in json.loads(told)["levels"]}
    assert list(rows) == ["plain", "low", "medium", "high", "extreme"]
    assert [row["model_calls"] for row in rows.values()] == [40, 40, 24, 24, 20]
    assert rows["plain"]["quality"]["equal_bits"]
    assert rows["low"]["quality"]["psnr_db"] is None or rows["low"]["quality"]["psnr_db"] > 60
    assert 20 < rows["medium"]["quality"]["psnr_db"] < 60
    assert all(row["durations"]["sampler_ms"] > 0 for row in rows.values())
    assert text.count("\n") == 5
    assert "medium: attention pinned to PyTorch's, exact, and 40% of the steps skipped" in text


def test_measuring_wants_something_to_measure(comfyui: ComfyUI) -> None:
    graph = comfyui.graph()
    node = graph.add("JetBlockModelOptimizer", model=sd3(graph)["model"], level="low", **{**SETTINGS, "measure": True})
    with pytest.raises(RuntimeError, match="measure is on and wants the inputs positive, negative and latent_image"):
        graph.run(node[1])


@pytest.mark.parametrize(
    ("steps", "priority", "size", "deterministic", "level", "why"),
    [
        (30, "quality", 128, False, "low", "quality asks for the exact model"),
        (8, "speed", 128, False, "low", "fewer than 12 steps"),
        (30, "balanced", 1024, False, "medium", "some can be continued"),
        (30, "speed", 512, False, "medium", "about 1024 tokens"),
        (30, "speed", 1024, False, "high", "about 4096 tokens"),
        (30, "speed", 1024, True, "medium", "the model is deterministic"),
    ],
)
def test_auto(
    comfyui: ComfyUI,
    steps: int,
    priority: str,
    size: int,
    deterministic: bool,  # noqa: FBT001
    level: str,
    why: str,
) -> None:
    graph = comfyui.graph()
    parts = sd3(graph, width=size, height=size)
    if deterministic:
        parts["model"] = graph.add("JetBlockDeterministicModel", model=parts["model"], level="batch_invariant")
    node = graph.add(
        "JetBlockAutoOptimizer",
        model=parts["model"],
        latent_image=parts["latent_image"],
        steps=steps,
        priority=priority,
    )
    chosen, reason = graph.run(node[1], node[2])
    assert chosen == level
    assert why in reason
    assert f"cpu, {steps} steps" in reason


def test_auto_patches_what_it_names(comfyui: ComfyUI) -> None:
    graph = comfyui.graph()
    parts = sd3(graph)
    inputs = {"latent_image": parts["latent_image"], "steps": 20, "priority": "balanced"}
    parts["model"] = graph.add("JetBlockAutoOptimizer", model=parts["model"], **inputs)
    chosen = graph.run(ksampler(graph, parts, steps=20))["samples"]
    assert torch.equal(chosen, sample(comfyui, "medium"))
