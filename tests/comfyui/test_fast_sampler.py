"""JetBlockFastSampler: calls are saved, images decide alone, nothing is changed in place."""

import json
from functools import reduce
from typing import Any

import pytest
import torch
from graphs import ksampler, sd3
from harness import ComfyUI

FAST = {"skip_ratio": 0.4, "mode": "fixed", "method": "interpolate", "threshold": 0.1, "minimum_steps": 12}


class Calls:
    """Rows that the network computed; the positive and the negative conditioning of an image are two."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from comfy.model_base import BaseModel

        self.rows = 0
        network = BaseModel._apply_model  # noqa: SLF001 (what is around it may be wrapped)

        def counted(model: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            self.rows += x.shape[0]
            return network(model, x, *args, **kwargs)

        monkeypatch.setattr(BaseModel, "_apply_model", counted)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


def sample(
    comfyui: ComfyUI, fast: dict[str, Any] | None, rows: tuple[int, ...] = (0,), *, alone: bool = False, **settings: Any
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Samples images 0 to 3, of which each has its own noise; `alone` lets the model compute each for itself."""
    graph = comfyui.graph()
    parts = sd3(graph, batch_size=4)
    if alone:
        parts["model"] = graph.add("JetBlockDeterministicModel", model=parts["model"], level="batch_invariant")
    if fast is not None:
        parts["model"] = graph.add("JetBlockFastSampler", model=parts["model"], **{**FAST, **fast})
    batch = graph.add("LatentBatchSeedBehavior", samples=parts["latent_image"], seed_behavior="random")
    images = [graph.add("LatentFromBatch", samples=batch, batch_index=row, length=1) for row in rows]
    parts["latent_image"] = reduce(lambda one, two: graph.add("LatentBatch", samples1=one, samples2=two), images)
    sampled = ksampler(graph, parts, **{"steps": 20, **settings})
    if fast is None:
        return graph.run(sampled)["samples"], {}
    report = graph.add("JetBlockSkipReport", model=parts["model"], samples=sampled)
    samples, told = graph.run(report, report[2])
    return samples["samples"], json.loads(told)


def error(x: torch.Tensor, reference: torch.Tensor) -> float:
    return float((x - reference).norm() / reference.norm())


def test_skipped_steps_are_not_computed_and_are_better_than_fewer_steps(comfyui: ComfyUI, calls: Calls) -> None:
    plain, _ = sample(comfyui, None)
    assert calls.rows == 20 * 2
    calls.rows = 0
    fast, told = sample(comfyui, {})
    assert calls.rows == 12 * 2
    assert (told["steps"], told["computed"], told["skipped"]) == (20, [12], [8])
    fewer, _ = sample(comfyui, None, steps=12)
    assert 0 < error(fast, plain) < 0.75 * error(fewer, plain)


@pytest.mark.parametrize("fast", [{"skip_ratio": 0.0}, {"minimum_steps": 21}, {"mode": "adaptive", "threshold": 0.0}])
def test_where_nothing_is_skipped_no_bit_changes(comfyui: ComfyUI, fast: dict[str, Any], calls: Calls) -> None:
    plain, _ = sample(comfyui, None)
    same, told = sample(comfyui, fast)
    assert torch.equal(same, plain)
    assert told["skipped"] == [0]
    assert calls.rows == 2 * 20 * 2


def test_few_steps_are_left_alone(comfyui: ComfyUI) -> None:
    plain, _ = sample(comfyui, None, steps=8)
    same, told = sample(comfyui, {"skip_ratio": 0.8}, steps=8)
    assert torch.equal(same, plain)
    assert told["skipped"] == [0]


@pytest.mark.parametrize("mode", ["fixed", "adaptive"])
def test_an_image_has_the_bits_that_it_has_alone(comfyui: ComfyUI, mode: str, calls: Calls) -> None:
    fast = {"mode": mode, "threshold": 0.06, "skip_ratio": 0.5}
    whole, told = sample(comfyui, fast, (0, 1, 2, 3), alone=True)
    assert calls.rows == 2 * sum(told["computed"])
    if mode == "adaptive":
        assert len(set(told["skipped"])) > 1, "all images decided alike, so it was not seen that they decide alone"
    for row in range(4):
        alone, told_alone = sample(comfyui, fast, (row,), alone=True)
        assert torch.equal(alone, whole[row : row + 1])
        assert told_alone["skipped"] == [told["skipped"][row]]
    assert torch.equal(sample(comfyui, fast, (3, 1), alone=True)[0], whole[[3, 1]])


def test_a_low_threshold_saves_less_and_errs_less(comfyui: ComfyUI) -> None:
    plain, _ = sample(comfyui, None, (0, 1))
    careful, few = sample(comfyui, {"mode": "adaptive", "threshold": 0.03}, (0, 1))
    bold, many = sample(comfyui, {"mode": "adaptive", "threshold": 0.3}, (0, 1))
    assert 0 < sum(few["skipped"]) < sum(many["skipped"])
    assert error(careful, plain) < error(bold, plain)


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "heun", "euler_ancestral", "dpmpp_2m_sde", "uni_pc", "dpm_2"])
def test_every_sampler(comfyui: ComfyUI, sampler: str, calls: Calls) -> None:
    plain, _ = sample(comfyui, None, sampler_name=sampler)
    rows, calls.rows = calls.rows, 0
    fast, told = sample(comfyui, {}, sampler_name=sampler)
    assert calls.rows == 2 * told["computed"][0] < 0.7 * rows
    assert 0 < error(fast, plain) < 0.15


class Changes:
    """How many calls of the network changed their input, from which ComfyUI then computes the picture."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from comfy.model_base import BaseModel

        self.count = 0
        network = BaseModel._apply_model  # noqa: SLF001 (as above)

        def watched(model: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            before = x.clone()
            result = network(model, x, *args, **kwargs)
            self.count += not torch.equal(before, x)
            return result

        monkeypatch.setattr(BaseModel, "_apply_model", watched)


@pytest.mark.parametrize("mode", ["fixed", "adaptive"])
def test_no_input_is_changed_in_place(comfyui: ComfyUI, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = Changes(monkeypatch)
    _, told = sample(comfyui, {"mode": mode, "threshold": 0.3}, (0, 1))
    assert sum(told["skipped"]) > 0
    assert changes.count == 0


def test_comfyuis_cache_does_and_spoils_the_picture(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: EasyCache adds to the network's input in place, which in f32 ComfyUI still needs.

    It skips nothing on SD3, whose network calls no wrappers; so they are called for it here, as other networks do.
    """
    from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper as Network
    from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers

    plain = simply(comfyui)
    cache = {"reuse_threshold": 0.2, "start_percent": 0.1, "end_percent": 0.95, "verbose": False}
    assert torch.equal(simply(comfyui, "EasyCache", **cache), plain)
    forward = Network.forward

    def as_others_do(network: Any, x: torch.Tensor, timesteps: torch.Tensor, **options: Any) -> torch.Tensor:
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options["transformer_options"])
        call = WrapperExecutor.new_class_executor(forward.__get__(network), network, wrappers)
        return call.execute(x, timesteps, **options)

    monkeypatch.setattr(Network, "forward", as_others_do)
    assert torch.equal(simply(comfyui), plain)
    changes = Changes(monkeypatch)
    spoiled = simply(comfyui, "EasyCache", **cache)
    assert changes.count > 0
    spoilt = changes.count
    fast = simply(comfyui, "JetBlockFastSampler", **FAST)
    assert changes.count == spoilt
    assert 0 < error(fast, plain) < 0.1 * error(spoiled, plain)


def simply(comfyui: ComfyUI, patch: str | None = None, **settings: Any) -> torch.Tensor:
    """Samples an image from ComfyUI's noise, with a patch of the model."""
    graph = comfyui.graph()
    parts = sd3(graph)
    if patch:
        parts["model"] = graph.add(patch, model=parts["model"], **settings)
    return graph.run(ksampler(graph, parts, steps=20))["samples"]


def test_a_run_leaves_nothing_behind(comfyui: ComfyUI) -> None:
    """The patched model, used twice, gives the same; the model before the patch is as it was."""
    graph = comfyui.graph()
    parts = sd3(graph)
    fast = {**parts, "model": graph.add("JetBlockFastSampler", model=parts["model"], **FAST)}
    latents = graph.run(*[ksampler(graph, which, steps=20) for which in (fast, parts, fast)])
    first, plain, second = [latent["samples"] for latent in latents]
    assert torch.equal(first, second)
    assert torch.equal(plain, simply(comfyui))
    assert not torch.equal(first, plain)


def test_what_cannot_be_is_refused_in_words(comfyui: ComfyUI) -> None:
    with pytest.raises(RuntimeError, match="sample_euler_cfg_pp needs the unconditional prediction of every step"):
        sample(comfyui, {}, sampler_name="euler_cfg_pp")
    with pytest.raises(ValueError, match="skip_ratio"):
        sample(comfyui, {"skip_ratio": 0.9})
    graph = comfyui.graph()
    parts = sd3(graph)
    report = graph.add("JetBlockSkipReport", model=parts["model"], samples=ksampler(graph, parts))
    with pytest.raises(RuntimeError, match="connect the output of JetBlock Fast Sampler"):
        graph.run(report[1])
