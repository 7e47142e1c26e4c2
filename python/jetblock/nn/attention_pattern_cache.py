"""Attention whose pattern, who attends to whom, is reused for some steps."""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jetblock import ops


@dataclass(slots=True)
class _Pattern:
    weights: Tensor
    uses: int


class AttentionPatternCache(nn.Module):
    """Softmax attention over all tokens that keeps `softmax(q k / sqrt(K))` and uses it again with new values.

    Steps of a sampler change patterns slowly. A reuse saves the products with k and the softmax, more than half
    of the work, and is an approximation; `reuses=0` is exact. Patterns are kept by layer (`key`) and shape, up to
    `max_bytes`; the one that was not used for longest goes first, and one that is larger is not kept.

    >>> import torch
    >>> cache = AttentionPatternCache(reuses=1)
    >>> q, k, v = torch.randn(3, 1, 2, 5, 8).unbind()
    >>> torch.equal(cache("layer 0", q, k, v), cache("layer 0", 2 * q, k, v))
    True
    >>> cache.computed, cache.reused
    (1, 1)
    """

    def __init__(self, reuses: int = 1, max_bytes: int = 1 << 30) -> None:
        super().__init__()
        if reuses < 0 or max_bytes < 0:
            raise ValueError(f"reuses {reuses}, max_bytes {max_bytes}: expected at least 0")
        self.reuses = reuses
        self.max_bytes = max_bytes
        self.reset()

    def reset(self) -> None:
        """Forgets all patterns and starts counting again."""
        self._patterns: OrderedDict[tuple[str, torch.Size], _Pattern] = OrderedDict()
        self.bytes = 0
        self.computed = 0
        self.reused = 0

    def forward(self, key: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attends.

        Args:
            key: The layer.
            q: `[B, H, T, K]`.
            k: `[B, H, S, K]`.
            v: `[B, H, S, V]`.

        Returns:
            `[B, H, T, V]`.
        """
        place = (key, torch.Size([*q.shape[:3], k.shape[2]]))
        pattern = self._patterns.get(place)
        if pattern is not None and pattern.uses < self.reuses:
            self._patterns.move_to_end(place)
            pattern.uses += 1
            self.reused += 1
            return ops.matmul(pattern.weights, v)
        weights = ops.softmax(ops.matmul(q, k.transpose(-1, -2)) * q.shape[-1] ** -0.5)
        self.computed += 1
        if self.reuses:
            self._keep(place, _Pattern(weights, 0))
        return ops.matmul(weights, v)

    def _keep(self, place: tuple[str, torch.Size], pattern: _Pattern) -> None:
        self._drop(place)
        if pattern.weights.nbytes > self.max_bytes:
            return
        self._patterns[place] = pattern
        self.bytes += pattern.weights.nbytes
        while self.bytes > self.max_bytes:
            self._drop(next(iter(self._patterns)))

    def _drop(self, place: tuple[str, torch.Size]) -> None:
        pattern = self._patterns.pop(place, None)
        if pattern is not None:
            self.bytes -= pattern.weights.nbytes
