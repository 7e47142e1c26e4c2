"""The contract's operators on tensors (CPU) and NumPy arrays.

Row i of a batch has the bits it has alone, at any thread count and instruction set (`jetblock.set_cpu`). Inputs are
f32, bf16 or f16, read in place where they are f32 in order, else widened exactly, a piece at a time. The arithmetic is
that of NUMERICS.md in f32; results have the dtype of the first argument, rounded once at the end.

On tensors each function is `torch.ops.jetblock` of the same name, which `import jetblock.torch_ops` registers.

Shapes: B batch, T and S tokens, H heads, D and C channels, N the state, P and K a head's elements; `..` any leading
dimensions.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import jetblock.ops._define
import jetblock.ops._define_torch  # noqa: F401 (they fill the list)
from jetblock._core import PackedWeight
from jetblock.ops._registry import call
from jetblock.ops._torch import (
    adaptive_avg_pool,
    amax,
    amin,
    avg_pool,
    conv,
    conv_transpose,
    cos,
    cumsum,
    erf,
    exp,
    exp2,
    group_norm,
    interpolate,
    layer_norm,
    log,
    log1p,
    matmul,
    mean,
    pow,  # noqa: A004 (as in NumPy and PyTorch)
    rsqrt,
    scaled_dot_product_attention,
    sin,
    sum,  # noqa: A004
    sum_of_squares,
    tanh,
    topk,
    var,
)

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import numpy.typing as npt
    import torch

    Array = TypeVar("Array", torch.Tensor, npt.NDArray[Any])

__all__ = [
    "PackedWeight",
    "adaptive_avg_pool",
    "amax",
    "amin",
    "attention",
    "avg_pool",
    "causal_conv1d",
    "causal_conv1d_update",
    "clear_weight_cache",
    "constant_weights",
    "conv",
    "conv_transpose",
    "cos",
    "cumsum",
    "decay_rates",
    "dynamic_causal_conv1d",
    "dynamic_causal_conv1d_update",
    "embedding",
    "erf",
    "exp",
    "exp2",
    "gated_delta_rule",
    "gated_delta_rule_update",
    "gelu",
    "gelu_tanh",
    "group_norm",
    "interpolate",
    "layer_norm",
    "linear",
    "linear_attention",
    "linear_attention_update",
    "log",
    "log1p",
    "log_softmax",
    "matmul",
    "mean",
    "moe_combine",
    "moe_router",
    "pack_weight",
    "pow",
    "randn",
    "relu2",
    "rms_norm",
    "rms_norm_gated",
    "rope",
    "rsqrt",
    "sample",
    "scaled_dot_product_attention",
    "selective_scan",
    "selective_state_update",
    "set_weight_cache_limit",
    "sigmoid",
    "silu",
    "sin",
    "softmax",
    "softplus",
    "sum",
    "sum_of_squares",
    "swiglu",
    "tanh",
    "topk",
    "var",
    "weight_cache_stats",
]


def rms_norm(x: "Array", weight: "Array", *, eps: float = 1e-5) -> "Array":
    """`(x / sqrt(mean(x^2) + eps)) * weight` over the last dimension.

    Args:
        x: `[.., D]`.
        weight: `[D]`.
        eps: Added to the mean square.

    >>> import numpy as np
    >>> rms_norm(np.float32([[3, -3, 3, -3]]), np.ones(4, np.float32), eps=0.0)
    array([[ 1., -1.,  1., -1.]], dtype=float32)
    """
    return call("rms_norm", x, weight, eps)


def rms_norm_gated(y: "Array", z: "Array", weight: "Array", *, groups: int = 1, eps: float = 1e-5) -> "Array":
    """Mamba-2's gated norm: `y * silu(z)`, then rms_norm of each of `groups` equal parts of the last dimension.

    Args:
        y: `[.., D]`.
        z: The gate, `[.., D]`.
        weight: `[D]`.
        groups: A divisor of D.
        eps: Added to the mean square.
    """
    return call("rms_norm_gated", y, z, weight, groups, eps)


def linear(x: "Array", weight: "Array | PackedWeight", bias: "Array | None" = None) -> "Array":
    """`x @ weight.T + bias`.

    Where `x` and `weight` are both bf16 their products are those of bf16 operands, else of f32 ones. A tensor's packed
    weight is kept until the tensor changes or goes (`set_weight_cache_limit`); an array's is not, see `pack_weight`.

    Args:
        x: `[.., K]`.
        weight: `[N, K]`.
        bias: `[N]`.

    >>> import numpy as np
    >>> linear(np.float32([[1, 2]]), np.float32([[1, 0], [0, 1], [1, 1]]))
    array([[1., 2., 3.]], dtype=float32)
    """
    return call("linear", x, weight, bias)


def pack_weight(weight: "npt.NDArray[Any]", *, kind: str = "f32") -> PackedWeight:
    """A weight `[N, K]` packed for `linear`, as it is now; `kind` is that of the operands, f32 or bf16."""
    return PackedWeight(weight, kind)


def relu2(x: "Array") -> "Array":
    """`max(x, 0)^2`."""
    return call("relu2", x)


def silu(x: "Array") -> "Array":
    """`x / (1 + exp(-x))`."""
    return call("silu", x)


def sigmoid(x: "Array") -> "Array":
    """`1 / (1 + exp(-x))`."""
    return call("sigmoid", x)


def softplus(x: "Array") -> "Array":
    """`log(1 + exp(x))`, and x itself above 20."""
    return call("softplus", x)


def gelu(x: "Array") -> "Array":
    """`x * Phi(x)`, by the error function."""
    return call("gelu", x)


def gelu_tanh(x: "Array") -> "Array":
    """Gelu by its tanh approximation."""
    return call("gelu_tanh", x)


def swiglu(gate: "Array", up: "Array") -> "Array":
    """`silu(gate) * up`, of equal shapes."""
    return call("swiglu", gate, up)


def softmax(x: "Array") -> "Array":
    """Softmax of the last dimension.

    >>> import numpy as np
    >>> softmax(np.float32([[0, 0, 0, 0]]))
    array([[0.25, 0.25, 0.25, 0.25]], dtype=float32)
    """
    return call("softmax", x)


def log_softmax(x: "Array") -> "Array":
    """Logarithm of the softmax of the last dimension."""
    return call("log_softmax", x)


def embedding(ids: "Array", weight: "Array") -> "Array":
    """Rows of a table.

    Args:
        ids: `[..]`, int64 or int32.
        weight: `[V, D]`.

    Returns:
        `[.., D]` in the table's dtype.
    """
    return call("embedding", ids, weight)


def rope(
    x: "Array",
    *,
    start: int = 0,
    theta: float = 10000.0,
    rotary_dim: int | None = None,
    inverse_frequencies: Sequence[float] | None = None,
) -> "Array":
    """Rotary embedding, halves paired as in GPT-NeoX and Hugging Face's Llama.

    Args:
        x: `[B, T, H, K]`.
        start: Position of the first token.
        theta: Base of the frequencies.
        rotary_dim: Elements of a head that turn; all where not given.
        inverse_frequencies: Radians per position of each pair, instead of those of `theta` and `rotary_dim`.
    """
    return call("rope", x, start, theta, rotary_dim, inverse_frequencies)


def attention(q: "Array", k: "Array", v: "Array", *, split: int = 256) -> "Array":
    """Causal attention with grouped queries; the last query stands at the last key.

    A prompt, its pieces and single tokens after it have the same bits. Keys and values are copied into blocks.

    Args:
        q: `[B, T, H, K]`.
        k: `[B, S, HK, K]`, S at least T, HK a divisor of H.
        v: As k.
        split: Keys in a block, 64, 128 or 256; part of the request's key.
    """
    return call("attention", q, k, v, split)


def causal_conv1d(
    x: "Array", weight: "Array", bias: "Array | None" = None, *, initial_state: "Array | None" = None
) -> "tuple[Array, Array]":
    """Depthwise causal convolution along the tokens, with silu.

    Args:
        x: `[B, T, C]`.
        weight: `[C, K]`; the last tap multiplies the current token.
        bias: `[C]`.
        initial_state: The K - 1 inputs before, oldest first, `[B, K - 1, C]`; zeros where not given.

    Returns:
        `[B, T, C]`, and the state after the last token in f32.
    """
    y, state = call("causal_conv1d", x, weight, bias, initial_state)
    return y, state


def causal_conv1d_update(x: "Array", conv_state: "Array", weight: "Array", bias: "Array | None" = None) -> "Array":
    """One token of `causal_conv1d`, with its bits.

    Args:
        x: `[B, C]`.
        conv_state: `[B, K - 1, C]` f32, advanced in place.
        weight: `[C, K]`.
        bias: `[C]`.
    """
    return call("causal_conv1d_update", x, conv_state, weight, bias)


def decay_rates(a_log: "Array") -> "Array":
    """`-exp(a_log)` in f32: the `a` of `selective_scan` from the `A_log` of a checkpoint."""
    return call("decay_rates", a_log)


def selective_scan(
    x: "Array",
    dt: "Array",
    a: "Array",
    b: "Array",
    c: "Array",
    d: "Array",
    dt_bias: "Array",
    *,
    initial_state: "Array | None" = None,
    dt_limit: Sequence[float] | None = None,
) -> "tuple[Array, Array]":
    """The Mamba-2 recurrence. Wherever a text is cut, the bits are the same.

    Args:
        x: `[B, T, H, P]`.
        dt: Time step before bias and softplus, `[B, T, H]`.
        a: `-exp(A_log)`, `[H]`, see `decay_rates`.
        b: `[B, T, G, N]`, G a divisor of H.
        c: As b.
        d: `[H]`.
        dt_bias: `[H]`.
        initial_state: `[B, H, P, N]`; zeros where not given.
        dt_limit: Least and greatest time step; 0 and infinity where not given.

    Returns:
        `[B, T, H, P]`, and the state after the last token in f32, `[B, H, P, N]` with P innermost in memory.
    """
    y, state = call("selective_scan", x, dt, a, b, c, d, dt_bias, initial_state, dt_limit)
    return y, state


def selective_state_update(
    x: "Array",
    ssm_state: "Array",
    dt: "Array",
    a: "Array",
    b: "Array",
    c: "Array",
    d: "Array",
    dt_bias: "Array",
    *,
    dt_limit: Sequence[float] | None = None,
) -> "Array":
    """One token of `selective_scan`, with its bits.

    Args:
        x: `[B, H, P]`.
        ssm_state: `[B, H, P, N]` f32, advanced in place; fastest as `selective_scan` returns it.
        dt: `[B, H]`.
        a: `[H]`.
        b: `[B, G, N]`.
        c: As b.
        d: `[H]`.
        dt_bias: `[H]`.
        dt_limit: Least and greatest time step; 0 and infinity where not given.
    """
    return call("selective_state_update", x, ssm_state, dt, a, b, c, d, dt_bias, dt_limit)


def dynamic_causal_conv1d(
    x: "Array", weight: "Array", *, initial_state: "Array | None" = None
) -> "tuple[Array, Array]":
    """`causal_conv1d` whose kernel is another one for each token, as in the JetBlock of Jet-Nemotron.

    Args:
        x: `[B, T, C]`.
        weight: `[B, T, K, C]`; the last tap multiplies the current token.
        initial_state: The K - 1 inputs before, oldest first, `[B, K - 1, C]`; zeros where not given.

    Returns:
        `[B, T, C]`, and the state after the last token in f32.
    """
    y, state = call("dynamic_causal_conv1d", x, weight, initial_state)
    return y, state


def dynamic_causal_conv1d_update(x: "Array", conv_state: "Array", weight: "Array") -> "Array":
    """One token of `dynamic_causal_conv1d`, with its bits.

    Args:
        x: `[B, C]`.
        conv_state: `[B, K - 1, C]` f32, advanced in place.
        weight: `[B, K, C]`.
    """
    return call("dynamic_causal_conv1d_update", x, conv_state, weight)


def gated_delta_rule(
    q: "Array",
    k: "Array",
    v: "Array",
    g: "Array",
    beta: "Array",
    *,
    scale: float | None = None,
    qk_l2norm: bool = False,
    initial_state: "Array | None" = None,
) -> "tuple[Array, Array]":
    """The gated delta rule, token by token. Wherever a text is cut, the bits are the same.

    Args:
        q: `[B, T, G, K]`, G a divisor of H.
        k: As q.
        v: `[B, T, H, V]`.
        g: Logarithm of the decay, `[B, T, H]`.
        beta: Strength of the correction, `[B, T, H]`.
        scale: Multiplies q; `1 / sqrt(K)` where not given.
        qk_l2norm: Scale q and k to length 1 first.
        initial_state: `[B, H, K, V]`; zeros where not given.

    Returns:
        `[B, T, H, V]`, and the state after the last token in f32.
    """
    y, state = call("gated_delta_rule", q, k, v, g, beta, scale, qk_l2norm, initial_state)
    return y, state


def gated_delta_rule_update(
    q: "Array",
    k: "Array",
    v: "Array",
    g: "Array",
    beta: "Array",
    state: "Array",
    *,
    scale: float | None = None,
    qk_l2norm: bool = False,
) -> "Array":
    """One token of `gated_delta_rule`, with its bits.

    Args:
        q: `[B, G, K]`.
        k: As q.
        v: `[B, H, V]`.
        g: `[B, H]`.
        beta: `[B, H]`.
        state: `[B, H, K, V]` f32, advanced in place.
        scale: Multiplies q; `1 / sqrt(K)` where not given.
        qk_l2norm: Scale q and k to length 1 first.
    """
    return call("gated_delta_rule_update", q, k, v, g, beta, state, scale, qk_l2norm)


def linear_attention(
    q: "Array", k: "Array", v: "Array", *, initial_state: "Array | None" = None
) -> "tuple[Array, Array]":
    """Causal attention by `f(q) f(k)` with `f(x) = elu(x) + 1` not `exp(q k)`: time proportional to the length.

    Args:
        q: `[B, T, H, K]`.
        k: As q.
        v: `[B, T, H, V]`.
        initial_state: `[B, H, K, V + 1]`; zeros where not given.

    Returns:
        `[B, T, H, V]`, and the state after the last token in f32: sums of `f(k) v`, and of `f(k)` in the last column.
    """
    y, state = call("linear_attention", q, k, v, initial_state)
    return y, state


def linear_attention_update(q: "Array", k: "Array", v: "Array", state: "Array") -> "Array":
    """One token of `linear_attention`, with its bits.

    Args:
        q: `[B, H, K]`.
        k: As q.
        v: `[B, H, V]`.
        state: `[B, H, K, V + 1]` f32, advanced in place.
    """
    return call("linear_attention_update", q, k, v, state)


def moe_router(
    logits: "Array",
    bias: "Array",
    *,
    num_experts_per_tok: int,
    n_group: int = 1,
    topk_group: int = 1,
    norm_topk_prob: bool = True,
    routed_scaling_factor: float = 1.0,
) -> "tuple[Array, Array]":
    """The experts of each row by sigmoid scores, as in DeepSeek-V3 and Nemotron 3; ties go to the lower expert.

    Args:
        logits: `[R, E]`.
        bias: `e_score_correction_bias`, `[E]`; decides the choice, not the weights.
        num_experts_per_tok: k.
        n_group: Groups of consecutive experts.
        topk_group: Groups kept for a row.
        norm_topk_prob: Divide the weights by their sum.
        routed_scaling_factor: Multiplies every weight.

    Returns:
        Experts `[R, k]` int64, ascending, and weights `[R, k]` f32.
    """
    options = (num_experts_per_tok, n_group, topk_group, norm_topk_prob, routed_scaling_factor)
    experts, weights = call("moe_router", logits, bias, *options)
    return experts, weights


def moe_combine(y: "Array", experts: "Array", weights: "Array", *, num_experts: int) -> "Array":
    """The weighted sum of what each row's experts answer, in ascending order of the experts.

    Args:
        y: The answers, ordered by expert, then by row, `[R k, D]`.
        experts: `[R, k]` int64.
        weights: `[R, k]`.
        num_experts: Experts in all.

    Returns:
        `[R, D]`.
    """
    return call("moe_combine", y, experts, weights, num_experts)


def sample(
    logits: "Array",
    seeds: "Array",
    positions: "Array",
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> "Array":
    """A token of each row, a function of the row's logits, seed and position alone.

    Args:
        logits: `[R, V]`.
        seeds: `[R]` int64.
        positions: Tokens before the one drawn, `[R]` int64.
        temperature: Divides the logits; 0 takes the greatest.
        top_k: Keep the k most probable; 0 keeps all.
        top_p: Keep the most probable that together reach this.
        min_p: Keep those at least this probable relative to the most probable.

    Returns:
        `[R]` int64.
    """
    return call("sample", logits, seeds, positions, temperature, top_k, top_p, min_p)


def randn(seeds: "Array", images: "Array", size: Sequence[int], *, step: int = 0) -> "Array":
    """Standard normal variates, each a function of its seed, image, step and place alone.

    An image has the same ones in every batch, and at the same place in an image of another size; they are the same on
    every machine. Box-Muller on Philox4x32-10 (NUMERICS.md, section 6).

    Args:
        seeds: Seed of each image, `[B]` int64; a seed of 2^63 and more is the negative number with its bits.
        images: Which image of its seed each is, `[B]` int64, at least 0 and below 2^32.
        size: Size of an image: `[C, T, H, W]`, `[C, H, W]`, `[C, W]` or `[W]`.
        step: Which of an image's noises, below 2^24.

    Returns:
        `[B, *size]`.

    >>> import numpy as np
    >>> one = randn(np.array([7]), np.array([3]), (4, 8, 8))
    >>> four = randn(np.full(4, 7), np.arange(4), (4, 9, 9))
    >>> bool((four[3:, :, :8, :8] == one).all())
    True
    """
    return call("randn", seeds, images, list(size), step)


def set_weight_cache_limit(limit: int) -> None:
    """Bytes of packed weights of tensors that `linear` keeps, 4 GiB at first; 0 keeps none."""
    from jetblock.ops._weights import CACHE  # noqa: PLC0415 (only tensors need it)

    CACHE.set_limit(limit)


def clear_weight_cache() -> None:
    """Forgets all packed weights of tensors; each is packed again where it is used next."""
    from jetblock.ops._weights import CACHE  # noqa: PLC0415 (as above)

    CACHE.clear()


def constant_weights(weights: "Iterable[torch.Tensor]") -> "AbstractContextManager[None]":
    """A scope in which these weights do not change, so that those of `torch.inference_mode()` are packed once in it.

    PyTorch counts the changes of a tensor, and a packed form is kept until the next one. A tensor that was made in
    inference mode has no such counter and is packed at every use. This scope takes the caller's word instead, and its
    end checks it: where a weight that was packed has another digest than before, it raises `JetBlockError`.

    >>> import torch, jetblock
    >>> with torch.inference_mode():
    ...     layer, packed = torch.nn.Linear(8, 8), weight_cache_stats()["packed"]
    ...     with jetblock.deterministic(), constant_weights(layer.parameters()):
    ...         _ = layer(layer(torch.ones(1, 8)))
    ...     weight_cache_stats()["packed"] - packed
    1
    """
    from jetblock.ops._weights import CACHE  # noqa: PLC0415 (as above)

    return CACHE.constant(weights)


def weight_cache_stats() -> dict[str, int]:
    """Packed weights kept (`weights`, `bytes`), the `limit`, and how often one was `packed`."""
    from jetblock.ops._weights import CACHE  # noqa: PLC0415 (as above)

    return CACHE.stats()
