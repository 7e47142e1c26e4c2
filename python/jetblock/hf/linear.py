"""Matrix products."""

import torch
from torch import nn

from jetblock import ops


class BatchInvariantLinear(nn.Linear):
    """`x @ weight.T + bias`, each output summed along K in the fixed order of NUMERICS.md section 3.

    bf16 x and weight multiply as bf16 operands, all else in f32. The packed weight is kept beside the weight, see
    `jetblock.ops.set_weight_cache_limit`.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (nn.Linear's name)
        """`[.., K]` to `[.., N]`."""
        return ops.linear(input, self.weight, self.bias)


class BatchInvariantMatMul(nn.Module):
    """`a @ b` as `torch.matmul` computes it, each output summed along K in the fixed order of NUMERICS.md section 3."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """`[.., M, K]` and `[.., K, N]`, leading dimensions broadcast, to `[.., M, N]`."""
        if b.ndim == 2:
            # One matrix of all rows.
            return ops.matmul(a.flatten(0, -2), b).view(*a.shape[:-1], b.shape[-1])
        lead = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        return ops.matmul(a.expand(*lead, *a.shape[-2:]), b.expand(*lead, *b.shape[-2:]))
