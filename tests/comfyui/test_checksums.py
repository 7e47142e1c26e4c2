"""JetBlockChecksumValidator: what it hashes, records, compares and saves."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from graphs import ksampler, sd3
from harness import ComfyUI, Graph, Node
from PIL import Image
from test_deterministic_sampling import deterministic

import jetblock


def validated(comfyui: ComfyUI, sampled: Node, graph: Graph, **settings: Any) -> tuple[dict[str, Any], bool, str]:
    node = graph.add("JetBlockChecksumValidator", latent=sampled, **settings)
    text, same, report = graph.run(node, node[1], node[2])
    assert comfyui.kept
    return json.loads(text), same, report


def batch(comfyui: ComfyUI, expected: str = "", size: int = 3, **settings: Any) -> tuple[dict[str, Any], bool, str]:
    graph = comfyui.graph()
    return validated(comfyui, deterministic(graph, sd3(graph, batch_size=size), **settings), graph, expected=expected)


def test_an_image_alone_is_compared_with_its_batch(comfyui: ComfyUI) -> None:
    whole, same, report = batch(comfyui)
    assert same
    assert [image["number"] for image in whole["images"]] == [0, 1, 2]
    assert len({image["latent"] for image in whole["images"]}) == len(report.splitlines()) == 3
    alone, same, report = batch(comfyui, json.dumps(whole), size=1, first_image=2)
    assert same
    assert alone["images"] == whole["images"][2:]
    first, *rest = report.splitlines()
    assert first == "identical: 1 images"
    assert "without effect: EmptySD3LatentImage (node 4), batch_size: 3 -> 1" in rest


def test_it_says_why(comfyui: ComfyUI) -> None:
    one, _, _ = batch(comfyui)
    _, same, report = batch(comfyui, json.dumps(one), seed=6)
    assert not same
    first, *rest = report.splitlines()
    assert first == "different: image 0 (latent), image 1 (latent), image 2 (latent)"
    assert rest == ["JetBlockDeterministicSampler (node 5), seed: 5 -> 6"]


def test_it_says_that_nothing_recorded_explains_it(comfyui: ComfyUI) -> None:
    """ComfyUI's own noise is random where nobody gives a seed."""
    graph = comfyui.graph()
    one, _, _ = validated(comfyui, graph.give({"samples": torch.zeros(1, 16, 8, 8)}), graph)
    graph = comfyui.graph()
    _, same, report = validated(
        comfyui, graph.give({"samples": torch.ones(1, 16, 8, 8)}), graph, expected=json.dumps(one)
    )
    assert not same
    assert report.splitlines()[1:] == ["nothing recorded differs: the same run does not always give the same bits here"]


def test_files_are_told_by_their_content(comfyui: ComfyUI) -> None:
    folder = comfyui.base / "models" / "diffusion_models"
    shutil.copyfile(folder / "tiny_sd3.safetensors", folder / "copy.safetensors")

    def run(expected: str = "") -> tuple[dict[str, Any], bool, str]:
        graph = comfyui.graph()
        parts = sd3(graph)
        parts["model"] = graph.add("UNETLoader", unet_name="copy.safetensors", weight_dtype="default")
        return validated(comfyui, deterministic(graph, parts), graph, expected=expected)

    try:
        one, _, _ = run()
        [file] = one["files"]
        assert (file["name"], file["category"], len(file["sha256"])) == ("copy.safetensors", "diffusion_models", 64)
        from safetensors.torch import load_file, save_file

        state = load_file(folder / "copy.safetensors")
        state["final_layer.linear.bias"] += 1
        save_file(state, folder / "copy.safetensors")
        _, same, report = run(json.dumps(one))
        assert not same
        assert report.splitlines()[1].startswith("file copy.safetensors of diffusion_models: other content, ")
    finally:
        (folder / "copy.safetensors").unlink()


def test_environment(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> None:
    one, _, _ = batch(comfyui)
    assert one["environment"]["torch"] == torch.__version__
    assert one["environment"]["flags"] == "--cpu=True"
    assert one["environment"]["device"] == "cpu"
    from comfy.cli_args import args

    monkeypatch.setattr(args, "use_split_cross_attention", True)
    _, _, report = batch(comfyui, json.dumps(one))
    assert "without effect: flags: --cpu=True -> --cpu=True --use_split_cross_attention=True" in report


def test_a_difference_can_stop_the_run(comfyui: ComfyUI) -> None:
    one, _, _ = batch(comfyui)
    graph = comfyui.graph()
    sampled = deterministic(graph, sd3(graph), seed=9)
    with pytest.raises(RuntimeError, match=r"different: image 0 \(latent\)"):
        validated(comfyui, sampled, graph, expected=json.dumps(one), on_difference="stop")


def test_comfyui_alone_is_found_out(comfyui: ComfyUI) -> None:
    """What the node is for: the same settings, a KSampler, another batch size, other bits."""

    def run(size: int, expected: str = "") -> tuple[dict[str, Any], bool, str]:
        graph = comfyui.graph()
        sampled = ksampler(graph, sd3(graph, batch_size=size))
        return validated(comfyui, sampled, graph, expected=expected)

    whole, _, _ = run(4)
    _, same, report = run(1, json.dumps(whole))
    assert not same
    assert report.splitlines() == ["different: image 0 (latent)", "EmptySD3LatentImage (node 4), batch_size: 4 -> 1"]


def test_manifests_are_saved_with_images(comfyui: ComfyUI) -> None:
    output = comfyui.base / "output" / "proof"
    shutil.rmtree(output, ignore_errors=True)

    def run(**settings: Any) -> tuple[bool, str]:
        graph = comfyui.graph()
        sampled = deterministic(graph, sd3(graph, batch_size=2))
        images = graph.add("VAEDecode", samples=sampled, vae=graph.add("VAELoader", vae_name="tiny_ae.safetensors"))
        node = graph.add("JetBlockChecksumValidator", latent=sampled, images=images, **settings)
        return tuple(graph.run(node[1], node[2]))

    run(filename_prefix="proof/image")
    files = sorted(output.iterdir())
    assert [file.suffix for file in files] == [".png", ".png"]
    with Image.open(files[0]) as image:
        inside = json.loads(image.info["jetblock_manifest"])
        assert "prompt" in image.info
    assert sorted(inside["images"][1]) == ["image", "latent", "number"]
    same, report = run(expected=f"proof/{files[0].name}")
    assert same, report
    assert report.splitlines()[0] == "identical: 2 images"


def test_manifests_are_saved_alone(comfyui: ComfyUI) -> None:
    output = comfyui.base / "output" / "alone"
    shutil.rmtree(output, ignore_errors=True)
    graph = comfyui.graph()
    made, _, _ = validated(comfyui, deterministic(graph, sd3(graph)), graph, filename_prefix="alone/run")
    [file] = output.iterdir()
    assert json.loads(file.read_text()) == made
    _, same, _ = batch(comfyui, f"alone/{file.name}", size=1)
    assert same


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ("{", "the expected manifest is no JSON"),
        ('{"format": "other"}', "the manifest has the format 'other', expected 'jetblock-run/1'"),
        ('{"format": "jetblock-run/1", "images": 3}', "the manifest's images is int, expected list"),
        ("../../secret.json", "no file '../../secret.json' in ComfyUI's output and input folders"),
    ],
)
def test_mistakes_are_named(comfyui: ComfyUI, expected: str, message: str) -> None:
    Path(comfyui.base.parent / "secret.json").write_text("{}")
    with pytest.raises(RuntimeError, match=message.replace("(", r"\(")):
        batch(comfyui, expected, size=1)


def test_nothing_to_hash(graph: Graph) -> None:
    with pytest.raises(RuntimeError, match="neither latent nor images are connected"):
        graph.run(graph.add("JetBlockChecksumValidator")[1])


def test_digests_are_those_of_the_package(comfyui: ComfyUI) -> None:
    graph = comfyui.graph()
    samples = torch.arange(16.0).reshape(2, 2, 2, 2)
    made, _, _ = validated(comfyui, graph.give({"samples": samples, "batch_index": [4, 9]}), graph)
    assert made["images"] == [
        {"number": 4, "latent": jetblock.checksum(samples[0])},
        {"number": 9, "latent": jetblock.checksum(samples[1])},
    ]
