"""What ComfyUI knows of a run: the graph above a node, the files it names, versions, device and settings."""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path
from typing import Any

import comfy.cli_args
import comfy.ldm.modules.attention
import comfy.model_management
import folder_paths
import torch

import jetblock
from jetblock.diffusion.manifest import check, file_digest

PNG_KEY = "jetblock_manifest"
"""Under which a manifest stands in a PNG."""
LARGEST = 64 << 20
"""Bytes of a file that is read as a manifest or an image with one."""
FLAGS = re.compile(
    "attention|bf16|cpu$|deterministic|directml|fast|fp16|fp32|fp8|gpu|offload|oneapi|upcast|vram|xformers"
)
"""Flags of the command line that may change a bit."""


def nodes_above(prompt: dict[str, Any], node: str, inputs: tuple[str, ...]) -> dict[str, Any]:
    """The part of a graph whose outputs reach these inputs of a node, without the node."""
    found: dict[str, Any] = {}
    own = prompt.get(node, {}).get("inputs", {})
    waiting = [{name: own[name] for name in inputs if name in own}]
    while waiting:
        for value in waiting.pop().values():
            if is_link(value) and value[0] not in found and value[0] in prompt:
                above = prompt[value[0]]
                found[value[0]] = {"class_type": above["class_type"], "inputs": above["inputs"]}
                waiting.append(above["inputs"])
    return found


def is_link(value: Any) -> bool:
    """Whether an input comes from another node."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def files_of(nodes: dict[str, Any]) -> list[dict[str, Any]]:
    """The model files that the nodes' inputs name."""
    texts = {text for node in nodes.values() for text in node["inputs"].values() if isinstance(text, str)}
    files = []
    for category in folder_paths.folder_names_and_paths:
        if category in ("custom_nodes", "configs"):
            continue
        for name in sorted(texts.intersection(folder_paths.get_filename_list(category))):
            path = folder_paths.get_full_path(category, name)
            if path and Path(path).is_file():
                files.append({"name": name, "category": category, "sha256": file_digest(Path(path))})
    return files


def environment() -> dict[str, str]:
    """Versions, device and settings, as texts."""
    args, default = comfy.cli_args.args, comfy.cli_args.parser.get_default
    flags = {name: value for name, value in vars(args).items() if FLAGS.search(name)}
    given = [f"--{name}={value}" for name, value in sorted(flags.items()) if value and value != default(name)]
    threads, isa = jetblock.get_cpu()
    device = comfy.model_management.get_torch_device()
    return {
        "ComfyUI": comfyui_version(),
        "JetBlock": f"{jetblock.__version__}, numerics {jetblock.NUMERICS_VERSION}",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {processor()}",
        "device": comfy.model_management.get_torch_device_name(device),
        "cuda": str(torch.version.cuda if device.type == "cuda" else None),
        "attention": comfy.ldm.modules.attention.optimized_attention.__name__,
        "flags": " ".join(given),
        "memory state": comfy.model_management.vram_state.name,
        "torch threads": f"{torch.get_num_threads()}, {torch.backends.cpu.get_cpu_capability()}",
        "jetblock threads": f"{threads}, {isa}",
        "cudnn.benchmark": str(torch.backends.cudnn.benchmark),
        "deterministic algorithms": str(torch.are_deterministic_algorithms_enabled()),
        "TF32": str(torch.backends.cuda.matmul.allow_tf32),
    }


def comfyui_version() -> str:
    """ComfyUI's own word."""
    try:
        from comfyui_version import __version__  # noqa: PLC0415 (a file that some installations lack)
    except ImportError:
        return "unknown"
    return str(__version__)


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def read_manifest(text: str) -> dict[str, Any]:
    """A manifest from its JSON, or from a JSON or PNG file in ComfyUI's output or input folder."""
    content = text.strip()
    if not content.startswith("{"):
        content = manifest_in(file_named(content))
    try:
        return check(json.loads(content))
    except json.JSONDecodeError as error:
        raise ValueError(f"the expected manifest is no JSON: {error}") from error


def file_named(name: str) -> Path:
    """A file in the output or input folder, and nowhere else."""
    folders = [Path(folder_paths.get_output_directory()), Path(folder_paths.get_input_directory())]
    for folder in folders:
        path = (folder / name).resolve()
        if path.is_file() and path.is_relative_to(folder.resolve()):
            if path.stat().st_size > LARGEST:
                raise ValueError(f"{name} has {path.stat().st_size} bytes, expected at most {LARGEST}")
            return path
    raise FileNotFoundError(f"no file {name!r} in ComfyUI's output and input folders")


def manifest_in(path: Path) -> str:
    """The JSON in a JSON or PNG file."""
    if path.suffix.lower() != ".png":
        return path.read_text(encoding="utf-8")
    from PIL import Image  # noqa: PLC0415 (comes with ComfyUI)

    with Image.open(path) as image:
        text = image.info.get(PNG_KEY)
    if text is None:
        raise ValueError(f"{path.name} has no manifest, which is a text called {PNG_KEY}")
    return str(text)
