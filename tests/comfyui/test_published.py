"""Prompts with nodes of the published packs run, and do what the nodes in their place do."""

import copy
import json
import logging
from typing import Any

import pytest
import torch
from graphs import ksampler, sd3
from harness import HERE, ComfyUI, Graph, Node
from published import FAST, PUBLISHED, add
from test_compatibility import sent
from workflows import inputs_of

from jetblock import ops

KINDS = {"LATENT": dict, "STRING": str, "BOOLEAN": bool, "INT": int, "FLOAT": float}
ALL = sorted(PUBLISHED)
NO_MODEL_RUNS = "JetBlockBenchmark"


def run(graph: Graph, *results: Node) -> list[Any]:
    """Runs a graph through the server's handler; what these nodes put out."""
    for label, result in enumerate(results):
        graph.add("TestKeep", value=result, label=str(label))
    graph.comfyui.kept.clear()
    graph.comfyui.run(sent(graph.comfyui, graph.prompt))
    return [graph.comfyui.kept[str(label)] for label in range(len(results))]


def classes(prompt: dict[str, Any]) -> list[str]:
    return sorted(entry["class_type"] for entry in prompt.values())


def with_all_outputs(comfyui: ComfyUI, node_id: str) -> tuple[Graph, list[Node], list[str]]:
    """A graph with a published node, the outputs that something stands for, and their kinds."""
    graph = comfyui.graph()
    parts = sd3(graph)
    node = add(graph, node_id, {**parts, "latent": parts["latent_image"]})
    kinds = list(PUBLISHED[node_id][2].values())
    slots = [slot for slot, kind in enumerate(kinds) if kind]
    return graph, [node[slot] for slot in slots], [kinds[slot] for slot in slots]


@pytest.mark.parametrize("node_id", [node_id for node_id in ALL if node_id != NO_MODEL_RUNS])
def test_it_runs_and_every_output_is_something(comfyui: ComfyUI, node_id: str) -> None:
    graph, outputs, kinds = with_all_outputs(comfyui, node_id)
    as_saved = copy.deepcopy(graph.prompt)
    for label, output in enumerate(outputs):
        as_saved[f"9{label}"] = {"class_type": "TestKeep", "inputs": {"value": output.link, "label": f"was {label}"}}
    # The control: without the handler it does not.
    if node_id == "JetBlockChecksumValidator":
        comfyui.run(as_saved)
        assert isinstance(comfyui.kept["was 0"], str)  # a manifest, where the latent was passed on
    else:
        with pytest.raises((ValueError, RuntimeError), match=node_id):
            comfyui.run(as_saved)
    for value, kind in zip(run(graph, *outputs), kinds, strict=True):
        if kind == "MODEL":
            assert hasattr(value, "model")
        else:
            assert type(value) is KINDS[kind]
            assert value or kind in ("BOOLEAN", "INT", "FLOAT")


@pytest.mark.parametrize("node_id", ALL)
def test_a_second_time_changes_nothing(comfyui: ComfyUI, node_id: str) -> None:
    graph, outputs, _ = with_all_outputs(comfyui, node_id)
    for output in outputs:
        graph.add("PreviewAny", source=output)
    before = copy.deepcopy(graph.prompt)
    once = copy.deepcopy(sent(comfyui, graph.prompt))
    assert once != before
    assert sent(comfyui, copy.deepcopy(once)) == once


@pytest.mark.parametrize("node_id", (HERE / "node_ids.txt").read_text().split())
def test_ours_with_the_same_id_stays(comfyui: ComfyUI, node_id: str) -> None:
    graph = comfyui.graph()
    language = graph.add("JetBlockNemotronLoader", model_name="bundled demo model", context=2048)
    [language_kind] = comfyui.nodes.NODE_CLASS_MAPPINGS["JetBlockNemotronLoader"].RETURN_TYPES
    inputs: dict[str, Any] = {}
    for name, (kind, options, _) in inputs_of(comfyui.nodes.NODE_CLASS_MAPPINGS[node_id]).items():
        inputs[name] = language if kind == language_kind else options.get("default", "any")
    graph.add(node_id, **inputs)
    before = copy.deepcopy(graph.prompt)
    assert sent(comfyui, graph.prompt) == before


def test_the_fast_sampler_is_ksampler_on_a_model_that_skips(comfyui: ComfyUI) -> None:
    graph = comfyui.graph()
    parts = sd3(graph)
    old = add(graph, "JetBlockSampler", parts)
    full = add(graph, "JetBlockSampler", parts, skip_ratio=0.0)
    most = add(graph, "JetBlockSampler", parts, skip_ratio=0.95)
    key = add(graph, "CosmosInterpolationSampler", parts, scheduler="simple", key_frame_ratio=0.5)
    settings = {"mode": "fixed", "method": "interpolate", "threshold": 0.1, "minimum_steps": 12}
    fast = {
        ratio: {**parts, "model": graph.add("JetBlockFastSampler", model=parts["model"], skip_ratio=ratio, **settings)}
        for ratio in (0.5, 0.8)
    }
    new = [ksampler(graph, which, **FAST) for which in (fast[0.5], parts, fast[0.8], fast[0.5])]
    results = run(graph, old, full, most, key, *new, old[1])
    told = results.pop()
    assert "7 of 14" in told
    samples = [result["samples"] for result in results]
    for was, now in zip(samples[:4], samples[4:], strict=True):
        assert torch.equal(was, now)
    assert not torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], samples[2])


@pytest.mark.parametrize("node_id", ["JetBlockDeterministicSampler", "JetBlockV4DeterministicSampler"])
def test_the_deterministic_sampler_is_ours(comfyui: ComfyUI, node_id: str) -> None:
    graph = comfyui.graph()
    parts = sd3(graph, batch_size=2)
    settings = {"steps": 4, "sampler_name": "euler_ancestral"}
    old = add(graph, node_id, parts, **settings)
    new = graph.add("JetBlockDeterministicSampler", **parts, **{**FAST, **settings}, level="batch_invariant")
    assert classes(sent(comfyui, copy.deepcopy(graph.prompt))).count("JetBlockDeterministicSampler") == 2
    was, now, manifest, report = run(graph, old, new, old[1], old[2])
    assert torch.equal(was["samples"], now["samples"])
    digests = [line.split()[-1] for line in report.splitlines()]
    assert len(digests) == 2
    assert [len(digest) for digest in digests] == [64, 64]
    assert [image["latent"] for image in json.loads(manifest)["images"]] == digests


def test_another_sampler_runs_on_a_deterministic_model(comfyui: ComfyUI) -> None:
    graph = comfyui.graph()
    parts = sd3(graph)
    old = add(graph, "JetBlockDeterministicSampler", parts, sampler_name="heun", steps=4)
    exact = graph.add("JetBlockDeterministicModel", model=parts["model"], level="batch_invariant", micro_batch=1)
    new = ksampler(graph, {**parts, "model": exact}, **{**FAST, "sampler_name": "heun", "steps": 4})
    was, now = run(graph, old, new)
    assert torch.equal(was["samples"], now["samples"])


def test_a_checksum_of_the_sampler_is_validated(comfyui: ComfyUI) -> None:
    graph = comfyui.graph()
    parts = sd3(graph)
    first = add(graph, "JetBlockDeterministicSampler", parts, steps=4)
    other = add(graph, "JetBlockDeterministicSampler", parts, steps=4, seed=8)
    same = add(graph, "JetBlockChecksumValidator", {"latent": first}, expected_checksum=first[1])
    differs = add(graph, "JetBlockChecksumValidator", {"latent": other}, expected_checksum=first[1])
    # What one passes on the next one takes.
    again = add(graph, "JetBlockChecksumValidator", {"latent": same}, expected_checksum=first[1])
    sampled, passed, *same_as = run(graph, first, again, same[1], differs[1], again[1])
    assert passed is sampled
    assert same_as == [True, False, True]


def test_a_typed_checksum_is_of_another_digest(comfyui: ComfyUI, caplog: pytest.LogCaptureFixture) -> None:
    graph = comfyui.graph()
    parts = sd3(graph)
    node = add(graph, "JetBlockChecksumValidator", {"latent": parts["latent_image"]}, expected_checksum="0f31ab")
    with caplog.at_level(logging.INFO):
        latent, same, _ = run(graph, node, node[1], node[2])
    assert same is True
    assert latent["samples"].shape == (1, 16, 16, 16)
    assert f"node {node.link[0]}: JetBlockChecksumValidator of an earlier version" in caplog.text
    assert "expected_checksum is of another digest" in caplog.text


@pytest.mark.parametrize(
    ("node_id", "values", "text"),
    [
        ("JetBlockModelOptimizer", {}, "high:"),
        ("JetBlockModelOptimizer", {"use_temporal_skip": False}, "low:"),
        ("JetBlockSmartOptimizer", {}, "low:"),
        ("JetBlockSmartOptimizer", {"override_level": "medium"}, "medium:"),
        ("JetBlockSmartOptimizer", {"override_level": "medium", "safe_mode": True}, "low:"),
        ("CosmosAutoTuner", {}, "low:"),
        ("JetBlockNemotronOptimizer", {}, "batch_invariant:"),
        ("JetBlockNemotronOptimizer", {"determinism_level": "speed"}, "speed:"),
        ("JetBlockUniversalDeterminism", {}, "batch_invariant:"),
        ("JetBlockUniversalDeterminism", {"determinism_level": "speed"}, "speed:"),
        ("JetBlockMamba2Deterministic", {}, "batch_invariant:"),
        ("JetBlockHybridProfiler", {}, "torch"),
    ],
)
def test_levels_and_modes(comfyui: ComfyUI, node_id: str, values: dict[str, Any], text: str) -> None:
    graph = comfyui.graph()
    node = add(graph, node_id, sd3(graph), **values)
    slot = 0 if node_id == "JetBlockHybridProfiler" else 1
    [told] = run(graph, node[slot])
    assert text in told
    assert text == "torch" or told.startswith(text)


def test_the_cache_manager(comfyui: ComfyUI) -> None:
    limit = ops.weight_cache_stats()["limit"]
    try:
        for action, size, expected in (
            ("optimize", 0.5, 512 << 20),
            ("stats", 8.0, 512 << 20),
            ("clear", 8.0, 512 << 20),
        ):
            graph = comfyui.graph()
            [text] = run(graph, add(graph, "JetBlockCacheManager", {}, action=action, cache_size_gb=size))
            assert ops.weight_cache_stats()["limit"] == expected
            assert "512 MiB" in text
        assert ops.weight_cache_stats()["bytes"] == 0
    finally:
        ops.set_weight_cache_limit(limit)


@pytest.mark.parametrize(
    ("values", "mode", "budget"),
    [
        ({}, "think", 1000),
        ({"mode": "no_think"}, "no_think", 256),
        ({"mode": "auto"}, "think", 1000),
        ({"mode": "auto", "query": ""}, "no_think", 256),
    ],
)
def test_cascade_mode(comfyui: ComfyUI, values: dict[str, Any], mode: str, budget: int) -> None:
    graph = comfyui.graph()
    node = add(graph, "JetBlockCascadeMode", {}, **values)
    assert run(graph, node, node[1], node[2]) == [mode, budget, f"{mode}, at most {budget} tokens of thought"]


def test_the_benchmark_asks_for_conditionings(comfyui: ComfyUI) -> None:
    """And runs with them, which published ones did not have."""
    graph = comfyui.graph()
    parts = sd3(graph)
    node = add(graph, "JetBlockBenchmark", parts, iterations=1, batch_size=2)
    graph.add("PreviewAny", source=node)
    prompt = sent(comfyui, graph.prompt)
    with pytest.raises(ValueError, match="Required input is missing") as refused:
        comfyui.run(copy.deepcopy(prompt))
    assert {"positive", "negative"} <= set(str(refused.value).replace('"', " ").split())
    inputs = prompt[node.link[0]]["inputs"]
    inputs |= {name: parts[name].link for name in ("positive", "negative")}
    assert inputs["measured_runs"] == 1
    assert inputs["model"] == inputs["reference"]
    latent = prompt[inputs["latent_image"][0]]["inputs"]
    assert latent == {"width": 512, "height": 512, "batch_size": 2}
    latent |= {"width": 128, "height": 128}
    comfyui.run(prompt)


def test_what_a_checker_advises_is_taken(comfyui: ComfyUI) -> None:
    graph = comfyui.graph()
    parts = sd3(graph)
    advice = add(graph, "JetBlockCompatibilityChecker", {})
    optimizer = add(graph, "JetBlockModelOptimizer", parts, use_temporal_skip=advice[3])
    sampler = add(graph, "JetBlockSampler", parts, skip_ratio=advice[2])
    prompt = sent(comfyui, copy.deepcopy(graph.prompt))
    assert prompt[optimizer.link[0]]["inputs"]["level"] == "high"
    [skipping] = [entry for entry in prompt.values() if entry["class_type"] == "JetBlockFastSampler"]
    defaults = comfyui.nodes.NODE_CLASS_MAPPINGS["JetBlockFastSampler"].INPUT_TYPES()["required"]["skip_ratio"][1]
    assert skipping["inputs"]["skip_ratio"] == defaults["default"]
    assert not [name for name in classes(prompt) if name.startswith("Primitive")]
    assert "of 14 calls" in run(graph, sampler[1])[0]


def test_a_profiler_behind_another_published_node(comfyui: ComfyUI) -> None:
    """Its inputs are those of ours: what feeds it says which one is meant."""
    graph = comfyui.graph()
    model = add(graph, "JetBlockUniversalDeterminism", sd3(graph))
    assert "batch_invariant" in run(graph, add(graph, "JetBlockHybridProfiler", {"model": model}))[0]


def test_an_output_without_an_heir_keeps_the_node(comfyui: ComfyUI, caplog: pytest.LogCaptureFixture) -> None:
    graph = comfyui.graph()
    monitor = add(graph, "CosmosGPUMonitor", {})
    graph.add("PreviewAny", source=monitor[1])
    before = copy.deepcopy(graph.prompt)
    with caplog.at_level(logging.INFO):
        assert sent(comfyui, graph.prompt) == before
    assert "stays CosmosGPUMonitor of an earlier version: nothing stands for an output that is used" in caplog.text
    with pytest.raises(ValueError, match="CosmosGPUMonitor"):
        comfyui.run(graph.prompt)


def test_an_output_that_nobody_needs_any_more_keeps_nothing(comfyui: ComfyUI) -> None:
    """The tuner does not watch the temperature now."""
    graph = comfyui.graph()
    monitor = add(graph, "CosmosGPUMonitor", {})
    tuner = add(graph, "CosmosAutoTuner", sd3(graph), target_temperature=monitor[1])
    assert run(graph, tuner[1])[0].startswith("low:")


def test_what_has_to_be_known_keeps_the_node_where_it_is_not(comfyui: ComfyUI) -> None:
    graph = comfyui.graph()
    unknown = graph.add("PrimitiveBoolean", value=True)
    graph.add("PreviewAny", source=add(graph, "JetBlockModelOptimizer", sd3(graph), use_temporal_skip=unknown)[1])
    odd = add(graph, "JetBlockCacheManager", {}, action=["defragment"])
    before = copy.deepcopy(graph.prompt)
    after = sent(comfyui, graph.prompt)
    assert all(after[name]["class_type"] == entry["class_type"] for name, entry in before.items())
    assert after[odd.link[0]]["inputs"]["cache_size_gb"] == 8.0


def test_a_published_pack_that_is_installed_runs_its_own(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = comfyui.nodes.NODE_CLASS_MAPPINGS["TestGive"]
    for node_id in ("CosmosDashboard", "JetBlockSampler"):
        monkeypatch.setitem(comfyui.nodes.NODE_CLASS_MAPPINGS, node_id, theirs)
    graph = comfyui.graph()
    add(graph, "CosmosDashboard", {})
    add(graph, "JetBlockSampler", sd3(graph))
    before = copy.deepcopy(graph.prompt)
    assert sent(comfyui, graph.prompt) == before


def test_new_nodes_have_ids_of_their_own(comfyui: ComfyUI) -> None:
    """Nodes of subgraphs have ids with a colon."""
    graph = comfyui.graph()
    parts = sd3(graph)
    sampler = add(graph, "JetBlockSampler", parts)
    prompt = {f"70:{name}" if name == "1" else name: entry for name, entry in graph.prompt.items()}
    for entry in prompt.values():
        entry["inputs"] = {name: ["70:1", 0] if value == ["1", 0] else value for name, value in entry["inputs"].items()}
    before = set(prompt)
    after = sent(comfyui, prompt)
    [added] = set(after) - before
    assert added == "71"
    assert after[added]["inputs"]["model"] == ["70:1", 0]
    assert after[sampler.link[0]]["inputs"]["model"] == ["71", 0]


def test_nonsense_is_left_to_comfyui(comfyui: ComfyUI) -> None:
    circle = {
        "1": {"class_type": "JetBlockChecksumValidator", "inputs": {"latent": ["2", 0], "expected_checksum": ""}},
        "2": {"class_type": "JetBlockChecksumValidator", "inputs": {"latent": ["1", 0], "expected_checksum": ""}},
        "3": {"class_type": "JetBlockHybridProfiler", "inputs": {"model": ["3", 0]}},
    }
    odd: list[Any] = [
        None,
        [],
        {"1": None},
        {"1": {"class_type": ["JetBlockSampler"], "inputs": {"positive": 1}}},
        {"1": {"class_type": "CosmosDashboard"}},
        {"1": {"class_type": "JetBlockCacheManager", "inputs": {"cache_size_gb": "much"}}},
    ]
    for prompt in odd:
        before = copy.deepcopy(prompt)
        after = sent(comfyui, prompt)
        assert after == before or set(after["1"]["inputs"]) >= {"cache_size_gb"}
    assert sent(comfyui, copy.deepcopy(circle)).keys() == circle.keys()
    chain = {
        str(at): {
            "class_type": "JetBlockChecksumValidator",
            "inputs": {"latent": [str(at + 1), 0], "expected_checksum": ""},
        }
        for at in range(5000)
    }
    assert sent(comfyui, chain).keys() == chain.keys()


def test_the_table_is_as_published(comfyui: ComfyUI) -> None:
    """Two tables that were written apart: the tests' and the pack's."""
    module = comfyui.module("_published")
    assert sorted(module.PUBLISHED) == ALL
    for node_id, (sockets, widgets, outputs) in PUBLISHED.items():
        known = module.PUBLISHED[node_id]
        assert (known.sockets, tuple(known.widgets), known.outputs) == (sockets, tuple(widgets), tuple(outputs))
    skip_ratio = comfyui.nodes.NODE_CLASS_MAPPINGS["JetBlockFastSampler"].INPUT_TYPES()["required"]["skip_ratio"][1]
    assert skip_ratio["max"] == module.SKIP_MOST
    assert skip_ratio["default"] == module.SKIP_USUAL
