"""Activations.

PyTorch computes the last elements of a tensor by another exponential than those that fill a vector, so that a value
depends on where it stands.
"""

import torch
from torch import nn

from jetblock import ops


class BatchInvariantSiLU(nn.Module):
    """`x / (1 + exp(-x))`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (nn.SiLU's name)
        """Elementwise."""
        return ops.silu(input)


class BatchInvariantReLUSquared(nn.Module):
    """`max(x, 0)^2`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (as above)
        """Elementwise."""
        return ops.relu2(input)


class BatchInvariantGELU(nn.Module):
    """`x * Phi(x)`, by the error function."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (as above)
        """Elementwise."""
        return ops.gelu(input)


class BatchInvariantGELUTanh(nn.Module):
    """Gelu by its tanh approximation."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (as above)
        """Elementwise."""
        return ops.gelu_tanh(input)


# By the class names of `torch.nn` and `transformers.activations`.
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "SiLU": BatchInvariantSiLU,
    "SiLUActivation": BatchInvariantSiLU,
    "ReLUSquaredActivation": BatchInvariantReLUSquared,
    "GELUActivation": BatchInvariantGELU,
    "GELUTanh": BatchInvariantGELUTanh,
    "NewGELUActivation": BatchInvariantGELUTanh,
}
