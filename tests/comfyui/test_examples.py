"""The example workflows, as they lie in the folder: each is run."""

import json
import re
from typing import Any

import numpy as np
import pytest
from examples import EXAMPLES, FOLDER, workflow
from harness import ComfyUI
from PIL import Image
from workflows import Prompt, to_api

import jetblock

STAND_INS = {
    "CheckpointLoaderSimple": "TestCheckpoint",
    "CLIPTextEncode": "TestTextEncode",
    "EmptyLatentImage": "EmptySD3LatentImage",
}
"""Tiny models of the tests in the place of a checkpoint with a text encoder."""


def saved(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def run(comfyui: ComfyUI, name: str, **settings: Any) -> tuple[Prompt, dict[str, Any]]:
    """The example's prompt, and what its nodes show."""
    prompt = to_api(saved(name), comfyui.nodes.NODE_CLASS_MAPPINGS)
    for node in prompt.values():
        node["class_type"] = STAND_INS.get(node["class_type"], node["class_type"])
        if "width" in node["inputs"]:
            node["inputs"].update(width=128, height=128)
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = 2
        node["inputs"].update({name: value for name, value in settings.items() if name in node["inputs"]})
    return prompt, comfyui.run(prompt)


def shown(prompt: Prompt, outputs: dict[str, Any]) -> list[str]:
    """The texts of the nodes that show texts, in order."""
    return [outputs[name]["text"][0] for name, node in prompt.items() if node["class_type"] == "PreviewAny"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_file_is_what_the_builder_makes(comfyui: ComfyUI, name: str) -> None:
    """`python tests/comfyui/examples.py` writes it. Sizes and types of slots vary with ComfyUI's version."""
    classes = comfyui.nodes.NODE_CLASS_MAPPINGS
    made, kept = workflow(comfyui, name), saved(name)
    assert to_api(kept, classes) == to_api(made, classes)
    places = [[(node["id"], node["pos"][0]) for node in workflow["nodes"]] for workflow in (kept, made)]
    assert places[0] == places[1]


def test_nemotron_deterministic(comfyui: ComfyUI) -> None:
    [text, thinking, receipt, other] = shown(*run(comfyui, "nemotron_deterministic"))
    assert len(text) > 20
    assert thinking
    assert text == other
    assert jetblock.load().verify_receipt(jetblock.Receipt(receipt))


def test_mamba2_benchmark(comfyui: ComfyUI) -> None:
    prompt, outputs = run(comfyui, "mamba2_benchmark")
    [table, report, tuned] = shown(prompt, outputs)
    assert "MEM*EMEM*E" in table
    assert "24 of 24 identical" in report
    assert "equal in every trial" in tuned
    [picture] = [outputs[name]["images"] for name, node in prompt.items() if node["class_type"] == "PreviewImage"]
    assert (comfyui.base / "temp" / picture[0]["filename"]).stat().st_size > 1000


def test_prompt_enhancer(comfyui: ComfyUI) -> None:
    """The text that the model writes reaches the encoder, and decides the image."""
    comfyui.kept.clear()
    prompt, outputs = run(comfyui, "prompt_enhancer")
    [text] = shown(prompt, outputs)
    assert len(text) > 20
    [image] = [outputs[name]["images"] for name, node in prompt.items() if node["class_type"] == "SaveImage"]
    first = (comfyui.base / "output" / image[0]["filename"]).read_bytes()
    assert text in comfyui.kept["encoded"]
    writer = next(node for node in prompt.values() if node["class_type"] == "JetBlockNemotronGenerate")
    writer["inputs"]["seed"] += 1
    outputs = comfyui.run(prompt)
    [other] = [outputs[name]["images"] for name, node in prompt.items() if node["class_type"] == "SaveImage"]
    assert shown(prompt, outputs) != [text]
    assert (comfyui.base / "output" / other[0]["filename"]).read_bytes() != first


def test_deterministic_batch(comfyui: ComfyUI) -> None:
    prompt, outputs = run(comfyui, "deterministic_batch")
    [report] = shown(prompt, outputs)
    first, *rest = report.splitlines()
    assert first == "identical: 1 images"
    assert any("first_image: 0 -> 2" in line for line in rest)
    saved_images = [outputs[name]["images"] for name, node in prompt.items() if node["class_type"] == "SaveImage"]
    four, [alone] = ([comfyui.base / "output" / image["filename"] for image in images] for images in saved_images)
    pixels = [np.asarray(Image.open(path)) for path in (*four, alone)]
    assert (pixels[2] == pixels[4]).all()
    assert (pixels[1] != pixels[4]).any()


def test_checksum_compare(comfyui: ComfyUI) -> None:
    theirs, ours = shown(*run(comfyui, "checksum_compare"))
    assert theirs.splitlines()[0] == "different: image 0 (latent)"
    assert ours.splitlines()[0] == "identical: 1 images"
    assert "batch_size: 4 -> 1" in theirs
    assert "batch_size: 4 -> 1" in ours


def test_speed_vs_determinism(comfyui: ComfyUI) -> None:
    texts = shown(*run(comfyui, "speed_vs_determinism", steps=15, warmup_runs=0, measured_runs=1))
    # Four images with two conditionings each; six of fifteen steps are skipped.
    calls = [[int(count) for count in re.findall(r"(\d+) calls, ", text)] for text in texts]
    assert calls == [[120, 72, 72], [120, 120, 120], [120, 72, 72]]
    for text in texts:
        plain, patched, fewer = text.splitlines()
        assert plain.endswith("the same bits")
        assert "error" in patched
        assert ("error" in fewer) == ("15 steps" not in fewer)
