"""Language models looked into: the numbers are the model's, and the proof can fail."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import ROOT, ComfyUI, Graph
from test_language import loader

import jetblock
from jetblock.handles import ModelHandle
from jetblock.model import Proof
from jetblock.quantized import quantize_weights


def test_the_profile_and_its_picture(graph: Graph) -> None:
    node = graph.add("JetBlockHybridProfiler", model=loader(graph))
    [table, pattern, image] = graph.run(node, node[1], node[2])
    model = jetblock.load()
    assert (table, pattern) == (model.profile_text(), model.profile()["pattern"])
    assert image.dtype == torch.float32
    assert image.shape[0] == 1
    assert image.shape[3] == 3
    colours = (image[0].reshape(-1, 3) * 255).round().int().tolist()
    # A square has 40 by 40 pixels, its letter and its corners take some.
    for letter, colour in (("M", [76, 159, 112]), ("*", [209, 73, 91]), ("E", [61, 111, 182])):
        assert 1300 * pattern.count(letter) < colours.count(colour) < 1700 * pattern.count(letter) + 300


def test_a_model_of_attention_alone(comfyui: ComfyUI) -> None:
    """Which has no Mamba-2 layers to try, and a pattern all the same."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    folder = comfyui.base / "models" / "LLM" / "tiny-llama"
    LlamaForCausalLM(LlamaConfig(vocab_size=4096, **sizes)).save_pretrained(folder)
    shutil.copy(ROOT / "assets" / "demo-model" / "tokenizer.json", folder)
    graph = comfyui.graph()
    node = graph.add("JetBlockHybridProfiler", model=loader(graph, "tiny-llama"))
    assert graph.run(node[1]) == "*-*-"
    graph = comfyui.graph()
    settings = {"runs": 2, "control_runs": 0}
    with pytest.raises(RuntimeError, match="no Mamba-2 layers"):
        graph.run(graph.add("JetBlockMamba2Deterministic", model=loader(graph, "tiny-llama"), **settings))


def test_the_proof_passes_the_model_on(graph: Graph) -> None:
    node = graph.add("JetBlockMamba2Deterministic", model=loader(graph), runs=12, control_runs=12)
    [handle, report] = graph.run(node, node[1])
    assert handle.path is None
    assert "5 Mamba-2 layers, 2 of attention" in report
    assert "12 of 12 identical" in report
    assert int(re.search(r"usual kernels: (\d+) different", report)[1]) > 1
    state = {line.split()[3] for line in report.splitlines() if re.match(r" +(64|512) ", line)}
    assert state == {"186,880"}  # it does not grow


def test_a_failed_proof_stops_the_graph(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = Proof(2, 1, {}, "a" * 64, "b" * 64, "threads: 2", 0, 0, 0.1)
    monkeypatch.setattr(jetblock.Model, "verify", lambda *_, **__: failed)
    node = graph.add("JetBlockMamba2Deterministic", model=loader(graph), runs=2, control_runs=0)
    with pytest.raises(RuntimeError, match="NOT IDENTICAL"):
        graph.run(node)


def quantize(comfyui: ComfyUI, **settings: Any) -> list[Any]:
    graph = comfyui.graph()
    defaults = {"keys_and_values": "nvfp4", "weights": "keep", "text": "In the beginning God created the heaven."}
    model = loader(graph, settings.pop("name", "bundled demo model"))
    node = graph.add("JetBlockNVFP4Quantizer", model=model, **{**defaults, **settings})
    return graph.run(node, node[1])


def test_fewer_bits_for_keys_and_values(comfyui: ComfyUI) -> None:
    [handle, report] = quantize(comfyui)
    assert handle.model().kv == "nvfp4"
    assert "keys and values: 1,024 -> 288 bytes per token (28.1%)" in report
    assert 0 < float(re.search(r"divergence: (\S+) nats", report)[1]) < 0.1
    [handle, report] = quantize(comfyui, keys_and_values="keep")
    assert "divergence: 0.0000 nats" in report
    assert "unchanged: 100.0%" in report


def cancel() -> None:
    raise KeyboardInterrupt


def test_fewer_bits_for_weights(comfyui: ComfyUI) -> None:
    home = comfyui.base / "models" / "jetblock"
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(ROOT / "assets" / "demo-model", home / "demo")
    [handle, report] = quantize(comfyui, name="demo", weights="all", keys_and_values="keep")
    made = Path(handle.path)
    assert made.parent == home
    assert sorted(path.name for path in home.iterdir()) == ["demo", made.name]  # nothing half made
    assert handle.model().weight_bytes < 0.5 * jetblock.load().weight_bytes
    assert 0 < float(re.search(r"divergence: (\S+) nats", report)[1]) < 0.5
    before = (made / "config.json").stat().st_mtime_ns
    assert quantize(comfyui, name="demo", weights="all", keys_and_values="keep") == [handle, report]
    assert (made / "config.json").stat().st_mtime_ns == before  # used again
    shutil.rmtree(made)
    with pytest.raises(KeyboardInterrupt):
        quantize_weights(ModelHandle(path=str(home / "demo")), home, "all", cancel)
    assert [path.name for path in home.iterdir()] == ["demo"]
    [handle, _] = quantize(comfyui, name="demo", weights="all")
    with pytest.raises(RuntimeError, match="NVFP4 already"):
        quantize(comfyui, name=made.name, weights="all")
    with pytest.raises(RuntimeError, match="expected a model folder"):
        quantize(comfyui, weights="nano")
