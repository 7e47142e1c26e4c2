"""Language models in a graph: they write what the package writes, say how far they are, and stop when told to."""

import json
import shutil
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
from harness import ROOT, ComfyUI, Graph, Node

import jetblock
from jetblock.handles import MODELS, ModelCache, ModelHandle

BUNDLED = "bundled demo model"
WHO = [{"role": "user", "content": "Who are you?"}]


@pytest.fixture
def folder(comfyui: ComfyUI) -> Path:
    """A model folder in models/jetblock."""
    copy = comfyui.base / "models" / "jetblock" / "demo"
    shutil.rmtree(copy.parent, ignore_errors=True)
    shutil.copytree(ROOT / "assets" / "demo-model", copy)
    return copy


def loader(graph: Graph, name: str = BUNDLED) -> Node:
    return graph.add("JetBlockNemotronLoader", model_name=name)


def generate(graph: Graph, model: Node, **settings: Any) -> Node:
    defaults = {"prompt": "Who are you?", "seed": 1, "max_tokens": 48, "thinking": "off", "thinking_budget": -1}
    return graph.add("JetBlockNemotronGenerate", model=model, temperature=-1.0, top_p=-1.0, **{**defaults, **settings})


def test_text_is_that_of_the_package(graph: Graph) -> None:
    node = generate(graph, loader(graph), seed=7)
    [text, thinking] = graph.run(node, node[1])
    assert text == jetblock.load().generate(WHO, think="off", seed=7, max_tokens=48).content
    assert len(text) > 20
    assert thinking == ""


def test_thinking_and_its_budget(comfyui: ComfyUI) -> None:
    def run(**settings: Any) -> list[str]:
        graph = comfyui.graph()
        model = loader(graph)
        if settings.pop("by_mode", False):
            model = graph.add("JetBlockCascadeMode", model=model, thinking="on", thinking_budget=3, thinking_grace=0)
            settings = {"thinking": "as the model is set", **settings}
        node = generate(graph, model, **settings)
        return graph.run(node, node[1])

    [_, free] = run(thinking="on")
    [answer, cut] = run(thinking="on", thinking_budget=3)
    assert 0 < len(cut) < len(free)
    assert answer
    own = jetblock.load().generate(WHO, think="on", seed=1, max_tokens=48, thinking_budget=3, thinking_grace=0)
    assert run(by_mode=True) == [own.content, own.reasoning]


class Progress:
    """ComfyUI's progress bar, every update of which is seen: newer versions show ten a second."""

    seen: ClassVar[list[tuple[int, int]]] = []
    cancel_at: ClassVar[int | None] = None

    def __init__(self, total: int) -> None:
        self.value, self.total = 0, total

    def update(self, step: int) -> None:
        self.update_absolute(self.value + step)

    def update_absolute(self, value: int) -> None:
        import comfy.model_management

        self.value = value
        self.seen.append((value, self.total))
        if value == self.cancel_at:
            comfy.model_management.interrupt_current_processing()


@pytest.fixture
def progress(monkeypatch: pytest.MonkeyPatch) -> type[Progress]:
    import comfy.utils

    monkeypatch.setattr(comfy.utils, "ProgressBar", Progress)
    monkeypatch.setattr(Progress, "seen", [])
    return Progress


def test_progress_counts_to_the_end(graph: Graph, progress: type[Progress]) -> None:
    graph.run(generate(graph, loader(graph), max_tokens=20))
    *steps, last = progress.seen
    assert steps == [(number + 1, 20) for number in range(len(steps))]
    assert len(steps) > 5
    assert last == (20, 20)


def test_text_is_shown_as_it_comes(comfyui: ComfyUI, graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, str]] = []
    monkeypatch.setattr(comfyui.server, "send_progress_text", lambda *event: sent.append(event))
    module = sys.modules[comfyui.nodes.NODE_CLASS_MAPPINGS["JetBlockNemotronGenerate"].__module__]
    monkeypatch.setattr(module.models.Shown, "INTERVAL", 0.0)
    node = generate(graph, loader(graph), thinking="on", max_tokens=30)
    text, thinking = graph.run(node, node[1])
    texts = [shown for shown, node_id in sent if node_id == node.link[0]]
    assert len(texts) == len(sent) > 10
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    assert texts[-1] == thinking + text


def test_cancel_stops_it(graph: Graph, progress: type[Progress], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "cancel_at", 3)
    with pytest.raises(InterruptedError):
        graph.run(generate(graph, loader(graph), thinking="on", max_tokens=1000))
    assert progress.seen == [(1, 1000), (2, 1000), (3, 1000)]


def test_a_receipt_can_be_verified(comfyui: ComfyUI) -> None:
    def run(*, receipt: bool) -> str:
        graph = comfyui.graph()
        return graph.run(generate(graph, loader(graph), max_tokens=4, receipt=receipt)[2])

    assert jetblock.load().verify_receipt(jetblock.Receipt(run(receipt=True)))
    assert run(receipt=False) == ""


def test_models_are_found_by_folder_and_loaded_again_when_they_change(comfyui: ComfyUI, folder: Path) -> None:
    offered = comfyui.nodes.NODE_CLASS_MAPPINGS["JetBlockNemotronLoader"].GET_NODE_INFO_V1
    first, *others = offered()["input"]["required"]["model_name"][1]["options"]
    assert first == BUNDLED
    assert "demo" in others

    def handle() -> ModelHandle:
        graph = comfyui.graph()
        return graph.run(loader(graph, "demo"))

    first = handle()
    assert (first.name, first.path) == ("demo", str(folder))
    assert first.model() is handle().model()
    (folder / "config.json").touch()
    assert first.model() is not None
    before = first.files()
    (folder / "generation_config.json").write_text("{}")
    assert first.files() != before


def test_a_model_that_is_not_there_is_refused(graph: Graph) -> None:
    # Who says so, ComfyUI or the node, depends on ComfyUI's version.
    with pytest.raises((ValueError, RuntimeError), match=r"not in list|there is no model"):
        graph.run(loader(graph, "../../secret"))


def test_a_broken_model_says_what_is_wrong(comfyui: ComfyUI, folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "unheard_of"}')
    graph = comfyui.graph()
    with pytest.raises(RuntimeError, match="unheard_of"):
        graph.run(generate(graph, loader(graph, "demo")))


def test_modes_change_what_they_say(comfyui: ComfyUI) -> None:
    def run(mode: str) -> tuple[str, ModelHandle, str]:
        graph = comfyui.graph()
        switch = graph.add("JetBlockV3ModeSwitch", model=loader(graph), mode=mode)
        text, handle, level = graph.run(generate(graph, switch, receipt=True, max_tokens=32)[2], switch, switch[1])
        return text, handle, level

    receipts = {mode: run(mode) for mode in ("portable", "speed", "small_memory", "exact_f32")}
    facts = {mode: jetblock.Receipt(text).facts for mode, (text, _, _) in receipts.items()}
    for mode, kv, operands in (("small_memory", "nvfp4", "bf16"), ("exact_f32", "f32", "f32")):
        assert (facts[mode]["contract"]["kv"], facts[mode]["contract"]["operands"]) == (kv, operands)
    # The level that the node names is the one of the run.
    assert all(facts[mode]["contract"]["level"] == level for mode, (_, _, level) in receipts.items())
    assert receipts["speed"][1].speculate == 8
    same = jetblock.Receipt(receipts["portable"][0]).compare(jetblock.Receipt(receipts["speed"][0]))
    assert same
    assert not jetblock.Receipt(receipts["portable"][0]).compare(jetblock.Receipt(receipts["exact_f32"][0]))


def test_the_optimizer_measures_and_changes_no_token(graph: Graph) -> None:
    model = loader(graph)
    node = graph.add("JetBlockNemotronOptimizer", model=model, prompt="Who are you?", max_tokens=16)
    [handle, report, text, plain] = graph.run(node, node[1], generate(graph, node), generate(graph, model))
    assert handle.speculate in (0, 2, 4, 8)
    assert f"{handle.speculate:7}  " in next(line for line in report.splitlines() if "chosen" in line)
    assert text == plain


def test_the_cache_manager_knows_them(graph: Graph) -> None:
    model = loader(graph)
    text = generate(graph, model, max_tokens=4)
    kept = graph.add("JetBlockCacheManager", action="statistics", limit_mib=0, after=text)
    cleared = graph.add("JetBlockCacheManager", action="clear", limit_mib=0, after=kept)
    before, after = (json.loads(told)["language_models"] for told in graph.run(kept[2], cleared[2]))
    assert before["models"] >= 1
    assert before["bytes"] >= jetblock.load().weight_bytes
    assert (after["models"], after["bytes"], after["freed"]) == (0, 0, before["bytes"])


def test_at_most_so_many_models_are_kept() -> None:
    cache = ModelCache(limit=2)
    first, second, third = (ModelHandle(split=split) for split in (64, 128, 256))
    kept = cache.get(first)
    cache.get(second)
    assert cache.get(first) is kept
    cache.get(third)  # the second goes
    assert cache.stats["models"] == 2
    assert cache.get(first) is kept
    assert cache.clear() == 2 * kept.weight_bytes
    assert MODELS.stats["models"] <= MODELS.stats["limit"]
