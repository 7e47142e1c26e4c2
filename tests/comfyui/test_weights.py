"""Deterministic sampling where weights change: LoRAs, hooks, and what level portable keeps of them meanwhile."""

import sys
from pathlib import Path

import pytest
import torch
from graphs import ksampler, sd3
from harness import ComfyUI
from test_deterministic_sampling import LEVELS, assert_images_are_apart, deterministic, render

from jetblock import ops

STEPS = 4
LORA = "tiny_lora.safetensors"
RANK = 1024


@pytest.fixture(autouse=True)
def lora(comfyui: ComfyUI) -> Path:
    """A LoRA of one weight of the tiny SD3."""
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(1)
    name = "diffusion_model.joint_blocks.0.x_block.attn.qkv"
    # Of a rank at which PyTorch's sums of products have another order than the contract's.
    up, down = (torch.randn(384, RANK, generator=generator), torch.randn(RANK, 128, generator=generator) / RANK)
    file = comfyui.base / "models" / "loras" / LORA
    file.parent.mkdir(exist_ok=True)
    save_file({f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}, file)
    return file


@pytest.mark.parametrize("level", LEVELS)
def test_lora(comfyui: ComfyUI, level: str) -> None:
    def run(strength: float = 0.2, batch: int = 1, first_image: int = 0) -> torch.Tensor:
        graph = comfyui.graph()
        parts = sd3(graph, batch_size=batch)
        parts["model"] = graph.add("LoraLoaderModelOnly", model=parts["model"], lora_name=LORA, strength_model=strength)
        return graph.run(deterministic(graph, parts, first_image=first_image, level=level))["samples"]

    assert_images_are_apart(run, (3,))
    assert not torch.equal(run(), run(0.0))
    assert torch.equal(run(0.0), render(comfyui, "sd3", level=level))


def merged(comfyui: ComfyUI, level: str | None, *, before: bool = False) -> torch.Tensor:
    """The weight with the LoRA in it after a run, or after a run of ComfyUI's own and one at the level."""
    graph = comfyui.graph()
    parts = sd3(graph)
    parts["model"] = graph.add("LoraLoaderModelOnly", model=parts["model"], lora_name=LORA, strength_model=0.3)
    model, *others = graph.run(*[parts[name] for name in ("model", "positive", "negative", "latent_image")])
    runs = [None] * before + [level]
    for of_run in runs:
        graph = comfyui.graph()
        given = {name: graph.give(part) for name, part in zip(parts, (model, *others), strict=True)}
        if of_run:
            graph.run(deterministic(graph, given, level=of_run, steps=1))
        else:
            graph.run(ksampler(graph, given, steps=1))
    return model.model.diffusion_model.joint_blocks[0].x_block.attn.qkv.weight.clone()


def test_portable_merges_by_the_contract(comfyui: ComfyUI) -> None:
    """PyTorch's product of the two factors is another one on other processors."""
    theirs, portable = merged(comfyui, None), merged(comfyui, "portable")
    assert not torch.equal(theirs, portable)  # the control, by roundings
    torch.testing.assert_close(theirs, portable)
    assert torch.equal(merged(comfyui, "batch_invariant"), theirs)
    # Also where ComfyUI has used the model before.
    assert torch.equal(merged(comfyui, "portable", before=True), portable)


def test_weights_are_packed_once_a_run(comfyui: ComfyUI) -> None:
    def packed(steps: int) -> int:
        before = ops.weight_cache_stats()
        render(comfyui, "sd3", level="portable", steps=steps)
        after = ops.weight_cache_stats()
        assert after["weights"] == before["weights"]  # nothing stays: before the next run they may change
        return after["packed"] - before["packed"]

    assert packed(1) == packed(STEPS) > 10


BOTH = ("positive", "negative")


def hooked(
    comfyui: ComfyUI, conditionings: tuple[str, ...] = BOTH, batch: int = 1, first_image: int = 0
) -> torch.Tensor:
    """The LoRA on conditionings, in the second half only: with both, weights change once; with one, at every call."""
    graph = comfyui.graph()
    parts = sd3(graph, batch_size=batch)
    hook = graph.add("CreateHookLoraModelOnly", lora_name=LORA, strength_model=0.2)
    frames = graph.add("CreateHookKeyframe", strength_mult=0.0, start_percent=0.0)
    frames = graph.add("CreateHookKeyframe", prev_hook_kf=frames, strength_mult=1.0, start_percent=0.5)
    hooks = graph.add("SetHookKeyframes", hooks=hook, hook_kf=frames)
    for name in conditionings:
        parts[name] = graph.add(
            "ConditioningSetProperties", cond_NEW=parts[name], hooks=hooks, strength=1.0, set_cond_area="default"
        )
    node = deterministic(graph, parts, first_image=first_image, level="portable", steps=STEPS)
    return graph.run(node)["samples"]


@pytest.mark.parametrize("conditionings", [BOTH, BOTH[:1]])
def test_hooks(comfyui: ComfyUI, conditionings: tuple[str, ...]) -> None:
    assert_images_are_apart(lambda **batch: hooked(comfyui, conditionings, **batch), (3,))
    assert not torch.equal(hooked(comfyui, conditionings), render(comfyui, "sd3", level="portable"))


@pytest.mark.parametrize("conditionings", [BOTH, BOTH[:1]])
def test_packed_weights_would_be_stale(
    comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch, conditionings: tuple[str, ...]
) -> None:
    """The control: weights kept although hooks change them give other bits, and are noticed if they stay changed."""
    right = hooked(comfyui, conditionings)
    monkeypatch.setattr(comfyui.module("_portable"), "is_constant", lambda _: True)
    if conditionings == BOTH:
        with pytest.raises(RuntimeError, match=r"JetBlockError: a weight of shape \[384, 128\] has changed"):
            hooked(comfyui, conditionings)
    monkeypatch.setattr(sys.modules["jetblock.ops._weights"].Constants, "check", lambda _: None)
    assert not torch.equal(hooked(comfyui, conditionings), right)


def test_functions_of_others_may_change_weights(comfyui: ComfyUI) -> None:
    def packed(*, rescale: bool) -> int:
        before = ops.weight_cache_stats()["packed"]
        graph = comfyui.graph()
        parts = sd3(graph)
        if rescale:
            parts["model"] = graph.add("RescaleCFG", model=parts["model"], multiplier=0.7)
        graph.run(deterministic(graph, parts, level="portable", steps=1))
        return ops.weight_cache_stats()["packed"] - before

    assert packed(rescale=False) > 0
    assert packed(rescale=True) == 0  # none that were kept
