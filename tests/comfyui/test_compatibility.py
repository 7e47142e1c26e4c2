"""Workflows of other versions, and what the pack says of the ComfyUI that it is in."""

import copy
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import HERE, ComfyUI, Graph, comfyui_folder

import jetblock
from jetblock import compatibility


def sent(comfyui: ComfyUI, prompt: dict[str, Any]) -> dict[str, Any]:
    """A prompt as it is after the server's handlers, through which every request goes."""
    return comfyui.server.trigger_on_prompt({"prompt": prompt})["prompt"]


OLD = {
    "1": {"class_type": "JetBlock Nemotron Loader", "inputs": {"model_path": "bundled demo model"}},
    "2": {
        "class_type": "JetBlock_NemotronGenerate",
        "inputs": {"model": ["1", 0], "prompt": "Who are you?", "max_new_tokens": 24, "enable_thinking": False},
    },
    "3": {"class_type": "TestKeep", "inputs": {"value": ["2", 0], "label": "text"}},
}
"""As somebody saved it, with other names and without inputs that came later."""


def test_old_names_and_inputs_run(comfyui: ComfyUI) -> None:
    with pytest.raises(ValueError, match="JetBlock Nemotron Loader"):
        comfyui.run(copy.deepcopy(OLD))  # the control: without the handler it is refused
    comfyui.run(sent(comfyui, copy.deepcopy(OLD)))
    messages = [{"role": "user", "content": "Who are you?"}]
    assert comfyui.kept["text"] == jetblock.load().generate(messages, max_tokens=24, think="off").content


def test_what_is_up_to_date_or_not_ours_stays(comfyui: ComfyUI, graph: Graph) -> None:
    model = graph.add("JetBlockNemotronLoader", model_name="bundled demo model")
    graph.add("JetBlockV3ModeSwitch", model=model, mode="speed")
    graph.add("KSampler", samples=1, latent=2)
    graph.prompt["9"] = {"inputs": {}}
    before = copy.deepcopy(graph.prompt)
    assert sent(comfyui, graph.prompt) == before


def test_an_input_that_a_node_has_is_not_renamed(comfyui: ComfyUI) -> None:
    prompt = {"1": {"class_type": "JetBlockNemotronGenerate", "inputs": {"max_new_tokens": 3, "max_tokens": 5}}}
    assert sent(comfyui, prompt)["1"]["inputs"]["max_tokens"] == 5


def test_no_name_stands_for_two_nodes(comfyui: ComfyUI) -> None:
    extension = comfyui.module("_upgrade")
    ids = (HERE / "node_ids.txt").read_text().split()
    classes = comfyui.nodes.NODE_CLASS_MAPPINGS
    upgrade = extension.Upgrade([classes[name] for name in ids])
    names = [other for name in ids for other in extension.other_ids(name, classes[name].GET_SCHEMA().display_name)]
    assert len(names) == len(set(names)) == len(upgrade.ids)
    assert not set(names) & classes.keys()


def test_words_for_the_search_of_newer_versions(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> None:
    from comfy_api.latest import io

    monkeypatch.setattr(io.Schema, "search_aliases", None, raising=False)
    module = comfyui.module("_upgrade")

    class Loader(comfyui.nodes.NODE_CLASS_MAPPINGS["JetBlockNemotronLoader"]):
        pass

    module.add_words([Loader])
    assert {"JetBlock Nemotron Loader", "gguf", "llm"} <= set(Loader.define_schema().search_aliases)


def report(comfyui: ComfyUI, level: str, *, with_model: bool = False) -> tuple[str, bool]:
    graph = comfyui.graph()
    inputs = {"level": level}
    if with_model:
        model = graph.add("UNETLoader", unet_name="tiny_sd3.safetensors", weight_dtype="default")
        inputs["model"] = graph.add("EasyCache", model=model, **EASY_CACHE)
    node = graph.add("JetBlockCompatibility", **inputs)
    text, holds = graph.run(node, node[1])
    return text, holds


EASY_CACHE = {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}


def test_the_node_tells_what_is_here(comfyui: ComfyUI) -> None:
    text, holds = report(comfyui, "portable")
    assert holds
    for name, value in (("torch", version("torch")), ("JetBlock", jetblock.__version__), ("device", "cpu")):
        assert any(line.split() == [name, value] for line in text.splitlines())
    assert "on      sampling at level portable" in text
    assert "nothing breaks it" in text


def test_the_node_names_what_breaks_the_promise(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> None:
    text, holds = report(comfyui, "batch_invariant", with_model=True)
    assert not holds
    assert "breaks      EasyCache" in text
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    text, holds = report(comfyui, "batch_invariant")
    assert not holds
    assert "cudnn.benchmark" in text


def test_versions_that_are_too_old_are_named() -> None:
    found = compatibility.check(comfyui="0.3.60", device="cuda:0")
    features = {feature.name: feature for feature in found.features}
    assert not found
    assert features["nodes"].reason == "ComfyUI is 0.3.60, expected ComfyUI 0.3.75 or newer"
    assert "start it with --cpu" in features["sampling at level portable"].reason
    newer = {feature.name: feature for feature in compatibility.check(comfyui="0.24.0", device="cpu").features}
    assert newer["nodes"].status == "on"


def test_the_command(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "jetblock.compatibility", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = run(str(comfyui_folder()))
    assert done.returncode == 0
    assert "ComfyUI       0." in done.stdout
    (tmp_path / "comfyui_version.py").write_text('__version__ = "0.1.2"\n')
    assert "ComfyUI is 0.1.2, expected ComfyUI 0.3.75 or newer" in run(str(tmp_path)).stdout
    missing = run(str(tmp_path / "missing"))
    assert missing.returncode == 1
    assert "expected ComfyUI's folder" in missing.stderr
