"""Root mean square norms."""

import torch
from torch import nn

from jetblock import ops


class BatchInvariantRMSNorm(nn.Module):
    """`(x / sqrt(mean(x^2) + eps)) * weight`, the sum in the order of NUMERICS.md section 4, rounded once to x's dtype.

    Args:
        hidden_size: D, the last dimension of x.
        eps: Added to the mean square.
    """

    weight: nn.Parameter
    variance_epsilon: float

    def __init__(self, hidden_size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.variance_epsilon = eps

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`[.., D]` to the same."""
        return ops.rms_norm(hidden_states, self.weight, eps=epsilon_of(self))


def epsilon_of(module: nn.Module) -> float:
    """`variance_epsilon` or `eps`, as a norm calls it."""
    return float(getattr(module, "variance_epsilon", None) or getattr(module, "eps", None) or 0.0)


def is_rms_norm(module: nn.Module) -> bool:
    """Whether a module computes this norm: it has the attributes, and gives the same on a small input.

    Some families multiply by `1 + weight` under the same name.
    """
    weight = getattr(module, "weight", None)
    named = type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon") | hasattr(module, "eps")
    if not named or weight is None or weight.ndim != 1 or getattr(module, "bias", None) is not None:
        return False
    x = torch.randn(2, len(weight), generator=torch.Generator().manual_seed(1)).to(weight.dtype)
    with torch.no_grad():
        theirs, ours = module(x).float(), ops.rms_norm(x, weight, eps=epsilon_of(module)).float()
    tolerance = 1e-5 if weight.dtype == torch.float32 else 2e-2
    return bool((theirs - ours).abs().max() <= tolerance * (1 + ours.abs().max()))
