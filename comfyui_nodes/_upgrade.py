"""Workflows of other versions: names of nodes and inputs as they were, or as somebody else wrote them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from comfy_api.latest import ComfyAPI, io

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LOG = logging.getLogger(__name__)
Prompt = dict[str, dict[str, Any]]

OTHER_INPUTS = {
    "cfg": ("cfg_scale", "guidance"),
    "denoise": ("denoise_strength",),
    "keys_and_values": ("kv_format", "kv_cache"),
    "latent_image": ("latent", "latents", "samples"),
    "level": ("optimization_level", "determinism_level"),
    "max_tokens": ("max_new_tokens", "max_length"),
    "mode": ("skip_mode", "strategy"),
    "model_name": ("model_path", "model_id"),
    "runs": ("num_runs", "iterations"),
    "sampler_name": ("sampler",),
    "skip_ratio": ("skip_rate", "skip_percent"),
    "system": ("system_prompt",),
    "thinking": ("thinking_mode", "enable_thinking"),
    "thinking_budget": ("max_thinking_tokens", "budget"),
}
"""By the name of an input, other names that it takes where a node has no input of that name."""
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
        for change in self.of_prompt(request.get("prompt", {})):
            LOG.info("JetBlock: %s", change)
        return request

    def of_prompt(self, prompt: Prompt) -> list[str]:
        """Changes a prompt where one of our nodes or inputs has another name, or a new input is missing; says what."""
        return [change for entry in prompt.values() for change in self._of_node(entry)]

    def _of_node(self, entry: dict[str, Any]) -> Iterator[str]:
        name = entry.get("class_type", "")
        node_id = self.ids.get(name, name)
        if node_id not in self.nodes:
            return
        if node_id != name:
            entry["class_type"] = node_id
            yield f"{name} is {node_id}"
        inputs = entry.setdefault("inputs", {})
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
    if instance is not None:
        instance.add_on_prompt_handler(upgrade.of_request)
    # Newer than 0.3.75.
    replacement = getattr(io, "NodeReplace", None)
    replacements = getattr(ComfyAPI(), "node_replacement", None)
    if replacement is None or replacements is None:
        return
    for old, new in upgrade.ids.items():
        await replacements.register(replacement(new_node_id=new, old_node_id=old))
