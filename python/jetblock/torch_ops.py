"""`torch.ops.jetblock.*`: importing this module registers the operators with PyTorch, for tensors on the CPU.

>>> import torch, jetblock.torch_ops
>>> torch.ops.jetblock.relu2(torch.tensor([-1.0, 2.0, 3.0]))
tensor([0., 4., 9.])

Each has a version for tensors without data, so `torch.compile` and export trace through it. There are no gradients: the
operators are for inference, and `backward` says so.
"""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch

import jetblock.ops._define
import jetblock.ops._define_torch  # noqa: F401 (they fill the list)
from jetblock.ops._registry import OPERATORS, Operator
from jetblock.ops._weights import CACHE

LIBRARY = torch.library.Library("jetblock", "DEF")


class _OnTorch:
    def empty(self, shape: Sequence[int], like: torch.Tensor, dtype: str | None = None) -> torch.Tensor:
        return torch.empty(shape, dtype=getattr(torch, dtype) if dtype else like.dtype, device=like.device)

    def zeros(self, shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.float32, device=like.device)

    def copy(self, array: torch.Tensor) -> torch.Tensor:
        return array.to(torch.float32, copy=True, memory_format=torch.contiguous_format)

    def transpose_last_two(self, array: torch.Tensor) -> torch.Tensor:
        return array.transpose(-1, -2)

    def run(self, function: Callable[..., object], *arguments: Any) -> None:
        function(*arguments)

    def packed(self, weight: torch.Tensor, form: object, pack: Callable[[torch.Tensor], Any]) -> Any:
        return CACHE.get(weight, form, pack)


class _OnNothing(_OnTorch):
    """Shapes only."""

    def run(self, function: Callable[..., object], *arguments: Any) -> None:
        pass


_ON = _OnTorch()


def _register(operator: Operator) -> Callable[..., Any]:
    name, define = operator.name, operator.define
    LIBRARY.define(f"{name}{operator.schema}")
    on_nothing = _OnNothing()
    LIBRARY.impl(name, lambda *arguments, **options: define(_ON, *arguments, **options), "CPU")
    torch.library.register_fake(
        f"jetblock::{name}", lambda *arguments, **options: define(on_nothing, *arguments, **options), lib=LIBRARY
    )
    if not operator.changes_inputs:

        def backward(*_: object) -> NoReturn:
            raise NotImplementedError(f"jetblock::{name} has no gradient: it is for inference, use torch.no_grad()")

        torch.library.register_autograd(f"jetblock::{name}", backward, lib=LIBRARY)
    function: Callable[..., Any] = getattr(torch.ops.jetblock, name).default
    return function


_FUNCTIONS = {name: _register(operator) for name, operator in OPERATORS.items()}


_PLAIN = {torch.Tensor, torch.nn.Parameter}


def call(name: str, *arguments: Any) -> Any:
    """Calls an operator on tensors, by its name."""
    operator = OPERATORS[name]
    if _is_plain(operator, arguments):
        return operator.define(_ON, *arguments)
    return _FUNCTIONS[name](*arguments)


def _is_plain(operator: Operator, arguments: Sequence[Any]) -> bool:
    """Whether PyTorch's dispatcher would only take time: no gradients, and nobody traces or looks on."""
    return (
        not torch.compiler.is_compiling()
        and not torch.is_grad_enabled()
        and not operator.changes_inputs
        and torch._C._len_torch_dispatch_stack() == 0  # noqa: SLF001 (no public name)
        and torch._C._functorch.peek_interpreter_stack() is None  # noqa: SLF001 (no public name)
        and not torch._C._autograd._profiler_enabled()  # noqa: SLF001 (no public name)
        and all(type(a) in _PLAIN and a.is_cpu and not a.is_neg() for a in arguments if hasattr(a, "data_ptr"))
    )
