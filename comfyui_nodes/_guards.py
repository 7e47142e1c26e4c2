"""Settings that break the promise of deterministic sampling, each with its name and the reason."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import comfy.cli_args
import comfy.model_management
import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from comfy.model_patcher import ModelPatcher

    import jetblock

LOG = logging.getLogger(__name__)
FUNCTIONS = (
    "context_handler",
    "denoise_mask_function",
    "model_function_wrapper",
    "sampler_calc_cond_batch_function",
    "sampler_cfg_function",
    "sampler_post_cfg_function",
    "sampler_pre_cfg_function",
)
"""Places in a model's options where another node's function sees the whole batch."""
ATTENTION = (
    "use_split_cross_attention",
    "use_pytorch_cross_attention",
    "use_sage_attention",
    "use_flash_attention",
)
"""Flags by which ComfyUI takes another attention than it would on a CPU."""
OURS = "jetblock"
"""How the keys of this pack's wrappers begin."""


@dataclass(frozen=True)
class Breach:
    """A setting and what it does to the promise.

    Attributes:
        name: The setting, as its user knows it.
        reason: What it does.
        certain: Whether it surely breaks the promise; else it may.
    """

    name: str
    reason: str
    certain: bool

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def enforce(model: ModelPatcher, options: dict[str, Any], level: str) -> None:
    """Raises for what surely breaks the promise, warns of what may."""
    found = list(breaches(model, options, level))
    refuse(found, level)
    for breach in found:
        LOG.warning("JetBlock: level %s may not hold. %s", level, breach)


def refuse(found: Iterable[Breach], level: str) -> None:
    """Raises for what surely breaks the promise."""
    certain = [str(breach) for breach in found if breach.certain]
    if certain:
        raise RuntimeError(f"level {level} cannot be held. " + "; ".join(certain))


def warn_of_uncovered(report: jetblock.mode.Report) -> None:
    """Names what PyTorch computed in a run of level portable, outside the network, where nothing is refused."""
    names = sorted({row.name for row in report.uncovered})
    if names:
        LOG.warning("JetBlock: level portable may not hold. PyTorch computed %s, maybe for a sampler", ", ".join(names))


def breaches(model: ModelPatcher, options: dict[str, Any], level: str) -> Iterator[Breach]:
    """Everything that is known to break the promise and is on."""
    yield from of_the_process(model.load_device, level)
    yield from of_the_model(model, options)


def of_the_process(device: torch.device, level: str) -> Iterator[Breach]:
    """Command line, device, PyTorch's switches."""
    fast = {feature.value for feature in comfy.cli_args.args.fast}
    if "autotune" in fast or torch.backends.cudnn.benchmark:
        yield Breach(
            "--fast autotune (cudnn.benchmark)", "kernels are chosen by how fast they were this time", certain=True
        )
    for feature in sorted(fast - {"autotune"}):
        yield Breach(f"--fast {feature}", "other bits than without it, and other ones on other devices", certain=False)
    if level == "portable" and device.type != "cpu":
        yield Breach(
            f"device {device}", "portable bits are computed on the CPU: start ComfyUI with --cpu", certain=True
        )
    for flag in ATTENTION if level == "portable" else ():
        if getattr(comfy.cli_args.args, flag, False):
            reason = "a network that does not let its attention be chosen has other bits than without this flag"
            yield Breach("--" + flag.replace("_", "-"), reason, certain=False)
    if device.type == "cuda" and not torch.are_deterministic_algorithms_enabled():
        yield Breach(
            "no --deterministic", "some CUDA kernels add in an order that changes from run to run", certain=False
        )


def of_the_model(model: ModelPatcher, options: dict[str, Any]) -> Iterator[Breach]:
    """What other nodes attached to the model."""
    transformer = options.get("transformer_options", {})
    keys = {str(key) for kind in transformer.get("wrappers", {}).values() for key, wrappers in kind.items() if wrappers}
    if "torch.compile" in keys or is_compiled(model):
        yield Breach("torch.compile", "code is generated anew for each batch size", certain=True)
    if "easycache" in keys or "easycache" in transformer:
        yield Breach("EasyCache", "steps are skipped by a mean over the batch", certain=True)
    if options.get("multigpu_clones") or getattr(model, "is_multigpu_base_clone", False):
        yield Breach("multi-GPU", "conditionings are computed on devices with other kernels", certain=True)
    if model.patches and offloads():
        yield Breach(
            "LoRA with weights in dynamic memory", "weights are patched in another precision there", certain=True
        )
    for name in FUNCTIONS:
        if options.get(name):
            yield Breach(name, "another node's function sees the whole batch", certain=False)
    for key in sorted(keys - {"torch.compile", "easycache"}):
        if not key.startswith(OURS):
            yield Breach(f"wrapper {key}", "another node's function may see the whole batch", certain=False)


def is_compiled(model: ModelPatcher) -> bool:
    """Whether some node replaced the network by a compiled one."""
    parts = [model.get_model_object("diffusion_model"), *model.object_patches.values()]
    return any(hasattr(part, "_orig_mod") for part in parts)


def offloads() -> bool:
    """Whether weights may be somewhere else than where they are used."""
    states = comfy.model_management.VRAMState
    if comfy.model_management.vram_state in (states.LOW_VRAM, states.NO_VRAM):
        return True
    # Newer than 0.3.75.
    memory = getattr(comfy, "memory_management", None)
    return bool(getattr(memory, "aimdo_enabled", False))
