"""Prompts of other versions: nodes that were published, names of nodes and inputs as somebody else wrote them."""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING, Any

from comfy_api.latest import ComfyAPI, io
from nodes import NODE_CLASS_MAPPINGS

from . import _workflows
from ._exchange import Exchange, is_link, new_ids
from ._published import PUBLISHED, Published

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ._exchange import Graph

LOG = logging.getLogger(__name__)

OTHER_INPUTS = {
    "max_tokens": ("max_new_tokens",),
    "model_name": ("model_path",),
    "system": ("system_prompt",),
    "thinking": ("enable_thinking",),
}
"""By the name of an input, what it is called elsewhere; taken where a node has no input of that name."""
WORDS = {
    "JetBlockCascadeMode": ("think", "reasoning", "no_think"),
    "JetBlockHybridProfiler": ("nemotron", "layers", "mamba", "analyze"),
    "JetBlockMamba2Deterministic": ("ssm", "verify", "benchmark"),
    "JetBlockNVFP4Quantizer": ("fp4", "kv cache", "quantize", "fp8"),
    "JetBlockNemotronGenerate": ("llm", "text", "prompt enhancer", "chat"),
    "JetBlockNemotronLoader": ("llm", "gguf", "mamba", "safetensors"),
    "JetBlockNemotronOptimizer": ("speculative", "speed"),
}
"""What else finds a node in the page's search."""


def other_ids(node_id: str, display_name: str) -> list[str]:
    """Other spellings of a node's id: its name in the menu, and with underscores."""
    rest = node_id.removeprefix("JetBlock")
    spellings = [display_name, display_name.replace(" ", "_"), f"JetBlock_{rest}", f"Jetblock{rest}"]
    return [name for name in dict.fromkeys(spellings) if name != node_id]


class Upgrade:
    """Brings prompts up to date with a list of nodes."""

    def __init__(self, nodes: Sequence[type[io.ComfyNode]]) -> None:
        schemas = [node.GET_SCHEMA() for node in nodes]
        self.ids = {
            other: schema.node_id for schema in schemas for other in other_ids(schema.node_id, schema.display_name)
        }
        self.nodes = {schema.node_id: node for schema, node in zip(schemas, nodes, strict=True)}

    def of_request(self, request: dict[str, Any]) -> dict[str, Any]:
        """What ComfyUI's server asks before it runs a prompt."""
        prompt = request.get("prompt")
        try:
            changes = self.of_prompt(prompt) if isinstance(prompt, dict) else []
        except RecursionError:
            changes = ["the prompt is nested too deeply to be brought up to date"]
        for change in changes:
            LOG.info("JetBlock: %s", change)
        return request

    def of_prompt(self, prompt: Graph) -> list[str]:
        """Changes a prompt where a node was published, one of ours has another name or lacks an input; says what."""
        changes = self._exchange(prompt)
        return changes + [change for entry in _nodes(prompt).values() for change in self._of_node(entry)]

    def is_free(self, node_id: str) -> bool:
        """Whether an id is ours or nobody's: a published pack that is installed beside ours runs its own nodes."""
        return NODE_CLASS_MAPPINGS.get(node_id) in (None, self.nodes.get(node_id))

    def _exchange(self, prompt: Graph) -> list[str]:
        entries = _nodes(prompt)
        old = {node: found for node, entry in entries.items() if (found := self._published(entry, entries))}
        if not old:
            return []
        graph = copy.deepcopy(entries)
        changes = Exchange(graph, {node: found.replacement for node, found in old.items()}, new_ids(prompt)).run()
        for node in entries:
            del prompt[node]
        prompt.update(graph)
        return [change.words for change in changes]

    def _published(self, entry: dict[str, Any], entries: Graph) -> Published | None:
        node_id = entry["class_type"]
        found = PUBLISHED.get(node_id) if self.is_free(node_id) else None
        return found if found and found.is_meant(entry["inputs"], lambda link: self._kind(link, entries)) else None

    def _kind(self, link: Any, entries: Graph) -> str:
        """Of which kind is what a link brings."""
        source = entries.get(link[0]) if is_link(link) else None
        if source is None:
            return ""
        known = PUBLISHED.get(source["class_type"])
        # Published nodes put models out first.
        if known and known.outputs[0].endswith("model") and self._published(source, entries):
            return "MODEL" if link[1] == 0 else ""
        kinds = getattr(NODE_CLASS_MAPPINGS.get(source["class_type"]), "RETURN_TYPES", ())
        return str(kinds[link[1]]) if 0 <= link[1] < len(kinds) else ""

    def _of_node(self, entry: dict[str, Any]) -> Iterator[str]:
        name = entry["class_type"]
        node_id = self.ids.get(name, name)
        if node_id not in self.nodes:
            return
        if node_id != name:
            entry["class_type"] = node_id
            yield f"{name} is {node_id}"
        inputs = entry["inputs"]
        kinds = self.nodes[node_id].INPUT_TYPES()
        declared = {**kinds.get("required", {}), **kinds.get("optional", {})}
        for new, others in OTHER_INPUTS.items():
            old = next((other for other in others if other in inputs and other not in declared), None)
            if new in declared and new not in inputs and old is not None:
                inputs[new] = _value(new, inputs.pop(old))
                yield f"{node_id}: input {old} is {new}"
        for new, (_, options) in kinds.get("required", {}).items():
            if new not in inputs and "default" in options:
                inputs[new] = options["default"]
                yield f"{node_id}: input {new} is new, {options['default']!r}"


def _nodes(prompt: Graph) -> Graph:
    """What of a prompt is nodes; the rest ComfyUI refuses."""

    def is_node(entry: Any) -> bool:
        return isinstance(entry, dict) and [type(entry.get(part)) for part in ("class_type", "inputs")] == [str, dict]

    return {node: entry for node, entry in prompt.items() if is_node(entry)}


def _value(name: str, value: Any) -> Any:
    """A value that was of another kind."""
    if name == "thinking" and isinstance(value, bool):
        return "on" if value else "off"
    return value


def add_words(nodes: Sequence[type[io.ComfyNode]]) -> None:
    """Lets the page's search find nodes by other words, where ComfyUI's schema has them (it is newer than 0.3.75)."""
    if not hasattr(io.Schema, "search_aliases") and "search_aliases" not in getattr(
        io.Schema, "__dataclass_fields__", {}
    ):
        return
    for node in nodes:
        plain = node.define_schema

        def define_schema(_: type[io.ComfyNode], plain: Any = plain) -> io.Schema:
            schema = plain()
            words = WORDS.get(schema.node_id, ())
            schema.search_aliases = [*other_ids(schema.node_id, schema.display_name), *words]
            return schema

        node.define_schema = classmethod(define_schema)


async def register(nodes: Sequence[type[io.ComfyNode]]) -> None:
    """Asks the server to bring prompts up to date and, where ComfyUI can, its page to do so with workflows."""
    import server  # noqa: PLC0415 (ComfyUI's, which imports much)

    upgrade = Upgrade(nodes)
    instance = getattr(server.PromptServer, "instance", None)
    if instance is not None and nodes:
        instance.add_on_prompt_handler(upgrade.of_request)
        _workflows.add_routes(instance.routes, upgrade.is_free)
    # Newer than 0.3.75.
    replacement = getattr(io, "NodeReplace", None)
    replacements = getattr(ComfyAPI(), "node_replacement", None)
    if replacement is None or replacements is None:
        return
    for old, new in upgrade.ids.items():
        await replacements.register(replacement(new_node_id=new, old_node_id=old))
