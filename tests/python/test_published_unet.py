"""A published diffusion U-Net with its trained weights inside `jetblock.deterministic`.

Heights of terrain, 10 million parameters, from the package adaptive-terrain-diffusion (MIT).
"""

import importlib.util
from pathlib import Path

import pytest
import torch
from onnx_on_torch import Graph

import jetblock

SIGMA = 80.0
WEIGHTS = "weights/terrain_consistency_unet_difficulty100.onnx"


@pytest.fixture(scope="module")
def unet() -> Graph:
    spec = importlib.util.find_spec("terrain_diffusion")
    assert spec is not None
    assert spec.origin is not None
    return Graph(Path(spec.origin).parent / WEIGHTS)


@pytest.fixture(scope="module")
def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "noisy": torch.randn(3, 1, 128, 128, generator=generator) * SIGMA,
        "sigma": torch.full((3,), SIGMA),
        "difficulty": torch.tensor([0.1, 0.5, 0.9]),
    }


def terrain(unet: Graph, inputs: dict[str, torch.Tensor], rows: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return unet(**{name: values[rows] for name, values in inputs.items()})


def test_a_terrain_does_not_depend_on_its_batch(unet: Graph, inputs: dict[str, torch.Tensor]) -> None:
    with jetblock.deterministic() as report:
        batch = terrain(unet, inputs, [0, 1, 2])
        alone = [terrain(unet, inputs, [row]) for row in range(3)]
        turned = terrain(unet, inputs, [2, 0])
    covered = {row.name for row in report.rows if row.status == "covered"}
    assert {"aten.conv2d", "aten.bmm", "aten.softmax", "aten.group_norm"} <= covered
    for row in range(3):
        assert torch.equal(alone[row][0], batch[row]), row
    assert torch.equal(turned, batch[[2, 0]])
    # Heights between -1 and 1 that are no noise: neighbours are alike, and terrains differ.
    assert batch.abs().max() < 1.5
    assert (batch[..., 1:] - batch[..., :-1]).abs().mean() < 0.3 * (batch - batch.mean()).abs().mean()
    assert not torch.equal(batch[0], batch[1])
    plain = terrain(unet, inputs, [0, 1, 2])
    assert (plain - batch).abs().max() < 1e-2


def test_threads_and_instruction_sets_change_no_bit(unet: Graph, inputs: dict[str, torch.Tensor]) -> None:
    digests = set()
    before = jetblock.get_cpu()
    try:
        for threads, isa in ((1, None), (2, None), (1, "avx2")):
            jetblock.set_cpu(threads, isa)
            with jetblock.deterministic():
                digests.add(jetblock.checksum(terrain(unet, inputs, [1])))
    finally:
        jetblock.set_cpu(*before)
    assert len(digests) == 1
