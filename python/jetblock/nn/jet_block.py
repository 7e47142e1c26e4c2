"""The JetBlock of Jet-Nemotron: dynamic convolution of the values, then the gated delta rule (arXiv 2508.15884)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jetblock import ops
from jetblock.nn.dynamic_convolution import DynamicConvolutionKernel


@dataclass(frozen=True, slots=True)
class JetBlockState:
    """What a sequence carries from token to token, whatever its length.

    Attributes:
        conv: The last K - 1 values before the convolution, `[B, K - 1, H * V]` f32.
        recurrent: The memory, `[B, H, K, V]` f32.
    """

    conv: Tensor
    recurrent: Tensor


class RMSNormWeight(nn.Module):
    """The weight of a norm, under the name that checkpoints have."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))


class JetBlock(nn.Module):
    """A token mixer in time proportional to the length, with a state of fixed size.

    `q = silu(q_proj(x))`, `k = silu(k_proj(x))`, `v` = the dynamic convolution of `v_proj(x)`;
    `beta = sigmoid(b_proj(x))`, `g = -exp(A_log) softplus(a_proj(x) + dt_bias)`; `o` = the gated delta rule with q and
    k of length 1; then
    `o_proj(rms_norm(o) o_norm silu(g_proj(x)))`. Parameters have the names, shapes and meaning of the published
    `jet_block.py`, so its checkpoints load.

    >>> import torch
    >>> block = JetBlock(hidden_size=32, num_heads=2, head_dim=8)
    >>> x = torch.randn(2, 6, 32)
    >>> whole, _ = block(x)
    >>> first, state = block(x[:, :5])
    >>> torch.equal(block(x[:, 5:], state)[0], whole[:, 5:])
    True
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int = 6,
        head_dim: int = 256,
        expand_v: float = 2.0,
        conv_size: int = 4,
        dconv_generator_reduction: int = 8,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_k_dim = head_dim
        self.head_v_dim = int(head_dim * expand_v)
        if self.head_v_dim != head_dim * expand_v:
            raise ValueError(f"expand_v is {expand_v}, expected a multiple of 1 / head_dim = 1 / {head_dim}")
        self.norm_eps = norm_eps
        key_dim, value_dim = num_heads * head_dim, num_heads * self.head_v_dim
        self.q_proj = nn.Linear(hidden_size, key_dim, bias=False)
        self.k_proj = nn.Linear(hidden_size, key_dim, bias=False)
        self.v_proj = nn.Linear(hidden_size, value_dim, bias=False)
        self.b_proj = nn.Linear(hidden_size, num_heads, bias=False)
        self.a_proj = nn.Linear(hidden_size, num_heads, bias=False)
        self.A_log = nn.Parameter(torch.zeros(num_heads))
        self.dt_bias = nn.Parameter(torch.zeros(num_heads))
        self.dynamic_conv1d = DynamicConvolutionKernel(
            value_dim, conv_size, generator_input_size=hidden_size, generator_reduction=dconv_generator_reduction
        )
        self.g_proj = nn.Linear(hidden_size, value_dim, bias=False)
        self.o_norm = RMSNormWeight(self.head_v_dim)
        self.o_proj = nn.Linear(value_dim, hidden_size, bias=False)

    def forward(self, x: Tensor, state: JetBlockState | None = None) -> tuple[Tensor, JetBlockState]:
        """Mixes the tokens.

        Args:
            x: `[B, T, D]`.
            state: What was returned for the tokens before.

        Returns:
            `[B, T, D]`, and the state after the last token.
        """
        heads = (self.num_heads, -1)
        q, k = (ops.silu(ops.linear(x, w.weight)).unflatten(-1, heads) for w in (self.q_proj, self.k_proj))
        v, conv = self.dynamic_conv1d(ops.linear(x, self.v_proj.weight), x, None if state is None else state.conv)
        beta = ops.sigmoid(ops.linear(x, self.b_proj.weight))
        g = ops.decay_rates(self.A_log.float()) * ops.softplus(ops.linear(x, self.a_proj.weight).float() + self.dt_bias)
        o, recurrent = ops.gated_delta_rule(
            q,
            k,
            v.unflatten(-1, heads),
            g,
            beta,
            qk_l2norm=True,
            initial_state=None if state is None else state.recurrent,
        )
        gate = ops.linear(x, self.g_proj.weight).unflatten(-1, heads)
        o = ops.swiglu(gate, ops.rms_norm(o, self.o_norm.weight, eps=self.norm_eps))
        return ops.linear(o.flatten(-2), self.o_proj.weight), JetBlockState(conv, recurrent)
