"""JetBlock's nodes for ComfyUI: a file per node family, each with the list `NODES`.

Nodes are thin. What does not need ComfyUI is in the package `jetblock`, where it is tested without it.
"""

import logging
import sys
from importlib import import_module
from pathlib import Path

from comfy_api.latest import ComfyExtension, io

from . import _upgrade

FAMILIES = (
    "deterministic",
    "encode_decode",
    "checksums",
    "fast_sampler",
    "optimizer",
    "benchmark",
    "cosmos",
    "language",
    "language_inspection",
    "compatibility",
)
"""Modules of this package, in the order of their nodes in the menu."""


class JetBlockExtension(ComfyExtension):
    """The pack, as ComfyUI's loader wants it."""

    def __init__(self, nodes: list[type[io.ComfyNode]]) -> None:
        self.nodes = nodes

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes of the pack."""
        # ComfyUI 0.3.75 does not call `on_load`.
        await _upgrade.register(self.nodes)
        return self.nodes


def extension() -> JetBlockExtension:
    """The pack; without nodes, and one line in the log, where the package `jetblock` is missing."""
    try:
        import jetblock  # noqa: F401, PLC0415 (whether it is there)
    except ImportError as error:
        folder = Path(__file__).parents[1].name
        logging.getLogger(__name__).error(  # noqa: TRY400 (one line, no traceback)
            "JetBlock has no nodes: %s. In custom_nodes/%s, with ComfyUI's Python: pip install -r requirements.txt",
            error,
            folder,
        )
        return JetBlockExtension([])
    if "comfy_kitchen" in sys.modules:  # ComfyUI computes with it
        import_module("jetblock.kitchen").register()
    families = [import_module(f".{family}", __name__) for family in FAMILIES]
    nodes = [node for family in families for node in family.NODES]
    _upgrade.add_words(nodes)
    import_module("._interfaces", __name__).provide()
    return JetBlockExtension(nodes)
