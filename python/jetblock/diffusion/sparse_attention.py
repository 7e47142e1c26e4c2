"""Attention over many tokens in two paths: exact over the blocks of keys that matter, pooled over the rest.

Both paths share one softmax, so nothing is left out: a block that was not chosen takes part with its mean key and
value, weighted by how many tokens it stands for.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from jetblock._errors import ArgumentError

if TYPE_CHECKING:
    from torch import Tensor


QUERIES = 8
"""Blocks of queries that choose together: the keys they gather are read once for all of them."""


def dual_path_attention(q: Tensor, k: Tensor, v: Tensor, *, keep: float = 0.125, block: int = 64) -> Tensor:
    """An approximation of scaled dot-product attention without a mask; exact where every block is kept.

    Blocks of queries choose blocks of keys by the products of their means. Each image and head is computed by itself.

    >>> q = torch.linspace(-1, 1, 96).reshape(1, 1, 12, 8)
    >>> whole = dual_path_attention(q, q, q, keep=1.0, block=4)
    >>> torch.allclose(whole, functional.scaled_dot_product_attention(q, q, q), atol=1e-6)
    True

    Args:
        q: `[B, H, N, D]`.
        k: `[B, H, M, D]`.
        v: `[B, H, M, D]`.
        keep: Part of the blocks of keys that is exact, rounded up.
        block: Tokens of a block.

    Returns:
        `[B, H, N, D]`.
    """
    if not 0 < keep <= 1 or block < 1:
        raise ArgumentError(f"keep {keep}, block {block}: expected more than 0 and at most 1, at least 1")
    if q.shape[:2] != k.shape[:2] or k.shape != v.shape or q.shape[3:] != k.shape[3:]:
        shapes = [list(x.shape) for x in (q, k, v)]
        raise ArgumentError(f"q, k and v are {shapes}, expected [B, H, N, D] and twice [B, H, M, D]")
    result = torch.empty_like(q)
    for image in range(q.shape[0]):
        for head in range(q.shape[1]):
            result[image, head] = _of_head(q[image, head], k[image, head], v[image, head], keep, block)
    return result


def _of_head(q: Tensor, k: Tensor, v: Tensor, keep: float, block: int) -> Tensor:
    length, width = q.shape
    q_blocks, q_count = _blocks(q, QUERIES * block)
    k_blocks, k_count = _blocks(k, block)
    v_blocks, _ = _blocks(v, block)
    q_mean, k_mean, v_mean = (
        blocks.sum(1) / count[:, None]
        for blocks, count in ((q_blocks, q_count), (k_blocks, k_count), (v_blocks, k_count))
    )
    kept = math.ceil(k_blocks.shape[0] * keep)
    relevance = q_mean @ k_mean.T / math.sqrt(width) + k_count.log()
    chosen = relevance.topk(kept, dim=1).indices
    rows = chosen.shape[0]
    # To the scores of a query: nothing for a token of a chosen block, never for padding and for what is chosen already.
    padding = torch.arange(block, device=q.device) >= k_count[:, None]
    of_tokens = torch.zeros(padding.shape, dtype=q.dtype, device=q.device).masked_fill(padding, -math.inf)
    of_blocks = k_count.log().repeat(rows, 1).scatter(1, chosen, -math.inf)
    bias = torch.cat([of_tokens[chosen].reshape(rows, -1), of_blocks], 1)
    keys = torch.cat([k_blocks[chosen].reshape(rows, -1, width), k_mean.expand(rows, -1, -1)], 1)
    values = torch.cat([v_blocks[chosen].reshape(rows, -1, width), v_mean.expand(rows, -1, -1)], 1)
    whole = functional.scaled_dot_product_attention(q_blocks, keys, values, attn_mask=bias[:, None])
    return whole.reshape(-1, width)[:length]


def _blocks(x: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """`[N, D]` as `[N / block, block, D]`, padded with zeros, and the tokens in each block."""
    count = -(-x.shape[0] // block)
    padded = functional.pad(x, (0, 0, 0, count * block - x.shape[0]))
    starts = torch.arange(count, device=x.device) * block
    return padded.reshape(count, block, -1), (x.shape[0] - starts).clamp(max=block).to(x.dtype)
