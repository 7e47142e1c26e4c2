"""What other packs of ComfyUI may build on: an optimizer, a quantizer, a router and checksums (docs/interfaces.md).

These functions keep their names, arguments and meaning while `VERSION` stays. They need torch; `optimize` also needs
JetBlock's node pack, which brings it when ComfyUI loads it.

>>> import torch
>>> experts, weights = route(torch.tensor([[0.5, 2.0, 2.0, -1.0]]), 2)
>>> experts.tolist(), weights.sum().item()
([[1, 2]], 1.0)
>>> quantize(torch.full((2, 32), 6.0)).dequantize().sum().item()
384.0
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from jetblock import nvfp4, ops
from jetblock._errors import ArgumentError, JetBlockError
from jetblock.diffusion import manifest

if TYPE_CHECKING:
    from jetblock.handles import ModelHandle

VERSION = 1
Level = Literal["low", "medium", "high", "extreme"]
Optimizer = Callable[[Any, str], Any]

_OPTIMIZERS: list[Optimizer] = []


@dataclass(frozen=True, slots=True)
class Quantized:
    """A tensor in NVFP4: 9 bytes for 16 elements.

    Attributes:
        codes: uint8 `[.., K / 2]`, two codes in a byte, the even element in the low half.
        scales: uint8 `[.., K / 16]`, E4M3.
        dtype: Of the tensor before.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return self.codes.nbytes + self.scales.nbytes

    def dequantize(self) -> torch.Tensor:
        """The values of the codes, in the dtype before."""
        return nvfp4.dequantize(self.codes, self.scales, self.dtype)


def quantize(x: torch.Tensor) -> Quantized:
    """A tensor `[.., K]` in NVFP4, K a multiple of 16. Every block of 16 is computed from itself alone.

    Args:
        x: Floating point, on the CPU.
    """
    if not x.is_floating_point() or x.device.type != "cpu":
        raise ArgumentError(f"quantize: x is {x.dtype} on {x.device}, expected floating point on cpu")
    return Quantized(*nvfp4.quantize(x), x.dtype)


def quantize_context(model: "ModelHandle", form: Literal["nvfp4", "fp8"] = "nvfp4") -> "ModelHandle":
    """A language model (a link of type JETBLOCK_MODEL) that keeps its context, keys and values, in fewer bits."""
    if form not in ("nvfp4", "fp8"):
        raise ArgumentError(f"quantize_context: form is {form!r}, expected 'nvfp4' or 'fp8'")
    return replace(model, kv=form)


def route(logits: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Chooses for each row; equal logits go to the lower index, no row depends on another.

    Args:
        logits: `[R, E]`.
        count: How many of the E are chosen.

    Returns:
        Indices `[R, count]` int64, ascending, and weights `[R, count]` f32: sigmoid of the logit, divided by their sum.
    """
    if logits.ndim != 2 or not 1 <= count <= logits.shape[1]:
        raise ArgumentError(f"route: {count} of logits {list(logits.shape)}, expected [R, E] and at most E")
    return ops.moe_router(logits.float(), torch.zeros(logits.shape[1]), num_experts_per_tok=count)


def optimize(model: Any, level: Level = "low") -> Any:
    """A clone of a MODEL at an optimizer level, as the node JetBlockModelOptimizer makes it; `low` is exact."""
    if not _OPTIMIZERS:
        raise JetBlockError("optimize: JetBlock's node pack is not loaded, expected it in ComfyUI's custom_nodes")
    return _OPTIMIZERS[-1](model, level)


def provide_optimizer(optimizer: Optimizer) -> None:
    """For JetBlock's node pack, which knows ComfyUI."""
    _OPTIMIZERS[:] = [optimizer]


def checksums(results: Mapping[str, torch.Tensor], numbers: Sequence[int] | None = None) -> str:
    """A manifest as JSON, which the node JetBlockChecksumValidator takes as `expected`.

    Args:
        results: Batches `[B, ..]` by name: `latent` (the samples of a LATENT), `image` (an IMAGE).
        numbers: Each image's number, where not 0 to B - 1: a LATENT's `batch_index`.
    """
    return json.dumps(manifest.manifest(manifest.describe(results, numbers)))


def compare(expected: str, got: str) -> manifest.Comparison:
    """Two manifests: true where no image differs; as text, what differs and why.

    Args:
        expected: JSON of `checksums` or of the node JetBlockChecksumValidator.
        got: Likewise.
    """
    return manifest.compare(manifest.check(json.loads(expected)), manifest.check(json.loads(got)))


__all__ = [
    "VERSION",
    "Level",
    "Quantized",
    "checksums",
    "compare",
    "optimize",
    "provide_optimizer",
    "quantize",
    "quantize_context",
    "route",
]
