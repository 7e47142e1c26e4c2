"""Digests of arrays, and whether a function always gives the same bits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jetblock import _core
from jetblock._errors import ArgumentError

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch
    from typing_extensions import TypeIs

    Array = torch.Tensor | npt.NDArray[Any]


def checksum(array: "Array") -> str:
    """The contract's digest of a tensor or array: 64 hex digits (NUMERICS.md, section 12).

    Dtype, shape and the bits of all elements in row-major order enter, strides do not. Nothing is copied where the
    elements lie in order.

    >>> import numpy as np
    >>> checksum(np.zeros((2, 3), np.float32))[:16]
    'cbdf15d85debb2d9'
    """
    return _core.checksum(_plain(array))


@dataclass(frozen=True, slots=True)
class Difference:
    """The first element in which a run's output differs from the first run's.

    Attributes:
        run: Which run, counted from 0.
        output: Which output, `""` for the only one, else its path such as `[0]` or `['logits']`.
        index: The element's index; empty where dtype or shape differ already.
        expected: Its bits in the first run, in hex (or dtype and shape).
        got: Its bits in this run.
    """

    run: int
    output: str
    index: tuple[int, ...]
    expected: str
    got: str


@dataclass(frozen=True, slots=True)
class DeterminismReport:
    """What `validate_determinism` found.

    Attributes:
        runs: Calls made.
        digests: How often each result came, by the digests of its outputs.
        first_difference: Where the first different result differs.
    """

    runs: int
    digests: dict[tuple[str, ...], int]
    first_difference: Difference | None

    def __bool__(self) -> bool:
        """Whether every run gave the same bits."""
        return len(self.digests) == 1

    def __str__(self) -> str:
        if self:
            return f"1 result in {self.runs} runs: {next(iter(self.digests))}"
        return f"{len(self.digests)} different results in {self.runs} runs; first difference: {self.first_difference}"


def validate_determinism(
    fn: Callable[..., Any], inputs: Sequence[Any] | Any = (), runs: int = 1000
) -> DeterminismReport:
    """Calls a function again and again and compares the bits of what it returns.

    Args:
        fn: Called as `fn(*inputs)`. It returns a tensor or array, or tuples, lists and dicts of them.
        inputs: Its arguments, the same in every call; a single tensor or array stands for itself. A function that
            changes them in place is caught.
        runs: Calls to make.

    >>> import numpy as np
    >>> report = validate_determinism(np.square, np.arange(3.0), runs=10)
    >>> bool(report), report.runs
    (True, 10)
    """
    if runs < 1:
        raise ArgumentError(f"runs is {runs}, expected at least 1")
    arguments = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    before = _digests(arguments)
    first: list[tuple[str, Array]] = []
    digests: dict[tuple[str, ...], int] = {}
    difference = None
    for run in range(runs):
        outputs = _outputs(fn(*arguments))
        if not outputs:
            raise ArgumentError("the function returned no tensor and no array, so equal bits would prove nothing")
        if run == 0:
            # A function may return the same memory in every call.
            first = [(path, _copy(array)) for path, array in outputs]
        digest = tuple(checksum(array) for _, array in outputs)
        if digests and digest not in digests and difference is None:
            difference = _first_difference(run, first, outputs)
        digests[digest] = digests.get(digest, 0) + 1
        if _digests(arguments) != before:
            raise ArgumentError(f"run {run} changed the inputs in place, expected the same inputs in every run")
    return DeterminismReport(runs, digests, difference)


def _plain(array: "Array") -> "Array":
    """The array without what stands between it and its memory."""
    return array.detach().resolve_neg() if _is_tensor(array) else array


def _copy(array: "Array") -> "Array":
    return array.detach().clone() if _is_tensor(array) else array.copy()


def _is_tensor(value: Any) -> "TypeIs[torch.Tensor]":
    """Without importing torch."""
    return hasattr(value, "data_ptr")


def _outputs(value: Any, path: str = "") -> "list[tuple[str, Array]]":
    """The tensors and arrays in a result, with their paths."""
    if _is_tensor(value) or hasattr(value, "__array_interface__"):
        return [(path, value)]
    if isinstance(value, dict):
        items = [(f"{path}[{key!r}]", item) for key, item in value.items()]
    elif isinstance(value, (tuple, list)):
        items = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    else:
        return []
    return [found for item_path, item in items for found in _outputs(item, item_path)]


def _digests(value: Any) -> tuple[str, ...]:
    return tuple(checksum(array) for _, array in _outputs(value))


def _first_difference(run: int, first: "list[tuple[str, Array]]", outputs: "list[tuple[str, Array]]") -> Difference:
    for (path, expected), (_, got) in zip(first, outputs, strict=False):
        if (expected.dtype, expected.shape) != (got.dtype, got.shape):
            describe = [f"{array.dtype}{list(array.shape)}" for array in (expected, got)]
            return Difference(run, path, (), *describe)
        found = _core.first_difference(_plain(expected), _plain(got))
        if found:
            flat, *bits = found
            return Difference(run, path, _unravel(flat, tuple(got.shape)), *bits)
    return Difference(run, "", (), f"{len(first)} outputs", f"{len(outputs)} outputs")


def _unravel(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    index = []
    for size in reversed(shape):
        flat, at = divmod(flat, size)
        index.append(at)
    return tuple(reversed(index))
