"""What `jetblock.interfaces` has only where ComfyUI is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jetblock import interfaces

from ._levels import optimized
from .optimizer import SPARSE_TOKENS

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


def optimize(model: ModelPatcher, level: str) -> ModelPatcher:
    """What JetBlockModelOptimizer makes of a model."""
    return optimized(model, level, SPARSE_TOKENS)


def provide() -> None:
    """For packs that import the interfaces."""
    interfaces.provide_optimizer(optimize)
