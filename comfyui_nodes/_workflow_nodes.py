"""Nodes as ComfyUI's page saves them: the values of their widgets in a list, and the slots that links use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nodes import NODE_CLASS_MAPPINGS

from ._exchange import is_link

if TYPE_CHECKING:
    from ._published import Published

CONTROLS = ("fixed", "increment", "decrement", "randomize")
"""What the page does with a seed after a run: a widget of its own, behind the seed's."""
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
FAR = 1e9
"""No node lies further away."""
WIDTH, ROW = 270, 26
Json = dict[str, Any]


def new_node(node_id: Any, entry: Json, was: Json, at: int, saved: Json) -> Json:
    """A node as the page saves it.

    The first in the place of another has its looks; `was` is the other. The rest stand closed below the first, which
    `was` is then. `saved` is what the widgets held; a widget that is fed by a link goes on to hold it.
    """
    node_class = NODE_CLASS_MAPPINGS[entry["class_type"]]
    slots, values = [], []
    for name, (kind, options) in inputs_of(node_class).items():
        value = entry["inputs"].get(name)
        is_linked, is_widget = is_link(value), kind in WIDGETS and not options.get("forceInput")
        if is_linked or not is_widget:
            slot = {"name": name, "type": kind, "link": None}
            slots.append({**slot, "widget": {"name": name}} if is_widget else slot)
        if is_widget:
            first = options.get("default", next(iter(options.get("options") or [""]), ""))
            values.append(saved.get(name, first) if is_linked or value is None else value)
            # The page has this widget where it is asked for, and at each seed.
            if options.get("control_after_generate", name in ("seed", "noise_seed")):
                values.append(_control(was))
    names = getattr(node_class, "RETURN_NAMES", None) or node_class.RETURN_TYPES
    outputs = [
        {"name": name, "type": kind, "links": [], "slot_index": slot}
        for slot, (name, kind) in enumerate(zip(names, node_class.RETURN_TYPES, strict=False))
    ]
    x, y = _pair(was.get("pos"), 0, 0)
    width, height = _pair(was.get("size"), WIDTH, 0)
    if at == 0:
        rows = max(len([slot for slot in slots if "widget" not in slot]), len(outputs)) + len(values)
        looks = {**was, "size": [width, max(height, ROW * rows)]}
    else:
        looks = {"pos": [x, y + height + at * ROW * 2], "size": [WIDTH, ROW], "flags": {"collapsed": True}}
    return {
        **looks,
        "id": node_id,
        "type": entry["class_type"],
        "order": was.get("order", 0),
        "mode": was.get("mode", 0),
        "inputs": slots,
        "outputs": outputs,
        "properties": {"Node name for S&R": entry["class_type"]},
        "widgets_values": values,
    }


def _pair(value: Any, *otherwise: float) -> tuple[float, float]:
    """Two numbers: a list, or in older workflows an object with the keys 0 and 1."""
    values = [value.get("0"), value.get("1")] if isinstance(value, dict) else value
    if isinstance(values, list) and len(values) == 2:
        x, y = values
        if isinstance(x, (int, float)) and isinstance(y, (int, float)) and abs(x) < FAR and abs(y) < FAR:
            return x, y
    return otherwise[0], otherwise[1]


def inputs_of(node_class: Any) -> dict[str, tuple[str, Json]]:
    """Kind and options by input."""
    found = {}
    kinds = node_class.INPUT_TYPES()
    for group in ("required", "optional"):
        for name, declared in kinds.get(group, {}).items():
            kind, options = declared[0], declared[1] if len(declared) > 1 else {}
            found[name] = (kind, options) if isinstance(kind, str) else ("COMBO", {"options": kind, **options})
    return found


def widget_values(node: Json, known: Published) -> Json:
    """A published node's values by name."""
    saved = node.get("widgets_values") or []
    if isinstance(saved, dict):
        return {name: saved[name] for name in known.widgets if name in saved}
    left, values = list(saved) if isinstance(saved, list) else [], {}
    for name in known.widgets:
        if left:
            values[name] = left.pop(0)
        if name == "seed" and left and left[0] in CONTROLS:
            left.pop(0)
    return values


def _control(node: Json) -> str:
    """What is done with the seed of a node."""
    values = node.get("widgets_values")
    return (
        next((value for value in values or [] if value in CONTROLS), "fixed") if isinstance(values, list) else "fixed"
    )
