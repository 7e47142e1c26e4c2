"""The list of operators. Each is written once and serves NumPy arrays, CPU tensors and tensors without data.

An operator is a function that makes its outputs and runs a function of the compiled module, both through what the
arrays are *on*:

    @operator("(Tensor x, Tensor weight, float eps=1e-05) -> Tensor")
    def rms_norm(on, x, weight, eps):
        out = on.empty(x.shape, x)
        on.run(_core.rms_norm, x, weight, eps, out)
        return out

On NumPy arrays it is called as it is. On tensors it is `torch.ops.jetblock.rms_norm`, registered with the schema by
`jetblock.torch_ops`; while PyTorch traces, `on.run` computes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jetblock._errors import ArgumentError


class On(Protocol):
    """Makes and computes arrays of one kind."""

    def empty(self, shape: Sequence[int], like: Any, dtype: str | None = None) -> Any:
        """An array without values; of dtype `float32` or `int64`, else that of `like`."""

    def zeros(self, shape: Sequence[int], like: Any) -> Any:
        """An array of f32 zeros."""

    def copy(self, array: Any) -> Any:
        """An f32 array with these values, in order."""

    def transpose_last_two(self, array: Any) -> Any:
        """A view."""

    def run(self, function: Callable[..., object], *arguments: Any) -> None:
        """Calls a function of the compiled module."""

    def packed(self, weight: Any, form: object, pack: Callable[[Any], Any]) -> Any:
        """A weight as `pack` makes it, kept where its changes are seen; `form` says which packing that is."""


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator: its name and schema in PyTorch's words, and its definition."""

    name: str
    schema: str
    define: Callable[..., Any]

    @property
    def changes_inputs(self) -> bool:
        """Whether the schema marks an argument as written."""
        return "!)" in self.schema


OPERATORS: dict[str, Operator] = {}


def operator(schema: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds a function to the list under its name."""

    def add(define: Callable[..., Any]) -> Callable[..., Any]:
        name = define.__name__
        OPERATORS[name] = Operator(name, schema, define)
        return define

    return add


def call(name: str, *arguments: Any) -> Any:
    """Calls an operator on what its first array is: a tensor or a NumPy array."""
    # Plain enough for torch.compile to read.
    kind = None
    for argument in arguments:
        own = kind_of(argument)
        if own and kind and own != kind:
            raise ArgumentError(f"{name}: the arguments are of torch and numpy, expected one of them")
        kind = kind or own
    if kind == "torch":
        from jetblock import torch_ops  # noqa: PLC0415 (PyTorch is imported where it is used)

        return torch_ops.call(name, *arguments)
    if kind == "numpy":
        from jetblock.ops import _numpy  # noqa: PLC0415 (as above)

        return OPERATORS[name].define(_numpy.ON, *arguments)
    raise TypeError(f"{name}: expected torch.Tensor or numpy.ndarray, got {type(arguments[0]).__name__}")


def kind_of(value: Any) -> str | None:
    """Whether a value is an array, and whose, without importing either library."""
    if hasattr(value, "data_ptr"):
        return "torch"
    return "numpy" if hasattr(value, "__array_interface__") else None
