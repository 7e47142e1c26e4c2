"""The model's part of deterministic sampling: what ComfyUI computes for a batch, computed row by row.

ComfyUI joins the images of a batch, and as many conditionings as fit the memory that happens to be free, into one call
of the network. Its kernels choose their order of summation by the size of that call, so the bits of an image depend on
all of this. The wrapper here stands around `apply_model`, the last place where rows are still apart. Inside, some
kinds of attention cut their work by the free memory; they are told a fixed amount.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.patcher_extension
import torch

import jetblock

from . import _guards, _portable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from comfy.model_patcher import ModelPatcher
    from comfy.samplers import CFGGuider

KEY = "jetblock_deterministic"
"""Under which the wrappers are attached: of several nodes on a model the last one counts."""
LEVELS = ("batch_invariant", "portable")
GUARDED = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
MEMORY = 4 << 30
"""Bytes that kernels believe to be free. More than they use: they only cut their work so that it fits."""
WALKED = comfy.patcher_extension.WrappersMP.SAMPLER_SAMPLE
COMPUTED = comfy.patcher_extension.WrappersMP.APPLY_MODEL


def deterministic_model(model: ModelPatcher, level: str, micro_batch: int = 1) -> ModelPatcher:
    """A clone of the model whose rows are computed apart.

    The network gets `micro_batch` rows in each call, never more or fewer. `batch_invariant` computes with ComfyUI's
    kernels, `portable` by JetBlock's contract.
    """
    if level not in LEVELS:
        raise ValueError(f"level is {level!r}, expected one of {', '.join(LEVELS)}")

    def guard(executor: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        guider: CFGGuider = executor.class_obj  # type: ignore[attr-defined]
        _guards.enforce(guider.model_patcher, guider.model_options, level)
        if level != "portable":
            return executor(*args, **kwargs)
        _portable.patch(guider.model_patcher)
        # Not the network alone: conditionings are prepared and put together, hooks change weights, samplers step.
        with jetblock.deterministic(strict=False) as report:
            result = executor(*args, **kwargs)
        _guards.warn_of_uncovered(report)
        return result

    clone = ordinary_model(model)
    clone.add_wrapper_with_key(GUARDED, KEY, guard)
    clone.add_wrapper_with_key(COMPUTED, KEY, Rows(micro_batch, level))
    if level == "portable":
        clone.add_wrapper_with_key(WALKED, KEY, _portable.pack_once)
    return clone


def ordinary_model(model: ModelPatcher) -> ModelPatcher:
    """A clone of the model as ComfyUI computes it."""
    clone = model.clone()
    for kind in (GUARDED, WALKED, COMPUTED):
        clone.remove_wrappers_with_key(kind, KEY)
    return clone


@contextmanager
def answered(question: str, answer: Callable[..., Any]) -> Iterator[None]:
    """Lets a function of ComfyUI's memory management answer otherwise in this thread."""
    usual, thread = getattr(comfy.model_management, question), threading.get_ident()

    def asked(*args: Any, **kwargs: Any) -> Any:
        return (answer if threading.get_ident() == thread else usual)(*args, **kwargs)

    setattr(comfy.model_management, question, asked)
    try:
        yield
    finally:
        setattr(comfy.model_management, question, usual)


def fixed_memory() -> AbstractContextManager[None]:
    """The same free memory whatever else the machine is doing."""

    def free(_dev: Any = None, torch_free_too: bool = False) -> Any:  # noqa: FBT001, FBT002 (ComfyUI's signature)
        return (MEMORY, MEMORY) if torch_free_too else MEMORY

    return answered("get_free_memory", free)


@contextmanager
def computed_by(level: str) -> Iterator[None]:
    """Where networks are computed: ComfyUI's kernels or the contract's operators, with the same memory each time."""
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(fixed_memory())
        if level == "portable":
            # Which attention text encoders take.
            stack.enter_context(answered("pytorch_attention_enabled", lambda: True))
            stack.enter_context(jetblock.deterministic())
        yield


class Rows:
    """Calls the network with a fixed number of rows; the last call is filled up with copies of its last row.

    With more than one row, a row's bits might depend on its place among them. So the first call of each size is made
    twice, its rows in another order, and an error tells where this changes a bit.
    """

    def __init__(self, micro_batch: int, level: str) -> None:
        self.size = micro_batch
        self.level = level
        self.tried: set[tuple[int, ...]] = set()

    def __call__(
        self,
        executor: Callable[..., torch.Tensor],
        x: torch.Tensor,
        t: torch.Tensor,
        c_concat: torch.Tensor | None = None,
        c_crossattn: torch.Tensor | None = None,
        control: dict[str, Any] | None = None,
        transformer_options: dict[str, Any] | None = None,
        **conditions: Any,
    ) -> torch.Tensor:
        """Stands in for `apply_model`, whose arguments these are."""
        if control is not None:
            raise RuntimeError("ControlNet computes on the whole batch before JetBlock sees it; images cannot be apart")
        total = x.shape[0]

        def compute(rows: list[int]) -> torch.Tensor:
            options = options_of(transformer_options or {}, rows, total)
            if self.level == "portable":
                options.setdefault(_portable.OVERRIDE, _portable.attention)
            own = {name: rows_of(value, rows, total) for name, value in conditions.items()}
            batched = (rows_of(value, rows, total) for value in (x, t, c_concat, c_crossattn))
            with computed_by(self.level):
                return executor(*batched, None, options, **own)

        results = []
        for first in range(0, total, self.size):
            rows = [min(row, total - 1) for row in range(first, first + self.size)]
            result = compute(rows)
            self.try_places(tuple(x.shape[1:]), rows, result, compute)
            results.append(result[: total - first])
        return torch.cat(results)

    def try_places(
        self,
        shape: tuple[int, ...],
        rows: list[int],
        result: torch.Tensor,
        compute: Callable[[list[int]], torch.Tensor],
    ) -> None:
        """Whether rows keep their bits when each takes the place of the next."""
        if self.size == 1 or shape in self.tried:
            return
        if not torch.equal(compute(rows[1:] + rows[:1]).roll(1, 0), result):
            raise RuntimeError(
                f"on this device a row's bits depend on its place in a micro-batch of {self.size}: use micro_batch 1"
            )
        self.tried.add(shape)


def rows_of(value: Any, rows: list[int], total: int) -> Any:
    """What of an argument belongs to these rows: those of a tensor with an entry for each row, else all of it.

    In memory of its own, since some libraries choose their loops by a tensor's alignment.
    """
    if isinstance(value, torch.Tensor) and value.ndim > 0 and value.shape[0] == total:
        return torch.cat([value[row : row + 1] for row in rows])
    if isinstance(value, list):
        return [rows_of(item, rows, total) for item in value]
    return value


def options_of(options: dict[str, Any], rows: list[int], total: int) -> dict[str, Any]:
    """The options as they are where each of these rows is a conditioning of one image."""
    own = options.copy()
    kinds = options.get("cond_or_uncond")
    if kinds:
        images = total // len(kinds)
        for name in ("cond_or_uncond", "uuids"):
            if name in options:
                own[name] = [options[name][row // images] for row in rows]
        if "sigmas" in options:
            own["sigmas"] = rows_of(options["sigmas"], [rows[0] % images], images)
    return own
