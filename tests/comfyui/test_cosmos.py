"""JetBlockCosmosTemporalSkipper and JetBlockCosmosOptimizer, on a tiny Cosmos Predict2."""

from typing import Any

import pytest
import torch
from graphs import ksampler, sd3
from harness import ComfyUI, Graph, Node

STEPS = 14


def cosmos(graph: Graph, frames: int = 5, batch_size: int = 1) -> dict[str, Any]:
    """What samplers take: the tiny Cosmos, conditionings of a digit and of nothing, an empty video."""
    return {
        "model": graph.add("UNETLoader", unet_name="tiny_cosmos.safetensors", weight_dtype="default"),
        "positive": graph.add("TestCosmosConditioning", label=3),
        "negative": graph.add("TestCosmosConditioning", label=-1),
        "latent_image": graph.add(
            "EmptyCosmosLatentVideo", width=64, height=64, length=8 * frames - 7, batch_size=batch_size
        ),
    }


class Tokens:
    """Frames that the network computed; the positive and the negative conditioning count twice."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from comfy.ldm.cosmos.predict2 import MiniTrainDIT

        self.frames = 0
        forward = MiniTrainDIT.forward

        def counted(network: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            self.frames += x.shape[0] * x.shape[2]
            return forward(network, x, *args, **kwargs)

        monkeypatch.setattr(MiniTrainDIT, "forward", counted)


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> Tokens:
    return Tokens(monkeypatch)


def sample(comfyui: ComfyUI, *patches: tuple[str, dict[str, Any]], steps: int = STEPS, **latent: Any) -> torch.Tensor:
    graph = comfyui.graph()
    parts = cosmos(graph, **latent)
    for patch, settings in patches:
        parts["model"] = graph.add(patch, model=parts["model"], **settings)
    return graph.run(ksampler(graph, parts, steps=steps))["samples"]


def error(x: torch.Tensor, reference: torch.Tensor) -> float:
    return float((x - reference).norm() / reference.norm())


SKIPPER = ("JetBlockCosmosTemporalSkipper", {"stride": 2, "full_every": 2})
FAST = ("JetBlockFastSampler", {"skip_ratio": 0.4, "mode": "fixed", "method": "interpolate", "threshold": 0.1})
FAST[1]["minimum_steps"] = 12


def test_the_tiny_cosmos_is_one(comfyui: ComfyUI) -> None:
    from comfy.model_base import CosmosPredict2

    graph = comfyui.graph()
    model = graph.run(cosmos(graph)["model"])
    assert isinstance(model.model, CosmosPredict2)
    video = sample(comfyui)
    assert video.shape == (1, 16, 5, 8, 8)
    # What it was trained on hardly changes from frame to frame.
    assert float((video[:, :, 1:] - video[:, :, :-1]).norm()) < float(video.norm())


def test_frames_follow_their_neighbours(comfyui: ComfyUI, tokens: Tokens) -> None:
    plain = sample(comfyui)
    assert tokens.frames == STEPS * 5 * 2
    graph = comfyui.graph()
    parts = cosmos(graph)
    parts["model"] = graph.add(SKIPPER[0], model=parts["model"], **SKIPPER[1])
    tokens.frames = 0
    node = graph.add("JetBlockCosmosReport", model=parts["model"], samples=ksampler(graph, parts, steps=STEPS))
    fast, text, computed, skipped = graph.run(*[node[slot] for slot in range(4)])
    assert tokens.frames == 2 * computed
    assert (computed, skipped) == (STEPS * 5 - 6 * 2, 6 * 2)
    assert text == "12 of 70 frames followed their neighbours (17%)."
    assert 0 < error(fast["samples"], plain) < 0.1
    # And the plain model is as it was.
    assert torch.equal(sample(comfyui), plain)


def test_key_frames_keep_their_places_in_time(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> None:
    from comfy.ldm.cosmos.position_embedding import LearnablePosEmbAxis

    graph = comfyui.graph()
    model = graph.run(graph.add(SKIPPER[0], model=cosmos(graph)["model"], **SKIPPER[1]))
    rotary = model.object_patches["diffusion_model.pos_embedder.generate_embeddings"]
    learned = LearnablePosEmbAxis(interpolation="crop", model_channels=8, len_h=4, len_w=4, len_t=9)
    for parameter in learned.parameters():
        torch.nn.init.normal_(parameter)
    for place, axis in ((rotary, 0), (type(rotary)(learned), 1)):
        whole = place(torch.Size((1, 9, 4, 4, 8)), fps=None)
        place.frames, place.whole = [0, 4, 8], 9
        some = place(torch.Size((1, 3, 4, 4, 8)), fps=None)
        place.frames = None
        by_frame = whole if axis else whole.unflatten(0, (9, 16))[None]
        assert torch.equal(some if axis else some.unflatten(0, (3, 16))[None], by_frame[:, [0, 4, 8]])
        assert not torch.equal(some, place(torch.Size((1, 3, 4, 4, 8)), fps=None))
    # And the network does ask for them.
    right = sample(comfyui, SKIPPER)
    monkeypatch.setattr(type(rotary), "__call__", lambda self, *args, **kwargs: self.generate(*args, **kwargs))
    assert not torch.equal(sample(comfyui, SKIPPER), right)


def test_a_video_has_the_bits_that_it_has_alone(comfyui: ComfyUI) -> None:
    deterministic = ("JetBlockDeterministicModel", {"level": "batch_invariant"})

    def rows(*chosen: int) -> torch.Tensor:
        graph = comfyui.graph()
        parts = cosmos(graph, batch_size=2)
        for patch, settings in (deterministic, SKIPPER):
            parts["model"] = graph.add(patch, model=parts["model"], **settings)
        batch = graph.add("LatentBatchSeedBehavior", samples=parts["latent_image"], seed_behavior="random")
        if len(chosen) == 1:
            batch = graph.add("LatentFromBatch", samples=batch, batch_index=chosen[0], length=1)
        parts["latent_image"] = batch
        return graph.run(ksampler(graph, parts, steps=STEPS))["samples"]

    both = rows(0, 1)
    assert not torch.equal(both[0], both[1])
    for row in range(2):
        assert torch.equal(rows(row)[0], both[row])


def test_frames_and_steps_in_either_order(comfyui: ComfyUI, tokens: Tokens) -> None:
    plain = sample(comfyui)
    tokens.frames = 0
    one = sample(comfyui, SKIPPER, FAST)
    first, tokens.frames = tokens.frames, 0
    other = sample(comfyui, FAST, SKIPPER)
    # Nine steps are computed, of which the third, fifth and seventh have three frames.
    assert first == tokens.frames == 2 * (9 * 5 - 3 * 2)
    assert torch.equal(one, other)
    assert 0 < error(one, plain) < 0.15


@pytest.mark.parametrize(("level", "bound"), [("low", 1e-4), ("medium", 0.1), ("high", 0.15)])
def test_levels(comfyui: ComfyUI, level: str, bound: float, tokens: Tokens) -> None:
    plain = sample(comfyui)
    tokens.frames = 0
    assert error(sample(comfyui, ("JetBlockCosmosOptimizer", {"level": level})), plain) < bound
    assert tokens.frames == {"low": 140, "medium": 90, "high": 78}[level]


def report(graph: Graph, parts: dict[str, Any]) -> Node:
    return graph.add("JetBlockCosmosReport", model=parts["model"], samples=parts["latent_image"])[1]


def test_what_cannot_be_is_refused_in_words(comfyui: ComfyUI) -> None:
    for node, settings in (SKIPPER, ("JetBlockCosmosOptimizer", {"level": "high"})):
        graph = comfyui.graph()
        patched = graph.add(node, model=sd3(graph)["model"], **settings)
        with pytest.raises(RuntimeError, match="this model is SD3, expected Cosmos or Cosmos Predict2"):
            graph.run(patched)
    graph = comfyui.graph()
    with pytest.raises(RuntimeError, match="connect the output of JetBlock Cosmos Temporal Skipper"):
        graph.run(report(graph, cosmos(graph)))
    graph = comfyui.graph()
    parts = cosmos(graph)
    parts["model"] = graph.add(SKIPPER[0], model=parts["model"], **SKIPPER[1])
    mask = graph.add("SolidMask", value=1.0, width=8, height=8)
    masked = {"mask": mask, "strength": 1.0, "set_cond_area": "default"}
    parts["positive"] = graph.add("ConditioningSetMask", conditioning=parts["positive"], **masked)
    with pytest.raises(RuntimeError, match="a conditioning with mask cannot be cut into frames"):
        graph.run(ksampler(graph, parts, steps=STEPS))
