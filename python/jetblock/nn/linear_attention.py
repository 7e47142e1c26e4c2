"""Attention without softmax, in time proportional to the length: Katharopoulos et al. 2020, "Transformers are RNNs"."""

import torch
from torch import Tensor, nn

from jetblock import ops
from jetblock._core import LINEAR_ATTENTION_EPS


class LinearAttentionKernel(nn.Module):
    """`y[t] = f(q[t]) S / (f(q[t]) z + 1e-6)` with `f(x) = elu(x) + 1`, `S = sum f(k) v`, `z = sum f(k)`.

    Causal, the sums go over the tokens up to t and are the state: a prompt, its pieces and single steps have the same
    bits. Otherwise they go over all tokens.

    >>> import torch
    >>> q, k, v = torch.randn(3, 1, 5, 2, 8).unbind()
    >>> attention = LinearAttentionKernel()
    >>> whole, _ = attention(q, k, v)
    >>> first, state = attention(q[:, :4], k[:, :4], v[:, :4])
    >>> last, _ = attention(q[:, 4:], k[:, 4:], v[:, 4:], state)
    >>> torch.equal(whole, torch.cat([first, last], dim=1))
    True
    """

    def __init__(self, *, causal: bool = True) -> None:
        super().__init__()
        self.causal = causal

    def forward(self, q: Tensor, k: Tensor, v: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attends.

        Args:
            q: `[B, T, H, K]`.
            k: `[B, T, G, K]`, G a divisor of H.
            v: `[B, T, G, V]`.
            state: `[B, H, K, V + 1]` f32, what was returned for the tokens before; only where causal.

        Returns:
            `[B, T, H, V]`, and the state after the last token.
        """
        if k.shape[2] != q.shape[2]:
            k, v = (array.repeat_interleave(q.shape[2] // array.shape[2], dim=2) for array in (k, v))
        if self.causal:
            return ops.linear_attention(q, k, v, initial_state=state)
        if state is not None:
            raise ValueError("a state was given, expected none: without causality there are no tokens before")
        _, state = ops.linear_attention(q, k, v)
        q = feature_map(q).transpose(1, 2)
        sums, z = state[..., :-1], state[..., -1]
        divisors = ops.sum(q * z[:, :, None, :])[..., None] + LINEAR_ATTENTION_EPS
        return (ops.matmul(q, sums) / divisors).transpose(1, 2).to(v.dtype), state


def feature_map(x: Tensor) -> Tensor:
    """`elu(x) + 1` in f32: positive, and monotone."""
    x = x.float()
    return torch.where(x > 0, x + 1, ops.exp(x))
