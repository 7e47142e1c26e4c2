"""A model by its name and settings, loaded when it is used and kept for the next use: what node graphs pass around."""

import os
import threading
from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jetblock._errors import ArgumentError
from jetblock.model import Model, load

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from typing_extensions import Unpack

    from jetblock.model import GenerateOptions, Message, Stream

LOAD_OPTIONS = ("operands", "kv", "split", "hash_ties", "threads")
GENERATE_OPTIONS = ("think", "thinking_budget", "thinking_grace", "thinking_close", "speculate")


@dataclass(frozen=True, slots=True)
class ModelHandle:
    """Which model, loaded how, and what its answers start from. Making one loads nothing.

    `dataclasses.replace` makes another with other settings; two that load alike share one model in memory.

    Attributes:
        path: Model folder or GGUF file; the bundled model where None.
        operands: As in `jetblock.load`, as are `kv`, `split`, `hash_ties` and `threads`.
        think: As in `jetblock.GenerateOptions`, as are `thinking_budget`, `thinking_grace`, `thinking_close` and
            `speculate`: what `stream` does where it is not told otherwise.

    >>> from dataclasses import replace
    >>> handle = ModelHandle()
    >>> handle.model() is replace(handle, think="off").model()
    True
    """

    path: str | None = None
    operands: Literal["f32", "bf16"] | None = None
    kv: Literal["f32", "bf16", "fp8", "nvfp4"] | None = None
    split: Literal[64, 128, 256] = 256
    hash_ties: bool = False
    threads: int | None = None
    think: Literal["on", "off", "medium"] | None = None
    thinking_budget: int | None = None
    thinking_grace: int | None = None
    thinking_close: str | None = None
    speculate: int = 0

    @property
    def name(self) -> str:
        """The last part of its path."""
        return "bundled demo model" if self.path is None else Path(self.path).name

    @property
    def load_options(self) -> dict[str, Any]:
        """The arguments of `jetblock.load`."""
        return {name: getattr(self, name) for name in LOAD_OPTIONS}

    def model(self) -> Model:
        """The model, loaded if it is not yet, or if its files have changed since."""
        return MODELS.get(self)

    def stream(
        self,
        prompt: "str | Sequence[Message]",
        options: "Mapping[str, Any] | None" = None,
        **more: "Unpack[GenerateOptions]",
    ) -> "Stream":
        """`Model.generate(prompt, stream=True)` with the settings of the handle, which the given ones outdo."""
        own = {name: value for name in GENERATE_OPTIONS if (value := getattr(self, name)) is not None}
        return self.model().generate(prompt, stream=True, **{**own, **(options or {}), **more})

    def files(self) -> tuple[tuple[str, int, int], ...]:
        """Names, sizes and times of the files; a changed one is another model.

        Raises:
            ArgumentError: There is nothing at the path.
        """
        if self.path is None:
            return ()
        path = Path(self.path)
        try:
            found = sorted(path.iterdir()) if path.is_dir() else [path]
            stats = [(file.name, file.stat()) for file in found]
        except OSError as error:
            raise ArgumentError(f"{path}: {error.strerror}, expected a model folder or a GGUF file") from error
        return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)

    def __str__(self) -> str:
        default = ModelHandle()
        own = {name: value for name, value in asdict(self).items() if value != getattr(default, name)}
        own.pop("path", None)
        return ", ".join([self.name, *(f"{name} {value}" for name, value in own.items())])


class ModelCache:
    """The models used last, at most `limit` of them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._models: OrderedDict[object, Model] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, handle: ModelHandle) -> Model:
        """The model of a handle. While one is loaded, others wait: two at once would only be slower."""
        path = None if handle.path is None else os.path.realpath(handle.path)
        key = (path, handle.files(), tuple(handle.load_options.items()))
        with self._lock:
            model = self._models.get(key)
            if model is None:
                self._trim(self._limit - 1)  # before loading: both need not fit
                model = load(path, **handle.load_options)
                self._models[key] = model
            self._models.move_to_end(key)
            return model

    def _trim(self, limit: int) -> None:
        while len(self._models) > limit:
            self._models.popitem(last=False)

    def set_limit(self, limit: int) -> None:
        """Keeps at most so many models; 1 at least."""
        if limit < 1:
            raise ArgumentError(f"limit is {limit}, expected at least 1")
        with self._lock:
            self._limit = limit
            self._trim(limit)

    def clear(self) -> int:
        """Forgets all models; returns the bytes of their weights. Memory comes back when nobody uses them."""
        with self._lock:
            freed = sum(model.weight_bytes for model in self._models.values())
            self._models.clear()
            return freed

    @property
    def stats(self) -> dict[str, int]:
        """`models` that are kept, the `limit` of them and the `bytes` of their weights."""
        with self._lock:
            kept = sum(model.weight_bytes for model in self._models.values())
            return {"models": len(self._models), "limit": self._limit, "bytes": kept}


MODELS = ModelCache(limit=2)
"""What every handle asks: the model that is used, and the one before it."""
