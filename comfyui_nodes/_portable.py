"""What level `portable` asks of ComfyUI, beside networks that are computed by the contract's operators.

Weights with LoRAs are made by the contract too, and packed for its operators once a run. Which attention computes, the
command line chooses; here it is PyTorch's in any case, whose place the contract's takes.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import comfy.model_management
import torch
from comfy.ldm.modules.attention import attention_pytorch
from comfy.ldm.modules.diffusionmodules.model import pytorch_attention

import jetblock

from . import _guards

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from comfy.model_patcher import ModelPatcher
    from comfy.samplers import CFGGuider

OVERRIDE = "optimized_attention_override"
"""Where a network looks for another attention than the one that ComfyUI has chosen."""


def patch(model: ModelPatcher) -> None:
    """Adds LoRAs to a model's weights by the contract's operators; anew, since PyTorch's may have added them before."""
    if model.patches:
        with torch.no_grad(), jetblock.deterministic():
            comfy.model_management.load_models_gpu([model], force_patch_weights=True)


def attention(_chosen: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
    """PyTorch's attention, whatever ComfyUI has chosen."""
    return attention_pytorch(*args, **kwargs)


@contextmanager
def in_autoencoder(network: torch.nn.Module) -> Iterator[None]:
    """Lets an autoencoder take PyTorch's attention, whatever ComfyUI has chosen."""
    name = "optimized_attention"
    chosen = [(module, getattr(module, name)) for module in network.modules() if hasattr(module, name)]
    for module, _ in chosen:
        setattr(module, name, pytorch_attention)
    try:
        yield
    finally:
        for module, function in chosen:
            setattr(module, name, function)


def pack_once(executor: Callable[..., torch.Tensor], guider: CFGGuider, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Lets JetBlock's operators keep the form in which they read weights from the first step to the last.

    ComfyUI loads models in inference mode, where nothing tells that a tensor has changed.
    """
    network = guider.model_patcher.model.diffusion_model
    with jetblock.ops.constant_weights(network.parameters()) if is_constant(guider) else nullcontext():
        return executor(guider, *args, **kwargs)


def is_constant(guider: CFGGuider) -> bool:
    """Whether nobody can change weights between two steps, as hooks and functions of other nodes may."""
    model = guider.model_patcher
    return not model.hook_patches and not any(_guards.of_the_model(model, guider.model_options))
