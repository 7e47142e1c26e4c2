"""PyTorch's fast paths of `nn.MultiheadAttention` and `nn.TransformerEncoderLayer`, which have operators of their own.

Here they are what the modules compute without them, bit for bit.
"""

import math

import torch

from jetblock.mode._elements import gelu
from jetblock.mode._products import attention, baddbmm, bmm, linear
from jetblock.mode._rows import layer_norm, mean, softmax
from jetblock.mode._table import covers, refuse


def _bias(mask: torch.Tensor | None, mask_type: int | None, like: torch.Tensor) -> torch.Tensor | None:
    """A mask `[T, S]` (type 0), `[B, S]` (1), `[B, H, T, S]` (2): true where a key is left out, or added to scores."""
    if mask is None:
        return None
    if mask_type not in (0, 1, 2):
        refuse(f"a mask of type {mask_type}")
    mask = mask[:, None, None] if mask_type == 1 else mask
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=like.dtype).masked_fill(mask, -torch.inf)


@covers("aten._native_multi_head_attention.default")
def multi_head_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    embed_dim: int,
    num_head: int,
    qkv_weight: torch.Tensor,
    qkv_bias: torch.Tensor,
    proj_weight: torch.Tensor,
    proj_bias: torch.Tensor,
    mask: torch.Tensor | None = None,
    need_weights: bool = True,
    average_attn_weights: bool = True,
    mask_type: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    if query is not key or key is not value or query.is_nested:
        refuse("other arrays than one for queries, keys and values")
    batch, tokens, _ = query.shape
    width = embed_dim // num_head
    heads = linear(query, qkv_weight, qkv_bias).view(batch, tokens, 3, num_head, width).permute(2, 0, 3, 1, 4)
    q, k, v = heads.unbind()
    bias = _bias(mask, mask_type, query)
    weights = None
    if need_weights:
        rows = batch * num_head
        q, k, v = ((q * math.sqrt(1 / width)).reshape(rows, tokens, width), k.flatten(0, 1), v.flatten(0, 1))
        shape = (batch, num_head, tokens, tokens)
        keys = k.transpose(1, 2)
        scores = bmm(q, keys) if bias is None else baddbmm(bias.expand(shape).flatten(0, 1), q, keys)
        shares = softmax(scores, -1)
        y = bmm(shares, v).view(batch, num_head, tokens, width)
        weights = mean(shares.view(shape), [1]) if average_attn_weights else shares.view(shape)
    else:
        y = attention(q, k, v, bias)
    y = y.transpose(1, 2).reshape(batch, tokens, embed_dim)
    return linear(y, proj_weight, proj_bias), weights


@covers("aten._transformer_encoder_layer_fwd.default")
def transformer_encoder_layer(
    src: torch.Tensor,
    embed_dim: int,
    num_heads: int,
    qkv_weight: torch.Tensor,
    qkv_bias: torch.Tensor,
    proj_weight: torch.Tensor,
    proj_bias: torch.Tensor,
    use_gelu: bool,
    norm_first: bool,
    eps: float,
    norm_weight_1: torch.Tensor,
    norm_bias_1: torch.Tensor,
    norm_weight_2: torch.Tensor,
    norm_bias_2: torch.Tensor,
    ffn_weight_1: torch.Tensor,
    ffn_bias_1: torch.Tensor,
    ffn_weight_2: torch.Tensor,
    ffn_bias_2: torch.Tensor,
    mask: torch.Tensor | None = None,
    mask_type: int | None = None,
) -> torch.Tensor:
    def attend(x: torch.Tensor) -> torch.Tensor:
        projections = (qkv_weight, qkv_bias, proj_weight, proj_bias)
        y, _ = multi_head_attention(
            x, x, x, embed_dim, num_heads, *projections, mask, need_weights=False, mask_type=mask_type
        )
        return y

    def feed_forward(x: torch.Tensor) -> torch.Tensor:
        hidden = linear(x, ffn_weight_1, ffn_bias_1)
        return linear(gelu(hidden) if use_gelu else hidden.relu(), ffn_weight_2, ffn_bias_2)

    def norm_1(x: torch.Tensor) -> torch.Tensor:
        return layer_norm(x, [embed_dim], norm_weight_1, norm_bias_1, eps)

    def norm_2(x: torch.Tensor) -> torch.Tensor:
        return layer_norm(x, [embed_dim], norm_weight_2, norm_bias_2, eps)

    if norm_first:
        x = src + attend(norm_1(src))
        return x + feed_forward(norm_2(x))
    x = norm_1(src + attend(src))
    return norm_2(x + feed_forward(x))
