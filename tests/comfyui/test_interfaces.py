"""What other packs build on, used by one (`orchestra/`) through ComfyUI's links."""

import json
import re

import pytest
import torch
from graphs import ksampler, sd3
from harness import HERE, ComfyUI, Graph
from test_language import generate, loader

import jetblock
from jetblock import interfaces


def test_the_pack_needs_nothing_else_of_jetblock() -> None:
    source = (HERE / "orchestra" / "__init__.py").read_text(encoding="utf-8")
    assert re.findall(r"^(?:from|import)\b.*jetblock.*$", source, re.MULTILINE) == ["from jetblock import interfaces"]


@pytest.mark.parametrize("level", ["low", "medium"])
def test_sampler(comfyui: ComfyUI, level: str) -> None:
    """What its node makes of a model is what ours makes."""

    def run(node: str | None) -> torch.Tensor:
        graph = comfyui.graph()
        parts = sd3(graph)
        if node == "JetBlockModelOptimizer":
            inputs = comfyui.nodes.NODE_CLASS_MAPPINGS[node].INPUT_TYPES()["required"]
            more = {name: options["default"] for name, (_, options) in inputs.items() if "default" in options}
            parts["model"] = graph.add(node, **{**more, "model": parts["model"], "level": level})
        elif node:
            parts["model"] = graph.add(node, model=parts["model"], level=level)
        return graph.run(ksampler(graph, parts, steps=16))["samples"]

    theirs = run("OrchestraSampler")
    assert torch.equal(theirs, run("JetBlockModelOptimizer"))
    if level == "medium":
        assert not torch.equal(theirs, run(None))


def test_without_the_pack_there_is_no_optimizer(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interfaces, "_OPTIMIZERS", [])
    graph = comfyui.graph()
    node = graph.add("OrchestraSampler", model=sd3(graph)["model"], level="low")
    with pytest.raises(RuntimeError, match="node pack is not loaded"):
        graph.run(node)


def test_context(graph: Graph) -> None:
    """Its node's model and conditioning go on into our nodes and ComfyUI's."""
    parts = sd3(graph)
    node = graph.add("OrchestraContext", model=loader(graph), conditioning=parts["positive"])
    plain = ksampler(graph, parts)
    latent = ksampler(graph, {**parts, "positive": node[1]})
    text, handle, share, before, after = graph.run(generate(graph, node, max_tokens=8), node, node[2], plain, latent)
    assert text
    assert handle.model().kv == "nvfp4"
    assert share == 9 / 64  # of f32
    assert not torch.equal(before["samples"], after["samples"])
    torch.testing.assert_close(before["samples"], after["samples"], rtol=0.5, atol=0.5)


def test_router(comfyui: ComfyUI) -> None:
    """A text of our node decides the picture."""

    def run(text: object) -> tuple[int, float, torch.Tensor]:
        graph = comfyui.graph()
        written = generate(graph, loader(graph), max_tokens=24) if text is None else text
        node = graph.add("OrchestraRouter", text=written)
        parts = sd3(graph)
        parts["positive"] = graph.add("TestConditioning", label=node)
        choice, weight, latent = graph.run(node, node[1], ksampler(graph, parts, steps=2))
        return choice, weight, latent["samples"]

    choice, weight, latent = run(None)
    messages = [{"role": "user", "content": "Who are you?"}]
    text = jetblock.load().generate(messages, think="off", seed=1, max_tokens=24).content
    counts = [text.lower().count(letter) for letter in "aeioubcdfg"]
    assert choice == counts.index(max(counts))
    assert weight == 1.0
    other, _, picture = run("ggg ooo iii")  # a tie: the lower index
    assert other == 2
    assert not torch.equal(latent, picture)


def test_checksums_check_each_other(comfyui: ComfyUI) -> None:
    def run(seed: int, expected_seed: int) -> tuple[bool, bool, str]:
        graph = comfyui.graph()
        parts = sd3(graph, batch_size=2)
        latent, other = (ksampler(graph, parts, steps=2, seed=seed) for seed in (seed, expected_seed))
        theirs = graph.add("OrchestraChecksum", latent=other)
        ours = graph.add("JetBlockChecksumValidator", latent=latent, expected=theirs)
        again = graph.add("OrchestraChecksum", latent=other, expected=ours)
        same, same_too, report = graph.run(ours[1], again[1], ours[2])
        return same, same_too, report

    same, same_too, _ = run(1, 1)
    assert (same, same_too) == (True, True)
    same, same_too, report = run(1, 2)
    assert (same, same_too) == (False, False)
    assert "image 0 (latent)" in report


def test_what_is_wrong_is_named() -> None:
    with pytest.raises(jetblock.ArgumentError, match="multiple of 16"):
        interfaces.quantize(torch.zeros(3, 15))
    with pytest.raises(jetblock.ArgumentError, match="floating point"):
        interfaces.quantize(torch.zeros(3, 16, dtype=torch.int64))
    with pytest.raises(jetblock.ArgumentError, match="at most E"):
        interfaces.route(torch.zeros(2, 3), 4)
    with pytest.raises(jetblock.ArgumentError, match="format"):
        interfaces.compare(json.dumps({"format": "other"}), interfaces.checksums({"latent": torch.zeros(1, 2)}))


def test_rows_do_not_depend_on_each_other() -> None:
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    whole, alone = interfaces.quantize(x), interfaces.quantize(x[3:4])
    assert torch.equal(whole.codes[3:4], alone.codes)
    assert torch.equal(whole.scales[3:4], alone.scales)
    assert whole.nbytes == 5 * 18
    assert torch.equal(interfaces.route(x, 4)[1][3:4], interfaces.route(x[3:4], 4)[1])
