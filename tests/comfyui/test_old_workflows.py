"""Workflows that the page saved with nodes of the published packs come up with the nodes in their place."""

import copy
import json
import random
from typing import Any

import pytest
import torch
from graphs import ksampler, sd3
from harness import ComfyUI
from old_workflow import Workflow, node, old_workflow, slot
from published import PUBLISHED
from workflows import inputs_of, to_api

OPTIMIZER = "JetBlockModelOptimizer"
SEEDS = ("seed", "noise_seed")


def upgraded(comfyui: ComfyUI, workflow: Workflow) -> list[str]:
    changes = comfyui.module("_workflows").upgrade(workflow, lambda _: True)
    check(comfyui, workflow)
    return changes


def check(comfyui: ComfyUI, workflow: Workflow) -> None:
    """Nodes, slots and links tell the same story, and each node has as many values as widgets."""
    for scope in (workflow, *workflow.get("definitions", {}).get("subgraphs", [])):
        nodes = {found["id"]: found for found in scope["nodes"]}
        assert len(nodes) == len(scope["nodes"])
        links = [list(link.values())[:6] if isinstance(link, dict) else link for link in scope["links"]]
        numbers = [link[0] for link in links]
        assert len(set(numbers)) == len(numbers)
        for number, origin, origin_slot, target, target_slot, kind in links:
            if origin != -10:
                output = nodes[origin]["outputs"][origin_slot]
                assert number in output["links"]
                assert output["type"] == kind
            if target != -20:
                assert nodes[target]["inputs"][target_slot]["link"] == number
        assert sum(len(out["links"] or []) for one in nodes.values() for out in one["outputs"]) == sum(
            link[1] != -10 for link in links
        )
        for at, slots in enumerate(scope.get("inputs", [])):
            assert sorted(slots["linkIds"]) == sorted(link[0] for link in links if link[1:3] == [-10, at])
        fed = [found["link"] for one in nodes.values() for found in one["inputs"] if found["link"] is not None]
        assert sorted(fed) == sorted(link[0] for link in links if link[3] != -20)
        for one in scope["nodes"]:
            if one["type"] not in comfyui.nodes.NODE_CLASS_MAPPINGS:
                continue
            widgets = [name for name, (_, _, is_widget) in inputs_of_type(comfyui, one["type"]).items() if is_widget]
            seeds = sum(has_control(comfyui, one["type"], name) for name in widgets)
            assert len(one["widgets_values"]) == len(widgets) + seeds, one["type"]


def inputs_of_type(comfyui: ComfyUI, node_id: str) -> dict[str, tuple[str, dict[str, Any], bool]]:
    return inputs_of(comfyui.nodes.NODE_CLASS_MAPPINGS[node_id])


def has_control(comfyui: ComfyUI, node_id: str, name: str) -> bool:
    return bool(inputs_of_type(comfyui, node_id)[name][1].get("control_after_generate", name in SEEDS))


def test_an_old_workflow_runs(comfyui: ComfyUI) -> None:
    workflow = old_workflow()
    changes = upgraded(comfyui, workflow)
    assert len(changes) == 6
    types = {found["id"]: found["type"] for found in workflow["nodes"]}
    assert {number: types.get(number) for number in (5, 6, 7, 8, 15, 17)} == {
        5: "JetBlockModelOptimizer",
        6: "KSampler",
        7: "JetBlockDeterministicSampler",
        8: "JetBlockChecksumValidator",
        15: "JetBlockCompatibility",
        17: None,
    }
    new = {kind for number, kind in types.items() if number > 18}
    assert new == {"JetBlockFastSampler", "JetBlockSkipReport", "JetBlockChecksumValidator", "PrimitiveInt"}
    comfyui.kept.clear()
    comfyui.run(to_api(workflow, comfyui.nodes.NODE_CLASS_MAPPINGS))
    kept = dict(comfyui.kept)

    graph = comfyui.graph()
    parts = sd3(graph)
    defaults = {name: what[1]["default"] for name, what in inputs_of_type(comfyui, OPTIMIZER).items() if what[2]}
    parts["model"] = graph.add(OPTIMIZER, model=parts["model"], **defaults)  # level low
    settings = {"mode": "fixed", "method": "interpolate", "threshold": 0.1, "minimum_steps": 12}
    fast = graph.add("JetBlockFastSampler", model=parts["model"], skip_ratio=0.5, **settings)
    exact = {"seed": 42, "steps": 4, "cfg": 3.5, "sampler_name": "euler_ancestral", "scheduler": "simple"}
    one = ksampler(graph, {**parts, "model": fast}, seed=5, steps=14)
    two = graph.add("JetBlockDeterministicSampler", **parts, **exact, denoise=1.0, level="batch_invariant")
    for label, now in zip(("fast", "exact"), graph.run(one, two), strict=True):
        assert torch.equal(kept[label]["samples"], now["samples"])
    assert kept["report"].startswith("identical")
    assert kept["level"].startswith("low:")
    assert kept["budget"] == 1000


def test_looks_and_ways_are_kept(comfyui: ComfyUI) -> None:
    workflow = old_workflow()
    sampler = workflow["nodes"][5]
    sampler |= {"title": "Draft", "color": "#223", "mode": 4}
    upgraded(comfyui, workflow)
    nodes = {found["id"]: found for found in workflow["nodes"]}
    assert (nodes[6]["title"], nodes[6]["color"], nodes[6]["pos"]) == ("Draft", "#223", [800, 0])
    assert nodes[6]["widgets_values"][:2] == [7, "randomize"]
    [helper] = [found for found in workflow["nodes"] if found["type"] == "JetBlockFastSampler"]
    assert helper["mode"] == 4
    assert helper["pos"][1] > nodes[6]["pos"][1] + nodes[6]["size"][1]
    assert [found["link"] for found in nodes[6]["inputs"] if found["name"] == "seed"] == [17]
    assert workflow["extra"]["linkExtensions"] == [{"id": 6, "parentId": 2}]
    assert [way["linkIds"] for way in workflow["extra"]["reroutes"]] == [[], [6]]
    assert workflow["last_node_id"] == max(nodes)
    assert workflow["last_link_id"] == max(link[0] for link in workflow["links"])


def test_a_second_time_changes_nothing(comfyui: ComfyUI) -> None:
    workflow = old_workflow()
    upgraded(comfyui, workflow)
    before = copy.deepcopy(workflow)
    assert upgraded(comfyui, workflow) == []
    assert workflow == before


def with_all_outputs(node_id: str) -> Workflow:
    """A workflow of one published node, each of its inputs fed and each output for which something stands shown."""
    sockets, widgets, outputs = PUBLISHED[node_id]
    feeds = {"model": "UNETLoader", "latent_image": "EmptySD3LatentImage", "latent": "EmptySD3LatentImage"}
    given = {"UNETLoader": ["tiny_sd3.safetensors", "default"], "EmptySD3LatentImage": [128, 128, 1]}
    nodes, links = [], []
    for name in sockets:
        source = feeds.get(name, "TestConditioning")
        [kind] = {"UNETLoader": ["MODEL"], "EmptySD3LatentImage": ["LATENT"]}.get(source, ["CONDITIONING"])
        links.append([len(links) + 1, len(nodes) + 2, 0, 1, len(links), kind])
        number = len(nodes) + 2
        nodes.append(node(number, source, (0, 0), [], {kind: (kind, [len(links)])}, given.get(source, [3, 64])))
    values = []
    for name, value in widgets.items():
        values += [value, "increment"] if name == "seed" else [value]
    inputs = [slot(name, links[at][5], at + 1) for at, name in enumerate(sockets)]
    put: dict[str, tuple[str, list[int]]] = {}
    for at, (name, kind) in enumerate(outputs.items()):
        put[name] = (kind or "FLOAT", [])
        if kind:
            links.append([len(links) + 1, 1, at, len(nodes) + 2, 0, kind])
            put[name] = (kind, [len(links)])
            nodes.append(node(len(nodes) + 2, "TestKeep", (0, 0), [slot("value", "*", len(links))], {}, [name]))
    nodes.insert(0, node(1, node_id, (0, 0), inputs, put, values))
    return {"last_node_id": 99, "last_link_id": 99, "nodes": nodes, "links": links, "version": 0.4}


@pytest.mark.parametrize("node_id", sorted(PUBLISHED))
def test_values_go_to_their_widgets(comfyui: ComfyUI, node_id: str) -> None:
    """What a node of a workflow becomes is what it becomes in a prompt."""
    workflow = with_all_outputs(node_id)
    prompt: dict[str, Any] = {}
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    for one in workflow["nodes"]:
        inputs = {found["name"]: links[found["link"]] for found in one["inputs"]}
        if one["type"] == node_id:
            inputs |= PUBLISHED[node_id][1]
        else:
            names = [name for name, what in inputs_of_type(comfyui, one["type"]).items() if what[2]]
            inputs |= dict(zip(names, one["widgets_values"], strict=False))
        prompt[str(one["id"])] = {"class_type": one["type"], "inputs": inputs}
    [change] = upgraded(comfyui, workflow)
    assert "stays" not in change
    now = comfyui.server.trigger_on_prompt({"prompt": prompt})["prompt"]
    made = {}
    for one in workflow["nodes"]:
        values, inputs = iter(one["widgets_values"]), {}
        for name, (_, _, is_widget) in inputs_of_type(comfyui, one["type"]).items():
            if is_widget:
                inputs[name] = next(values)
                if has_control(comfyui, one["type"], name):
                    assert next(values) == ("increment" if node_id_has_seed(node_id) else "fixed")
        links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
        inputs |= {found["name"]: links[found["link"]] for found in one["inputs"] if found["link"]}
        made[str(one["id"])] = {"class_type": one["type"], "inputs": inputs}
    assert by_shape(made) == by_shape(filled(comfyui, now))


def node_id_has_seed(node_id: str) -> bool:
    return "seed" in PUBLISHED[node_id][1]


def filled(comfyui: ComfyUI, prompt: dict[str, Any]) -> dict[str, Any]:
    """With what widgets are at first, which the page sends and a prompt may leave out."""
    for entry in prompt.values():
        for name, (_, options, is_widget) in inputs_of_type(comfyui, entry["class_type"]).items():
            if is_widget and "default" in options:
                entry["inputs"].setdefault(name, options["default"])
    return prompt


def by_shape(prompt: dict[str, Any]) -> list[str]:
    """A prompt without its ids: each node with all that is before it."""

    def shape(value: Any) -> Any:
        if not (isinstance(value, list) and len(value) == 2 and value[0] in prompt):
            return value
        entry = prompt[value[0]]
        return [entry["class_type"], {name: shape(one) for name, one in entry["inputs"].items()}, value[1]]

    return sorted(json.dumps(shape([node_id, 0]), sort_keys=True) for node_id in prompt)


def in_subgraph(workflow: Workflow) -> Workflow:
    """The same inside a subgraph, whose links are objects; latents come from outside, and one goes out."""
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    links = [dict(zip(names, link, strict=True)) for link in workflow["links"]]
    for link in links:
        if link["id"] in (4, 11):
            link |= {"origin_id": -10, "origin_slot": 0}
        if link["id"] == 6:
            link |= {"target_id": -20, "target_slot": 0}
    nodes = {found["id"]: found for found in workflow["nodes"]}
    nodes[4]["outputs"][0]["links"] = [10]
    nodes[7]["outputs"][0]["links"] = []
    del nodes[9]
    subgraph = {
        "id": "1b6b0b0e-6a4e-4e0f-9d3c-0c8f8a3b1c55",
        "state": {"lastNodeId": 18, "lastLinkId": 19, "lastGroupId": 0, "lastRerouteId": 2},
        "inputNode": {"id": -10, "bounding": [-200, 0, 120, 60]},
        "outputNode": {"id": -20, "bounding": [2000, 0, 120, 60]},
        "inputs": [{"id": "a", "name": "latent", "type": "LATENT", "linkIds": [4, 11]}],
        "outputs": [{"id": "b", "name": "samples", "type": "LATENT", "linkIds": [6]}],
        "nodes": list(nodes.values()),
        "links": links,
    }
    outside = node(30, subgraph["id"], (0, 0), [slot("latent", "LATENT")], {"samples": ("LATENT", [])}, [])
    outer = {"last_node_id": 30, "last_link_id": 40, "nodes": [outside], "links": [], "version": 0.4}
    return {**outer, "definitions": {"subgraphs": [subgraph]}}


def test_in_a_subgraph(comfyui: ComfyUI) -> None:
    plain, workflow = old_workflow(), in_subgraph(old_workflow())
    assert len(upgraded(comfyui, workflow)) == len(upgraded(comfyui, plain))
    [subgraph] = workflow["definitions"]["subgraphs"]
    nodes = {found["id"]: found for found in subgraph["nodes"]}
    ends = {link["id"]: link for link in subgraph["links"]}
    assert all(isinstance(link, dict) for link in subgraph["links"])
    assert sorted(found["type"] for found in subgraph["nodes"]) == sorted(
        found["type"] for found in plain["nodes"] if found["id"] != 9
    )
    assert (ends[6]["origin_id"], ends[6]["target_id"]) == (6, -20)
    assert nodes[6]["type"] == "KSampler"
    # The validator's latent, and what it passes on.
    assert {ends[link]["target_id"] for link in subgraph["inputs"][0]["linkIds"]} == {6, 8, 11}
    # The numbers count on from those of the whole workflow.
    assert min(number for number in nodes if number > 18) == 31
    assert subgraph["state"]["lastNodeId"] == workflow["last_node_id"] == max(nodes)


def test_ours_and_others_stay(comfyui: ComfyUI) -> None:
    """A node of an id that we have too is known by its outputs."""
    workflow = old_workflow()
    outputs = {5: ["model", "text", "json"], 6: ["sampler"], 7: ["latent"], 8: ["manifest", "same", "report"]}
    for found in workflow["nodes"]:
        names = {**outputs, 15: ["model", "report"], 17: ["model"]}.get(found["id"])
        if names:
            found["outputs"] = [{"name": name, "type": "*", "links": []} for name in names]
    workflow["links"] = []
    before = copy.deepcopy(workflow)
    assert comfyui.module("_workflows").upgrade(workflow, lambda _: True) == []
    assert workflow == before
    theirs = old_workflow()
    assert comfyui.module("_workflows").upgrade(theirs, lambda _: False) == []
    assert theirs == old_workflow()


def test_what_cannot_be_replaced_stays(comfyui: ComfyUI) -> None:
    workflow = with_all_outputs("CosmosGPUMonitor")
    workflow["links"].append([9, 1, 1, 9, 0, "FLOAT"])
    workflow["nodes"][0]["outputs"][1]["links"] = [9]
    workflow["nodes"].append(node(9, "PreviewAny", (0, 0), [slot("source", "*", 9)], {}, []))
    before = copy.deepcopy(workflow)
    [change] = upgraded(comfyui, workflow)
    assert "stays CosmosGPUMonitor of an earlier version: nothing stands for an output that is used" in change
    assert workflow == before


def parts_of(value: Any) -> list[tuple[Any, Any]]:
    """Every place in a JSON value: what holds it, and under which key."""
    keys: Any = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in [(value, key), *parts_of(value[key])]]


JUNK: list[Any] = [
    None,
    True,
    -1,
    10**30,
    1e308,
    "",
    "x",
    [],
    {},
    [[]],
    [None],
    {"a": []},
    ["1", 0],
    [1, 2, 3, 4, 5, 6],
]


@pytest.mark.parametrize("form", ["plain", "subgraph"])
def test_what_is_no_workflow_is_refused_in_words(comfyui: ComfyUI, form: str) -> None:
    """A value of another kind anywhere in a workflow: it is upgraded or refused, and nothing else happens."""
    good = old_workflow() if form == "plain" else in_subgraph(old_workflow())
    text = json.dumps(good)
    places = len(parts_of(good))
    chance = random.Random(1)  # noqa: S311 (no secret)
    refused = []
    for at in chance.sample(range(places), 150):
        workflow = json.loads(text)
        holder, key = parts_of(workflow)[at]
        holder[key] = chance.choice(JUNK)
        try:
            comfyui.module("_workflows").upgrade(workflow, lambda _: True)
        except comfyui.module("_workflows").MalformedError as error:
            refused.append(str(error))
        json.dumps(workflow)
    assert all(refused)
    assert 10 < len(refused) < 150
    for nonsense in (None, [], "x", 5, {}, {"nodes": {}}, {"nodes": [5]}):
        with pytest.raises(comfyui.module("_workflows").MalformedError):
            comfyui.module("_workflows").upgrade(nonsense, lambda _: True)
