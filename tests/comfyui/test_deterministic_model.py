"""JetBlockDeterministicModel: what the network computes for an image does not depend on its batch."""

from functools import reduce

import pytest
import torch
from graphs import ksampler, sd3
from harness import ComfyUI

MODEL_LEVELS = ("batch_invariant", "portable")


def sample(comfyui: ComfyUI, level: str | None, rows: list[int], **settings: object) -> torch.Tensor:
    """Samples from start noise that belongs to images 0 to 3; `rows` are the images in the batch."""
    graph = comfyui.graph()
    parts = sd3(graph, batch_size=4)
    if level:
        parts["model"] = graph.add("JetBlockDeterministicModel", model=parts["model"], level=level)
    # Noise drawn image by image, so that it is the model alone that can differ.
    batch = graph.add("LatentBatchSeedBehavior", samples=parts["latent_image"], seed_behavior="random")
    alone = [graph.add("LatentFromBatch", samples=batch, batch_index=row, length=1) for row in rows]
    parts["latent_image"] = reduce(lambda one, two: graph.add("LatentBatch", samples1=one, samples2=two), alone)
    return graph.run(ksampler(graph, parts, **settings))["samples"]


@pytest.mark.parametrize("level", MODEL_LEVELS)
def test_an_image_has_the_bits_that_it_has_alone(comfyui: ComfyUI, level: str) -> None:
    whole = sample(comfyui, level, [0, 1, 2, 3])
    assert len({image.numpy().tobytes() for image in whole}) == 4  # they do differ
    for row in range(4):
        assert torch.equal(sample(comfyui, level, [row]), whole[row : row + 1])
    assert torch.equal(sample(comfyui, level, [3, 1]), whole[[3, 1]])


def test_comfyui_alone_does_differ(comfyui: ComfyUI) -> None:
    """The control: without the node, the same comparison fails, by roundings only."""
    whole, alone = sample(comfyui, None, [0, 1, 2, 3]), sample(comfyui, None, [0])
    assert not torch.equal(alone, whole[:1])
    torch.testing.assert_close(alone, whole[:1], rtol=1e-3, atol=1e-3)
