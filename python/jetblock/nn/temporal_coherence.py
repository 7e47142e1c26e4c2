"""Frames or steps that hardly differ from the one before reuse its result."""

from typing import Any, Literal

import torch
from torch import Tensor, nn


class TemporalCoherenceSkipper(nn.Module):
    """Calls a module only for the rows of a batch that have changed enough.

    A row is skipped where `max|x - x0| < threshold max|x0|` for the input x0 that its kept result was computed from, at
    most `max_skips` times in a row. The decision and the result of a row do not depend on its neighbours. A skipped row
    is the kept result (`reuse="output"`) or x plus what the module added then (`"residual"`, for modules that
    return an input of the same shape, changed). Nothing is changed in place.

    This is an approximation: `threshold=0` skips only rows with exactly the input of before, and is exact.

    >>> import torch
    >>> skipper = TemporalCoherenceSkipper(torch.nn.Identity(), threshold=0.1)
    >>> frames = torch.ones(3, 4)
    >>> _ = skipper(frames)
    >>> frames = frames + torch.tensor([[0.05], [0.5], [0.0]])
    >>> skipper(frames)[:, 0], skipper.skipped
    (tensor([1.0000, 1.5000, 1.0000]), 2)
    """

    def __init__(
        self,
        module: nn.Module,
        threshold: float = 0.05,
        max_skips: int = 1,
        reuse: Literal["output", "residual"] = "output",
    ) -> None:
        super().__init__()
        if not threshold >= 0 or max_skips < 0 or reuse not in ("output", "residual"):
            raise ValueError(
                f"threshold {threshold}, max_skips {max_skips}, reuse {reuse!r}: expected at least 0, at least 0,"
                ' "output" or "residual"'
            )
        self.module = module
        self.threshold = threshold
        self.max_skips = max_skips
        self.reuse = reuse
        self.reset()

    def reset(self) -> None:
        """Forgets all rows and starts counting again."""
        self._inputs: Tensor | None = None
        self._outputs: Tensor | None = None
        self._skips: list[int] = []
        self.computed = 0
        self.skipped = 0

    def forward(self, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """Calls the module for rows that need it.

        Args:
            x: `[B, ..]`; row i of one call is followed by row i of the next. Another shape starts anew.
            arguments: Passed on; tensors with B rows lose those that are skipped.
            options: Likewise.
        """
        if self._inputs is None or self._outputs is None or self._inputs.shape != x.shape:
            self._inputs, self._skips = None, [0] * len(x)
        chosen = [row for row in range(len(x)) if not self._may_skip(row, x[row])]
        self.computed += len(chosen)
        self.skipped += len(x) - len(chosen)
        inputs, outputs = self._inputs, self._outputs
        if chosen:
            take = _rows_of(len(x), chosen)
            computed = self.module(x[chosen], *map(take, arguments), **{k: take(v) for k, v in options.items()})
            if inputs is None or outputs is None:
                inputs, outputs = x.clone(), computed.clone()
            else:
                inputs, outputs = inputs.clone(), outputs.clone()
                inputs[chosen], outputs[chosen] = x[chosen], computed
            self._inputs, self._outputs = inputs, outputs
        if inputs is None or outputs is None:
            # No rows at all.
            return self.module(x, *arguments, **options)
        self._skips = [skips + 1 for skips in self._skips]
        for row in chosen:
            self._skips[row] = 0
        if self.reuse == "output":
            return outputs.clone()
        # Where a row was computed x is its input, and the sum would round its result.
        result = x + (outputs - inputs)
        result[chosen] = outputs[chosen]
        return result

    def _may_skip(self, row: int, x: Tensor) -> bool:
        if self._inputs is None or self._skips[row] >= self.max_skips:
            return False
        kept = self._inputs[row]
        if torch.equal(x, kept):
            return True
        # Of maxima, which do not depend on any order.
        return bool((x - kept).abs().max() < self.threshold * kept.abs().max())


def _rows_of(rows: int, chosen: list[int]) -> Any:
    def take(value: Any) -> Any:
        return value[chosen] if isinstance(value, Tensor) and value.dim() and len(value) == rows else value

    return take
