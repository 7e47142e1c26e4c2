"""Packed weights of linear layers, kept as long as their tensors live and do not change, up to a bound."""

import threading
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING

from jetblock import _core
from jetblock._errors import ArgumentError

if TYPE_CHECKING:
    import torch

DEFAULT_BYTES = 4 << 30


class WeightCache:
    """Packed weights by tensor; the one that was not used for longest goes first."""

    def __init__(self, limit: int = DEFAULT_BYTES) -> None:
        self._lock = threading.RLock()
        self._kept: OrderedDict[tuple[int, str], tuple[weakref.ref[torch.Tensor], object, _core.PackedWeight]]
        self._kept = OrderedDict()
        self._bytes = 0
        self._limit = limit
        self._packed = 0

    def get(self, weight: "torch.Tensor", kind: str) -> _core.PackedWeight:
        """The packed form of `weight [N, K]`."""
        if weight.is_inference():
            # It has no counter of its changes.
            return _core.PackedWeight(weight, kind)
        key = (id(weight), kind)
        state = (weight._version, weight.data_ptr(), weight.shape, weight.stride(), weight.dtype)  # noqa: SLF001
        with self._lock:
            found = self._kept.get(key)
            if found and found[0]() is weight and found[1] == state:
                self._kept.move_to_end(key)
                return found[2]
        packed = _core.PackedWeight(weight, kind)
        with self._lock:
            self._packed += 1
            self._drop(key)
            if packed.nbytes <= self._limit:
                reference = weakref.ref(weight, lambda reference: self._forget(key, reference))
                self._kept[key] = (reference, state, packed)
                self._bytes += packed.nbytes
                self._shrink()
        return packed

    def set_limit(self, limit: int) -> None:
        """Changes the bound, in bytes; 0 keeps nothing."""
        if limit < 0:
            raise ArgumentError(f"the limit is {limit} bytes, expected at least 0")
        with self._lock:
            self._limit = limit
            self._shrink()

    def stats(self) -> dict[str, int]:
        """Weights kept, their bytes, the bound, and how often a weight was packed."""
        with self._lock:
            return {"weights": len(self._kept), "bytes": self._bytes, "limit": self._limit, "packed": self._packed}

    def _shrink(self) -> None:
        while self._bytes > self._limit:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: tuple[int, str]) -> None:
        found = self._kept.pop(key, None)
        if found:
            self._bytes -= found[2].nbytes

    def _forget(self, key: tuple[int, str], reference: "weakref.ref[torch.Tensor]") -> None:
        """A tensor is gone; another one may have its id by now."""
        with self._lock:
            found = self._kept.get(key)
            if found and found[0] is reference:
                self._drop(key)


CACHE = WeightCache()
