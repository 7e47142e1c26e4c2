"""Operators on NumPy arrays."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


class _OnNumpy:
    def empty(self, shape: Sequence[int], like: Any, dtype: str | None = None) -> Any:
        return np.empty(tuple(shape), dtype or like.dtype)

    def zeros(self, shape: Sequence[int], like: Any) -> Any:  # noqa: ARG002 (as for tensors)
        return np.zeros(tuple(shape), np.float32)

    def copy(self, array: Any) -> Any:
        return np.array(array, np.float32, order="C")

    def transpose_last_two(self, array: Any) -> Any:
        return np.swapaxes(array, -1, -2)

    def run(self, function: Callable[..., object], *arguments: Any) -> None:
        function(*arguments)

    def packed(self, weight: Any, form: object, pack: Callable[[Any], Any]) -> Any:  # noqa: ARG002 (as for tensors)
        # An array does not tell when it was changed, so nothing is kept; `pack_weight` is there for who knows better.
        return pack(weight)


ON = _OnNumpy()
