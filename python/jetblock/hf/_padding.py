"""Rows with padding, the real tokens of each brought together at its start."""

import torch


def real_first(real: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The rows `x [B, T, ..]` with the tokens of `real [B, T]` first, in order."""
    return x[_rows(x), _order(real)]


def back(real: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Undoes `real_first`; padding is 0."""
    y = x[_rows(x), _order(real).argsort(dim=1)]
    return y.masked_fill(~real.reshape(*real.shape, *[1] * (x.ndim - 2)), 0)


def _rows(x: torch.Tensor) -> torch.Tensor:
    return torch.arange(len(x))[:, None]


def _order(real: torch.Tensor) -> torch.Tensor:
    return (~real).sort(dim=1, stable=True).indices
