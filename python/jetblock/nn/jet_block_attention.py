"""Attention on two paths, softmax and linear, mixed by a gate."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jetblock import ops
from jetblock.nn.linear_attention import LinearAttentionKernel


@dataclass(frozen=True, slots=True)
class JetBlockAttentionState:
    """What a sequence carries: keys and values `[B, T, H, K]` for the softmax path, the sums of the linear one."""

    k: Tensor
    v: Tensor
    linear: Tensor


class JetBlockAttention(nn.Module):
    """`o_proj(g softmax_attention(q, k, v) + (1 - g) linear_attention(q, k, v))`, `g = sigmoid(gate_proj(x))` by head.

    Causal. Where the gate is 1 it is softmax attention, bit for bit; a trained model that was not trained with the
    linear path loses accuracy with every other gate, and with both paths it takes the time of both.

    >>> import torch
    >>> attention = JetBlockAttention(hidden_size=32, num_heads=2)
    >>> x = torch.randn(2, 6, 32)
    >>> whole, _ = attention(x)
    >>> first, state = attention(x[:, :5])
    >>> torch.equal(attention(x[:, 5:], state)[0], whole[:, 5:])
    True
    """

    def __init__(self, hidden_size: int, num_heads: int, head_dim: int | None = None, gate_bias: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        width = num_heads * (head_dim or hidden_size // num_heads)
        self.q_proj = nn.Linear(hidden_size, width, bias=False)
        self.k_proj = nn.Linear(hidden_size, width, bias=False)
        self.v_proj = nn.Linear(hidden_size, width, bias=False)
        self.gate_proj = nn.Linear(hidden_size, num_heads)
        self.o_proj = nn.Linear(width, hidden_size, bias=False)
        self.linear_attention = LinearAttentionKernel()
        nn.init.zeros_(self.gate_proj.weight)
        nn.init.constant_(self.gate_proj.bias, gate_bias)

    def forward(self, x: Tensor, state: JetBlockAttentionState | None = None) -> tuple[Tensor, JetBlockAttentionState]:
        """Attends.

        Args:
            x: `[B, T, D]`.
            state: What was returned for the tokens before.

        Returns:
            `[B, T, D]`, and the state after the last token.
        """
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (ops.linear(x, w.weight).unflatten(-1, (self.num_heads, -1)) for w in projections)
        linear, sums = self.linear_attention(q, k, v, None if state is None else state.linear)
        if state is not None:
            k, v = torch.cat([state.k, k], dim=1), torch.cat([state.v, v], dim=1)
        softmax = ops.attention(q, k, v)
        g = ops.sigmoid(ops.linear(x, self.gate_proj.weight, self.gate_proj.bias))[..., None]
        mixed = g * softmax + (1 - g) * linear
        return ops.linear(mixed.flatten(-2), self.o_proj.weight), JetBlockAttentionState(k, v, sums)
