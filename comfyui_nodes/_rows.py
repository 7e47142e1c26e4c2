"""The model's part of deterministic sampling: what ComfyUI computes for a batch, computed row by row.

ComfyUI joins the images of a batch, and as many conditionings as fit the memory that happens to be free, into one call
of the network. Its kernels choose their order of summation by the size of that call, so the bits of an image depend on
all of this. The wrapper here stands around `apply_model`, the last place where rows are still apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import comfy.patcher_extension
import torch

import jetblock

if TYPE_CHECKING:
    from collections.abc import Callable

    from comfy.model_patcher import ModelPatcher

KEY = "jetblock_deterministic"
"""Under which the wrapper is attached: a model wrapped twice is wrapped by the last node alone."""
MODEL_LEVELS = ("batch_invariant", "portable")


def deterministic_model(model: ModelPatcher, level: str) -> ModelPatcher:
    """A clone of the model whose rows are computed apart.

    `batch_invariant` calls ComfyUI's kernels with one row at a time; `portable` computes by JetBlock's contract.
    """
    if level not in MODEL_LEVELS:
        raise ValueError(f"level is {level!r}, expected one of {', '.join(MODEL_LEVELS)}")
    kind = comfy.patcher_extension.WrappersMP.APPLY_MODEL
    clone = model.clone()
    clone.remove_wrappers_with_key(kind, KEY)
    clone.add_wrapper_with_key(kind, KEY, by_contract if level == "portable" else row_by_row)
    return clone


def by_contract(executor: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
    """The network by the operators of `jetblock.deterministic`, whose rows never depend on each other."""
    device = args[0].device
    if device.type != "cpu":
        raise RuntimeError(
            f"level portable computes on the CPU, but ComfyUI runs this model on {device}: start it with --cpu"
        )
    with torch.no_grad(), jetblock.deterministic():
        return executor(*args, **kwargs)


def row_by_row(
    executor: Callable[..., torch.Tensor],
    x: torch.Tensor,
    t: torch.Tensor,
    c_concat: torch.Tensor | None = None,
    c_crossattn: torch.Tensor | None = None,
    control: dict[str, Any] | None = None,
    transformer_options: dict[str, Any] | None = None,
    **conditions: Any,
) -> torch.Tensor:
    """ComfyUI's kernels, called with one row at a time."""
    options = transformer_options or {}
    rows = x.shape[0]
    if control is not None:
        raise RuntimeError(
            "ControlNet computes on the whole batch before JetBlock sees it, so no image can be computed apart"
        )
    results = []
    for row in range(rows):
        conditions_of_row = {name: row_of(value, row, rows) for name, value in conditions.items()}
        results.append(
            executor(
                row_of(x, row, rows),
                row_of(t, row, rows),
                row_of(c_concat, row, rows),
                row_of(c_crossattn, row, rows),
                None,
                options_of_row(options, row, rows),
                **conditions_of_row,
            )
        )
    return torch.cat(results)


def row_of(value: Any, row: int, rows: int) -> Any:
    """What of an argument belongs to a row: the row of a tensor with one entry per row, else all of it.

    In memory of its own, since some libraries choose their loops by a tensor's alignment.
    """
    if isinstance(value, torch.Tensor) and value.ndim > 0 and value.shape[0] == rows:
        return value[row : row + 1].clone()
    if isinstance(value, list):
        return [row_of(item, row, rows) for item in value]
    return value


def options_of_row(options: dict[str, Any], row: int, rows: int) -> dict[str, Any]:
    """The options as they are where the row is alone: its own kind of conditioning, its own sigma."""
    alone = options.copy()
    kinds = options.get("cond_or_uncond", [])
    if kinds:
        images = rows // len(kinds)
        for name in ("cond_or_uncond", "uuids"):
            if name in options:
                alone[name] = [options[name][row // images]]
        if "sigmas" in options:
            alone["sigmas"] = row_of(options["sigmas"], row % images, images)
    return alone
