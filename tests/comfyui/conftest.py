"""ComfyUI and its tiny models, made once for all tests."""

import os

# Before PyTorch: on a busy machine the threads of a tiny model wait for each other more than they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import shutil
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

from harness import ComfyUI, Graph  # noqa: E402

BASE = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "comfyui"


@pytest.fixture(scope="session")
def comfyui() -> ComfyUI:
    """A running ComfyUI whose `models/` has the tiny models."""
    running = ComfyUI(BASE)
    add_models(BASE / "models")
    return running


def add_models(folder: Path) -> None:
    """The committed models, and those that are built; ComfyUI's modules make them, so it must have been started."""
    import make

    committed = folder / "diffusion_models" / "tiny_sd3.safetensors"
    committed.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(HERE / "models" / "tiny_sd3.safetensors", committed)
    make.build_others(folder)


@pytest.fixture
def graph(comfyui: ComfyUI) -> Graph:
    """An empty graph."""
    return comfyui.graph()
