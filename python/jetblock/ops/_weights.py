"""Packed weights of linear layers, kept as long as their tensors live and do not change, up to a bound."""

import threading
import weakref
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from jetblock._errors import ArgumentError, JetBlockError
from jetblock.checksums import checksum

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import torch

DEFAULT_BYTES = 4 << 30


class Packed(Protocol):
    """A weight in the form that an operator reads."""

    @property
    def nbytes(self) -> int:
        """Memory."""


P = TypeVar("P", bound=Packed)


class Constants:
    """Weights of inference mode that are said not to change, and the digests of those that were packed."""

    def __init__(self, weights: "Iterable[torch.Tensor]") -> None:
        self.weights = {id(weight): weight for weight in weights if weight.is_inference()}
        self._digests: dict[int, str] = {}

    def note(self, weight: "torch.Tensor") -> None:
        """Before it is packed."""
        if id(weight) not in self._digests:
            self._digests[id(weight)] = checksum(weight)

    def check(self) -> None:
        """Raises if one is not what it was when it was packed."""
        for key, digest in self._digests.items():
            if checksum(self.weights[key]) != digest:
                shape = list(self.weights[key].shape)
                raise JetBlockError(
                    f"a weight of shape {shape} has changed inside constant_weights(), expected none to:"
                    " what was computed there is of no use"
                )


class WeightCache:
    """Packed weights by tensor and form; the one that was not used for longest goes first.

    A view, such as one expert of many, belongs to the tensor it is a view of, so that a fresh view of it finds it too.
    """

    def __init__(self, limit: int = DEFAULT_BYTES) -> None:
        self._lock = threading.RLock()
        self._kept: OrderedDict[Any, tuple[weakref.ref[torch.Tensor], object, Any]]
        self._kept = OrderedDict()
        self._bytes = 0
        self._limit = limit
        self._packed = 0
        self._constants: list[Constants] = []

    def get(
        self,
        weight: "torch.Tensor",
        form: object,
        pack: "Callable[[torch.Tensor], P]",
        owner: "torch.Tensor | None" = None,
        *,
        is_constant: bool = False,
    ) -> P:
        """The weight as `pack` makes it; `form` says which packing that is; `owner` where the weight hides its own.

        A tensor of inference mode has no counter of its changes: it is packed each time, unless it `is_constant` or
        inside a scope of `constant`.
        """
        owner = owner_of(weight) if owner is None else owner
        if owner.is_inference() and not is_constant:
            constants = next((scope for scope in self._constants if id(owner) in scope.weights), None)
            if constants is None:
                return pack(weight)
            constants.note(owner)
        key = (id(owner), form, weight.storage_offset(), weight.shape, weight.stride())
        version = None if owner.is_inference() else owner._version  # noqa: SLF001
        state = (version, weight.data_ptr(), weight.dtype)
        with self._lock:
            found = self._kept.get(key)
            if found and found[0]() is owner and found[1] == state:
                self._kept.move_to_end(key)
                return found[2]
        packed = pack(weight)
        with self._lock:
            self._packed += 1
            self._drop(key)
            if packed.nbytes <= self._limit:
                reference = weakref.ref(owner, lambda reference: self._forget(key, reference))
                self._kept[key] = (reference, state, packed)
                self._bytes += packed.nbytes
                self._shrink()
        return packed

    @contextmanager
    def constant(self, weights: "Iterable[torch.Tensor]") -> "Iterator[None]":
        """Until the scope ends, keeps packed forms of these weights of inference mode too; then checks them."""
        constants = Constants(weights)
        self._constants.append(constants)
        try:
            yield
        finally:
            self._constants.remove(constants)
            self.drop(constants.weights.values())
        constants.check()

    def drop(self, weights: "Iterable[torch.Tensor]") -> None:
        """Forgets the packed forms of weights and of their views."""
        owners = {id(owner_of(weight)) for weight in weights}
        with self._lock:
            for key in [key for key in self._kept if key[0] in owners]:
                self._drop(key)

    def clear(self) -> None:
        """Forgets all packed forms; what an operator is using stays until it is done."""
        with self._lock:
            for key in list(self._kept):
                self._drop(key)

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

    def _drop(self, key: object) -> None:
        found = self._kept.pop(key, None)
        if found:
            self._bytes -= found[2].nbytes

    def _forget(self, key: object, reference: "weakref.ref[torch.Tensor]") -> None:
        """A tensor is gone; another one may have its id by now."""
        with self._lock:
            found = self._kept.get(key)
            if found and found[0] is reference:
                self._drop(key)


def owner_of(weight: "torch.Tensor") -> "torch.Tensor":
    """The tensor whose memory a view shows; a tensor itself otherwise."""
    base: torch.Tensor | None = weight._base  # noqa: SLF001 (views have no public way back)
    return weight if base is None else base


CACHE = WeightCache()
