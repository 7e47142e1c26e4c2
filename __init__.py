"""The door through which ComfyUI comes in, when this repository lies in its folder `custom_nodes`.

The nodes are in `comfyui_nodes`, what they do in the package `jetblock`. Importing this file imports neither them nor
PyTorch.
"""

from typing import Any

WEB_DIRECTORY = "./comfyui_nodes/web"
"""Served by ComfyUI; the help page of a node is `docs/<node id>.md` in it."""


async def comfy_entrypoint() -> Any:
    """ComfyUI's question for the nodes (its V3 interface)."""
    from .comfyui_nodes import extension  # noqa: PLC0415 (see above)

    return extension()
