"""Language models in ComfyUI's folders: their names, and the handle that a name stands for."""

from __future__ import annotations

import time
from pathlib import Path

import comfy.model_management
import folder_paths
from comfy_api.latest import io

from jetblock.handles import ModelHandle

CATEGORY = "JetBlock/language"
LanguageModel = io.Custom("JETBLOCK_MODEL")
"""The type of links between these nodes: a `jetblock.handles.ModelHandle`."""
BUNDLED = "bundled demo model"
FOLDERS = ("jetblock", "LLM")
"""Under `models/`; others by ComfyUI's extra_model_paths.yaml."""
DEPTH = 3
"""How far below such a folder a model may be."""

for name in FOLDERS:
    folder_paths.add_model_folder_path(name, str(Path(folder_paths.models_dir) / name))


def names() -> list[str]:
    """What the loader offers."""
    return [BUNDLED, *sorted(_found())]


def handle(name: str) -> ModelHandle:
    """The model of a name."""
    if name == BUNDLED:
        return ModelHandle()
    path = _found().get(name)
    if path is None:
        raise ValueError(f"there is no model {name!r} in {' or '.join(f'models/{folder}' for folder in FOLDERS)}")
    return ModelHandle(path=str(path))


def home() -> Path:
    """The folder that models are written to."""
    return Path(folder_paths.get_folder_paths(FOLDERS[0])[0])


def _found() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for category in FOLDERS:
        for root in folder_paths.get_folder_paths(category):
            for path in _models(Path(root), DEPTH):
                found.setdefault(path.relative_to(root).as_posix(), path)
    return found


def _models(folder: Path, depth: int) -> list[Path]:
    """GGUF files, and folders with a configuration and weights."""
    if not folder.is_dir():
        return []
    found = []
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            is_model = (path / "config.json").is_file() and any(path.glob("*.safetensors"))
            found += [path] if is_model else _models(path, depth - 1) if depth > 1 else []
        elif path.suffix.lower() == ".gguf":
            found.append(path)
    return found


class Shown:
    """Text under a node in the page while it is written, a few times a second."""

    INTERVAL = 0.2
    """Seconds."""

    def __init__(self, node_id: str | None) -> None:
        import server  # noqa: PLC0415 (ComfyUI's, which imports much)

        self.send = getattr(getattr(server.PromptServer, "instance", None), "send_progress_text", None)
        self.node_id = node_id
        self.text = ""
        self.sent = -self.INTERVAL

    def add(self, text: str) -> None:
        """Shows more of it."""
        self.text += text
        if time.monotonic() - self.sent >= self.INTERVAL:
            self.show()

    def show(self) -> None:
        """Shows all of it."""
        if self.send is not None and self.node_id is not None and self.text:
            self.send(self.text, self.node_id)
            self.sent = time.monotonic()


def stop_if_cancelled() -> None:
    """Raises what ends a run, where its user has pressed cancel."""
    comfy.model_management.throw_exception_if_processing_interrupted()
