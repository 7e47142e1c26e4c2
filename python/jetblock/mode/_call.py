"""What the covered operators are made of."""

from collections.abc import Callable
from typing import Any

import torch

from jetblock.mode._table import refuse
from jetblock.ops._registry import OPERATORS
from jetblock.ops._weights import CACHE, owner_of
from jetblock.torch_ops import _OnTorch

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


class _InMode(_OnTorch):
    def run(self, function: Callable[..., object], *arguments: Any) -> None:
        """Rows of neighbours are read where they lie; PyTorch, which is fast at it, puts other tensors in order."""
        function(*(a.contiguous() if isinstance(a, torch.Tensor) and not _has_rows(a) else a for a in arguments))

    def packed(self, weight: torch.Tensor, form: object, pack: Callable[[torch.Tensor], Any]) -> Any:
        return packed(weight, form, pack, weight)


def _has_rows(tensor: torch.Tensor) -> bool:
    """Whether the elements of the last dimension are neighbours."""
    return tensor.dim() == 0 or tensor.shape[-1] == 1 or tensor.stride(-1) == 1


ON = _InMode()


def contract(name: str, *arguments: Any) -> Any:
    """Calls an operator of `jetblock.ops` on tensors, past PyTorch's dispatcher."""
    return OPERATORS[name].define(ON, *arguments)


def is_kept(weight: torch.Tensor) -> bool:
    """Whether a weight will come again: a parameter, or a view of one."""
    return isinstance(owner_of(weight), torch.nn.Parameter)


def packed(weight: torch.Tensor, form: object, pack: Callable[[torch.Tensor], Any], given: torch.Tensor) -> Any:
    """A weight packed, and kept for next time if it was `given` as a parameter; views made here hide whose they are."""
    return CACHE.get(weight, form, pack, owner_of(given)) if is_kept(given) else pack(weight)


def check_floats(*tensors: torch.Tensor | None) -> None:
    """Refuses what the contract does not compute with: all dtypes but f32, bf16 and f16, and mixtures of them."""
    dtypes = {tensor.dtype for tensor in tensors if tensor is not None}
    for dtype in dtypes:
        if dtype not in FLOATS:
            refuse(f"dtype {dtype}")
    if len(dtypes) > 1:
        refuse("dtypes " + " and ".join(sorted(map(str, dtypes))))
