"""Workflows as ComfyUI's page saves them, from and to the API format that its server runs."""

from collections.abc import Mapping
from typing import Any

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
WIDTH, COLUMN, ROW, GAP = 340, 420, 26, 50

Prompt = dict[str, dict[str, Any]]
Workflow = dict[str, Any]


def inputs_of(node: Any) -> dict[str, tuple[str, dict[str, Any], bool]]:
    """Type, options and whether it is a widget, by input, of a node class."""
    found = {}
    kinds = node.INPUT_TYPES()
    for group in ("required", "optional"):
        for name, declared in kinds.get(group, {}).items():
            kind, options = declared[0], declared[1] if len(declared) > 1 else {}
            kind = kind if isinstance(kind, str) else "COMBO"
            found[name] = (kind, options, kind in WIDGETS and not options.get("forceInput"))
    return found


def to_api(workflow: Workflow, classes: Mapping[str, Any]) -> Prompt:
    """What the page sends to be run."""
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt: Prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in ("Note", "MarkdownNote"):
            continue
        inputs, values = {}, iter(node["widgets_values"])
        for name, (_, options, is_widget) in inputs_of(classes[node["type"]]).items():
            if is_widget:
                inputs[name] = next(values)
                if options.get("control_after_generate"):
                    next(values)  # what the page does with the seed after a run
        assert not list(values), f"{node['type']} has more widget values than widgets"
        inputs |= {slot["name"]: links[slot["link"]] for slot in node["inputs"] if slot["link"] is not None}
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def to_ui(prompt: Prompt, classes: Mapping[str, Any], note: str = "") -> Workflow:
    """The same as the page saves it, laid out in columns from left to right."""
    columns = _columns(prompt)
    tops: dict[int, int] = {}
    nodes: list[dict[str, Any]] = []
    links: list[list[Any]] = []
    for identifier, entry in prompt.items():
        node = _node(identifier, entry, classes[entry["class_type"]])
        x, height = columns[identifier], node["size"][1]
        node["pos"] = [40 + COLUMN * x, tops.get(x, 60)]
        tops[x] = tops.get(x, 60) + height + GAP
        nodes.append(node)
    by_id = {node["id"]: node for node in nodes}
    for node in nodes:
        for at, slot in enumerate(node["inputs"]):
            value = prompt[str(node["id"])]["inputs"].get(slot["name"])
            if isinstance(value, list):
                source = by_id[int(value[0])]["outputs"][value[1]]
                links.append([len(links) + 1, int(value[0]), value[1], node["id"], at, source["type"]])
                slot["link"] = len(links)
                source["links"].append(len(links))
    if note:
        size = [WIDTH, 40 + ROW * (1 + len(note) // 48 + note.count("\n"))]
        nodes.append(
            {
                "id": len(nodes) + 1,
                "type": "MarkdownNote",
                "pos": [40, tops[0]],
                "size": size,
                "flags": {},
                "order": len(nodes),
                "mode": 0,
                "inputs": [],
                "outputs": [],
                "properties": {},
                "widgets_values": [note],
            }
        )
    counts = {"last_node_id": len(nodes), "last_link_id": len(links)}
    return {**counts, "nodes": nodes, "links": links, "groups": [], "config": {}, "extra": {}, "version": 0.4}


def _columns(prompt: Prompt) -> dict[str, int]:
    """By node, how many nodes are before it on the longest way."""

    def depth(identifier: str) -> int:
        sources = [value[0] for value in prompt[identifier]["inputs"].values() if isinstance(value, list)]
        return max((depth(source) + 1 for source in sources), default=0)

    return {identifier: depth(identifier) for identifier in prompt}


def _node(identifier: str, entry: dict[str, Any], node_class: Any) -> dict[str, Any]:
    slots, values, height = [], [], 40
    for name, (kind, options, is_widget) in inputs_of(node_class).items():
        value = entry["inputs"].get(name, options.get("default"))
        is_linked = isinstance(value, list)
        if not is_widget or is_linked:
            slot = {"name": name, "type": kind, "link": None}
            slots.append({**slot, "widget": {"name": name}} if is_widget else slot)
        if is_widget:
            values.append(options.get("default", "") if is_linked else value)
            values += ["fixed"] if options.get("control_after_generate") else []
            height += 120 if options.get("multiline") and not is_linked else ROW
    if entry["class_type"].startswith(("Preview", "Save")):
        height += 200  # for what they show
    names = getattr(node_class, "RETURN_NAMES", None) or node_class.RETURN_TYPES
    outputs = [
        {"name": name, "type": kind, "links": [], "slot_index": at}
        for at, (name, kind) in enumerate(zip(names, node_class.RETURN_TYPES, strict=True))
    ]
    return {
        "id": int(identifier),
        "type": entry["class_type"],
        "pos": [0, 0],
        "size": [WIDTH, height + ROW * max(len(slots), len(outputs))],
        "flags": {},
        "order": int(identifier) - 1,
        "mode": 0,
        "inputs": slots,
        "outputs": outputs,
        "properties": {"Node name for S&R": entry["class_type"]},
        "widgets_values": values,
    }
