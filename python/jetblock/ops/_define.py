"""What each operator makes and runs. Shapes and domains are checked by the compiled module."""

from collections.abc import Sequence
from typing import Any

from jetblock import _core
from jetblock.ops._registry import On, operator


@operator("(Tensor x, Tensor weight, float eps=1e-05) -> Tensor")
def rms_norm(on: On, x: Any, weight: Any, eps: float = 1e-5) -> Any:
    out = on.empty(x.shape, x)
    on.run(_core.rms_norm, x, weight, eps, out)
    return out


@operator("(Tensor y, Tensor z, Tensor weight, int groups=1, float eps=1e-05) -> Tensor")
def rms_norm_gated(on: On, y: Any, z: Any, weight: Any, groups: int = 1, eps: float = 1e-5) -> Any:
    out = on.empty(y.shape, y)
    on.run(_core.rms_norm_gated, y, z, weight, groups, eps, out)
    return out


def activation(on: On, name: str, x: Any) -> Any:
    """A function of each element, by its name."""
    out = on.empty(x.shape, x)
    on.run(_core.activation, name, x, out)
    return out


@operator("(Tensor x) -> Tensor")
def relu2(on: On, x: Any) -> Any:
    return activation(on, "relu2", x)


@operator("(Tensor x) -> Tensor")
def silu(on: On, x: Any) -> Any:
    return activation(on, "silu", x)


@operator("(Tensor x) -> Tensor")
def sigmoid(on: On, x: Any) -> Any:
    return activation(on, "sigmoid", x)


@operator("(Tensor x) -> Tensor")
def softplus(on: On, x: Any) -> Any:
    return activation(on, "softplus", x)


@operator("(Tensor x) -> Tensor")
def gelu(on: On, x: Any) -> Any:
    return activation(on, "gelu", x)


@operator("(Tensor x) -> Tensor")
def gelu_tanh(on: On, x: Any) -> Any:
    return activation(on, "gelu_tanh", x)


@operator("(Tensor gate, Tensor up) -> Tensor")
def swiglu(on: On, gate: Any, up: Any) -> Any:
    out = on.empty(gate.shape, gate)
    on.run(_core.swiglu, gate, up, out)
    return out


def _softmax(on: On, x: Any, *, is_log: bool) -> Any:
    out = on.empty(x.shape, x)
    on.run(_core.softmax, x, is_log, out)
    return out


@operator("(Tensor x) -> Tensor")
def softmax(on: On, x: Any) -> Any:
    return _softmax(on, x, is_log=False)


@operator("(Tensor x) -> Tensor")
def log_softmax(on: On, x: Any) -> Any:
    return _softmax(on, x, is_log=True)


@operator("(Tensor x, Tensor weight, Tensor? bias=None) -> Tensor")
def linear(on: On, x: Any, weight: Any, bias: Any = None) -> Any:
    out = on.empty((*x.shape[:-1], weight.shape[0]), x)

    def run(x: Any, weight: Any, bias: Any, out: Any) -> None:
        packed = weight
        if not isinstance(weight, _core.PackedWeight):
            kind = operand_kind(x, weight)
            packed = on.packed(weight, kind, lambda weight: _core.PackedWeight(weight, kind))
        _core.linear(x, packed, bias, out)

    on.run(run, x, weight, bias, out)
    return out


def operand_kind(x: Any, weight: Any) -> str:
    """By the dtypes alone: the bf16 kind where both are bf16."""
    return "bf16" if all("bfloat16" in str(array.dtype) for array in (x, weight)) else "f32"


@operator("(Tensor ids, Tensor weight) -> Tensor")
def embedding(on: On, ids: Any, weight: Any) -> Any:
    out = on.empty((*ids.shape, weight.shape[1]), weight)
    on.run(_core.embedding, ids, weight, out)
    return out


@operator(
    "(Tensor x, int start=0, float theta=10000.0, int? rotary_dim=None, float[]? inverse_frequencies=None) -> Tensor"
)
def rope(
    on: On,
    x: Any,
    start: int = 0,
    theta: float = 10000.0,
    rotary_dim: int | None = None,
    inverse_frequencies: Sequence[float] | None = None,
) -> Any:
    out = on.empty(x.shape, x)
    rotary_dim = x.shape[-1] if rotary_dim is None else rotary_dim
    on.run(_core.rope, x, start, theta, rotary_dim, inverse_frequencies, out)
    return out


@operator("(Tensor q, Tensor k, Tensor v, int split=256) -> Tensor")
def attention(on: On, q: Any, k: Any, v: Any, split: int = 256) -> Any:
    out = on.empty(q.shape, q)
    on.run(_core.attention, q, k, v, split, out)
    return out


@operator("(Tensor x, Tensor weight, Tensor? bias=None, Tensor? initial_state=None) -> (Tensor, Tensor)")
def causal_conv1d(on: On, x: Any, weight: Any, bias: Any = None, initial_state: Any = None) -> Any:
    shape = (x.shape[0], weight.shape[1] - 1, x.shape[2])
    state = on.zeros(shape, x) if initial_state is None else on.copy(initial_state)
    out = on.empty(x.shape, x)
    on.run(_core.causal_conv1d, x, weight, bias, state, out)
    return out, state


@operator("(Tensor x, Tensor(a!) conv_state, Tensor weight, Tensor? bias=None) -> Tensor")
def causal_conv1d_update(on: On, x: Any, conv_state: Any, weight: Any, bias: Any = None) -> Any:
    x = x[:, None]
    out = on.empty(x.shape, x)
    on.run(_core.causal_conv1d, x, weight, bias, conv_state, out)
    return out[:, 0]


@operator("(Tensor x, Tensor weight, Tensor? initial_state=None) -> (Tensor, Tensor)")
def dynamic_causal_conv1d(on: On, x: Any, weight: Any, initial_state: Any = None) -> Any:
    shape = (x.shape[0], weight.shape[2] - 1, x.shape[2])
    state = on.zeros(shape, x) if initial_state is None else on.copy(initial_state)
    out = on.empty(x.shape, x)
    on.run(_core.dynamic_causal_conv1d, x, weight, state, out)
    return out, state


@operator("(Tensor x, Tensor(a!) conv_state, Tensor weight) -> Tensor")
def dynamic_causal_conv1d_update(on: On, x: Any, conv_state: Any, weight: Any) -> Any:
    x, weight = x[:, None], weight[:, None]
    out = on.empty(x.shape, x)
    on.run(_core.dynamic_causal_conv1d, x, weight, conv_state, out)
    return out[:, 0]


@operator("(Tensor a_log) -> Tensor")
def decay_rates(on: On, a_log: Any) -> Any:
    out = on.empty(a_log.shape, a_log, "float32")
    on.run(_core.decay_rates, a_log, out)
    return out


def _limits(dt_limit: Sequence[float] | None) -> tuple[float, ...]:
    return (0.0, float("inf")) if dt_limit is None else tuple(dt_limit)


@operator(
    "(Tensor x, Tensor dt, Tensor a, Tensor b, Tensor c, Tensor d, Tensor dt_bias, Tensor? initial_state=None,"
    " float[]? dt_limit=None) -> (Tensor, Tensor)"
)
def selective_scan(
    on: On,
    x: Any,
    dt: Any,
    a: Any,
    b: Any,
    c: Any,
    d: Any,
    dt_bias: Any,
    initial_state: Any = None,
    dt_limit: Sequence[float] | None = None,
) -> Any:
    # Laid out as the recurrence works on it, with P innermost.
    transposed = (x.shape[0], x.shape[2], b.shape[3], x.shape[3])
    state = on.zeros(transposed, x) if initial_state is None else on.copy(on.transpose_last_two(initial_state))
    state = on.transpose_last_two(state)
    out = on.empty(x.shape, x)
    on.run(_core.selective_scan, x, dt, a, b, c, d, dt_bias, _limits(dt_limit), state, out)
    return out, state


@operator(
    "(Tensor x, Tensor(a!) ssm_state, Tensor dt, Tensor a, Tensor b, Tensor c, Tensor d, Tensor dt_bias,"
    " float[]? dt_limit=None) -> Tensor"
)
def selective_state_update(
    on: On,
    x: Any,
    ssm_state: Any,
    dt: Any,
    a: Any,
    b: Any,
    c: Any,
    d: Any,
    dt_bias: Any,
    dt_limit: Sequence[float] | None = None,
) -> Any:
    x, dt, b, c = (array[:, None] for array in (x, dt, b, c))
    out = on.empty(x.shape, x)
    on.run(_core.selective_scan, x, dt, a, b, c, d, dt_bias, _limits(dt_limit), ssm_state, out)
    return out[:, 0]


def _scale(q: Any, scale: float | None) -> float:
    return q.shape[-1] ** -0.5 if scale is None else scale


@operator(
    "(Tensor q, Tensor k, Tensor v, Tensor g, Tensor beta, float? scale=None, bool qk_l2norm=False,"
    " Tensor? initial_state=None) -> (Tensor, Tensor)"
)
def gated_delta_rule(
    on: On,
    q: Any,
    k: Any,
    v: Any,
    g: Any,
    beta: Any,
    scale: float | None = None,
    qk_l2norm: bool = False,  # noqa: FBT001, FBT002 (the schema's order)
    initial_state: Any = None,
) -> Any:
    shape = (v.shape[0], v.shape[2], q.shape[3], v.shape[3])
    state = on.zeros(shape, v) if initial_state is None else on.copy(initial_state)
    out = on.empty(v.shape, v)
    on.run(_core.gated_delta_rule, q, k, v, g, beta, _scale(q, scale), qk_l2norm, state, out)
    return out, state


@operator(
    "(Tensor q, Tensor k, Tensor v, Tensor g, Tensor beta, Tensor(a!) state, float? scale=None,"
    " bool qk_l2norm=False) -> Tensor"
)
def gated_delta_rule_update(
    on: On,
    q: Any,
    k: Any,
    v: Any,
    g: Any,
    beta: Any,
    state: Any,
    scale: float | None = None,
    qk_l2norm: bool = False,  # noqa: FBT001, FBT002 (the schema's order)
) -> Any:
    q, k, v, g, beta = (array[:, None] for array in (q, k, v, g, beta))
    out = on.empty(v.shape, v)
    on.run(_core.gated_delta_rule, q, k, v, g, beta, _scale(q, scale), qk_l2norm, state, out)
    return out[:, 0]


@operator("(Tensor q, Tensor k, Tensor v, Tensor? initial_state=None) -> (Tensor, Tensor)")
def linear_attention(on: On, q: Any, k: Any, v: Any, initial_state: Any = None) -> Any:
    shape = (v.shape[0], v.shape[2], q.shape[3], v.shape[3] + 1)
    state = on.zeros(shape, v) if initial_state is None else on.copy(initial_state)
    out = on.empty(v.shape, v)
    on.run(_core.linear_attention, q, k, v, state, out)
    return out, state


@operator("(Tensor q, Tensor k, Tensor v, Tensor(a!) state) -> Tensor")
def linear_attention_update(on: On, q: Any, k: Any, v: Any, state: Any) -> Any:
    q, k, v = (array[:, None] for array in (q, k, v))
    out = on.empty(v.shape, v)
    on.run(_core.linear_attention, q, k, v, state, out)
    return out[:, 0]


@operator(
    "(Tensor logits, Tensor bias, int num_experts_per_tok, int n_group=1, int topk_group=1, bool norm_topk_prob=True,"
    " float routed_scaling_factor=1.0) -> (Tensor, Tensor)"
)
def moe_router(
    on: On,
    logits: Any,
    bias: Any,
    num_experts_per_tok: int,
    n_group: int = 1,
    topk_group: int = 1,
    norm_topk_prob: bool = True,  # noqa: FBT001, FBT002 (the schema's order)
    routed_scaling_factor: float = 1.0,
) -> Any:
    shape = (logits.shape[0], num_experts_per_tok)
    experts, weights = on.empty(shape, logits, "int64"), on.empty(shape, logits, "float32")
    options = (num_experts_per_tok, n_group, topk_group, norm_topk_prob, routed_scaling_factor)
    on.run(_core.moe_router, logits, bias, *options, experts, weights)
    return experts, weights


@operator("(Tensor y, Tensor experts, Tensor weights, int num_experts) -> Tensor")
def moe_combine(on: On, y: Any, experts: Any, weights: Any, num_experts: int) -> Any:
    out = on.empty((experts.shape[0], y.shape[1]), y)
    on.run(_core.moe_combine, y, experts, weights, num_experts, out)
    return out


@operator(
    "(Tensor logits, Tensor seeds, Tensor positions, float temperature=1.0, int top_k=0, float top_p=1.0,"
    " float min_p=0.0) -> Tensor"
)
def sample(
    on: On,
    logits: Any,
    seeds: Any,
    positions: Any,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> Any:
    out = on.empty(logits.shape[:1], logits, "int64")
    on.run(_core.sample, logits, seeds, positions, temperature, top_k, top_p, min_p, out)
    return out


@operator("(Tensor seeds, Tensor images, int[] size, int step=0) -> Tensor")
def randn(on: On, seeds: Any, images: Any, size: Sequence[int], step: int = 0) -> Any:
    out = on.empty((seeds.shape[0], *size), seeds, "float32")
    on.run(_core.randn, seeds, images, step, out)
    return out
