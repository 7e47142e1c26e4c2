"""What each optimizer level does to a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from comfy.ldm.modules.attention import attention_pytorch

from jetblock.diffusion.int8 import int8_linear, worthwhile
from jetblock.diffusion.skipping import SkipSettings
from jetblock.diffusion.sparse_attention import dual_path_attention

from ._portable import OVERRIDE
from ._skip import skipping_model, without_skips

if TYPE_CHECKING:
    from collections.abc import Callable

    from comfy.model_patcher import ModelPatcher

SPARSE_FROM = 0.15
"""Part of the sampling in which all attention is exact: it is there that the picture's layout is decided."""


@dataclass(frozen=True)
class Level:
    """The parts of a level.

    Attributes:
        means: In words.
        skip_ratio: Part of the steps that is skipped.
        sparse_keep: Part of the keys that stays exact in attention over many tokens; 1 is all.
        int8: Whether linear layers compute in 8 bits.
    """

    means: str
    skip_ratio: float = 0.0
    sparse_keep: float = 1.0
    int8: bool = False


LEVELS = {
    "low": Level("attention pinned to PyTorch's, exact"),
    "medium": Level("and 40% of the steps skipped", skip_ratio=0.4),
    "high": Level("and attention over many tokens in two paths", skip_ratio=0.4, sparse_keep=0.125),
    "extreme": Level("and half of the steps skipped, linear layers in 8 bits", 0.5, 0.125, int8=True),
}
"""From exact to experimental; each has what the one before has."""


def optimized(model: ModelPatcher, level: str, sparse_tokens: int) -> ModelPatcher:
    """A clone of the model at a level; a model that has a level already changes to this one."""
    if level not in LEVELS:
        raise ValueError(f"level is {level!r}, expected one of {', '.join(LEVELS)}")
    parts = LEVELS[level]
    clone = without_skips(model)
    if parts.skip_ratio:
        clone = skipping_model(clone, SkipSettings(skip_ratio=parts.skip_ratio))
    options = clone.model_options["transformer_options"]
    before = options.get(OVERRIDE)
    if isinstance(before, Attention):
        before = before.before
    sampling = clone.get_model_object("model_sampling")
    options[OVERRIDE] = Attention(
        before, parts.sparse_keep, sparse_tokens, float(sampling.percent_to_sigma(SPARSE_FROM))
    )
    for name in [name for name, patch in clone.object_patches.items() if isinstance(patch, Int8Forward)]:
        del clone.object_patches[name]
    if parts.int8:
        for name, module in clone.model.diffusion_model.named_modules():
            if isinstance(module, torch.nn.Linear):
                clone.add_object_patch(f"diffusion_model.{name}.forward", Int8Forward(module))
    return clone


class Attention:
    """Stands before ComfyUI's attention: PyTorch's in any case, so that neither flags nor free memory choose.

    Where another pack has set an override, that one computes, except in two paths.
    """

    def __init__(self, before: Callable[..., Any] | None, keep: float, tokens: int, sigma: float) -> None:
        self.before = before
        self.keep = keep
        self.tokens = tokens
        self.sigma = sigma

    def __call__(self, func: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        """ComfyUI's call, with the function that it chose."""
        if self.keep < 1:
            result = self._in_two_paths(*args, **kwargs)
            if result is not None:
                return result
        if self.before is not None:
            return self.before(func, *args, **kwargs)
        q = args[0]
        if kwargs.get("attn_precision") == torch.float32 and q.dtype != torch.float32:
            return func(*args, **kwargs)  # a model that overflows otherwise
        return attention_pytorch(*args, **kwargs)

    def _in_two_paths(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        heads: int,
        mask: torch.Tensor | None = None,
        attn_precision: torch.dtype | None = None,  # noqa: ARG002 (the two paths keep q's)
        skip_reshape: bool = False,  # noqa: FBT001, FBT002 (ComfyUI's signature)
        skip_output_reshape: bool = False,  # noqa: FBT001, FBT002
        **others: Any,
    ) -> torch.Tensor | None:
        """Nothing where attention is short, masked, early in the sampling or of a form that is not known."""
        sigmas = (others.get("transformer_options") or {}).get("sigmas")
        known = {"transformer_options", "_inside_attn_wrapper"}
        if mask is not None or sigmas is None or float(sigmas.max()) > self.sigma or not known.issuperset(others):
            return None
        if not skip_reshape:
            q, k, v = (x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2) for x in (q, k, v))
        if min(q.shape[2], k.shape[2]) < self.tokens or q.shape[1] != k.shape[1]:
            return None
        result = dual_path_attention(q, k, v, keep=self.keep)
        return result if skip_output_reshape else result.transpose(1, 2).flatten(2)


class Int8Forward:
    """The forward of a linear layer in 8 bits; the layer's own where that does not pay or its weight is on the move."""

    def __init__(self, module: torch.nn.Linear) -> None:
        self.module = module
        own: Any = module.forward
        self.forward: Callable[..., torch.Tensor] = own.forward if isinstance(own, Int8Forward) else own

    def __call__(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As `nn.Linear`."""
        module = self.module
        weight = module.weight
        # Weights that are cast, offloaded or have a LoRA applied as they are used are not there to be rounded.
        moving = getattr(module, "comfy_cast_weights", False) or getattr(module, "weight_function", None)
        plain = weight.dtype in (torch.float32, torch.bfloat16, torch.float16) and weight.device == x.device
        if moving or not plain or not worthwhile(x, weight):
            return self.forward(x, *args, **kwargs)
        return int8_linear(x, weight, module.bias)
