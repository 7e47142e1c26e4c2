"""Layers linear in the length and skipped work: the same bits in every batch and cut, close to PyTorch's arithmetic."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jetblock
from jetblock import ops
from jetblock.nn import (
    AttentionPatternCache,
    DynamicConvolutionKernel,
    JetBlock,
    JetBlockAttention,
    LinearAttentionKernel,
    TemporalCoherenceSkipper,
)

B, T, D = 3, 37, 32


def paint(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def painted(module: nn.Module) -> nn.Module:
    """The module with weights that a seed decides."""
    for seed, parameter in enumerate(module.parameters()):
        with torch.no_grad():
            parameter.copy_(paint(*parameter.shape, seed=seed) * max(parameter.shape[-1], 4) ** -0.5)
    return module.eval()


def qkv(seed: int = 1) -> Tensor:
    return paint(B, T, 3 * D, seed=seed)


def linear_attention(x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    q, k, v = x.unflatten(-1, (3, 4, D // 4)).unbind(2)
    return LinearAttentionKernel()(q, k, v, state)


CONVOLUTION = painted(DynamicConvolutionKernel(3 * D, 4))
JET_BLOCK = painted(JetBlock(3 * D, num_heads=2, head_dim=16))
ATTENTION = painted(JetBlockAttention(3 * D, num_heads=4))
# A layer of [B, T, 3 D] and a state, which returns both.
LAYERS: dict[str, Callable[..., tuple[Tensor, Any]]] = {
    "linear attention": linear_attention,
    "dynamic convolution": lambda x, state=None: CONVOLUTION(x, state=state),
    "JetBlock": JET_BLOCK,
    "JetBlockAttention": ATTENTION,
}


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("name", LAYERS)
def test_no_cut_changes_a_bit(name: str) -> None:
    layer, x = LAYERS[name], qkv()
    whole, _ = layer(x)
    assert whole.isfinite().all()
    for lengths in ([1] * T, [20, 17], [36, 1], [1, 5, 31]):
        state, parts = None, []
        for part in x.split(lengths, dim=1):
            y, state = layer(part, state)
            parts.append(y)
        assert torch.equal(torch.cat(parts, dim=1), whole), lengths
    forgotten = torch.cat([layer(part)[0] for part in x.split([20, 17], dim=1)], dim=1)
    assert not torch.equal(forgotten, whole)


@pytest.mark.parametrize("name", LAYERS)
def test_no_batch_thread_or_instruction_set_changes_a_bit(name: str) -> None:
    layer, x = LAYERS[name], qkv()
    whole, _ = layer(x)
    for row in range(B):
        assert torch.equal(layer(x[row : row + 1])[0], whole[row : row + 1])
    before = jetblock.get_cpu()
    try:
        for threads, isa in itertools.product((1, 2, 3), jetblock.available_isas()):
            jetblock.set_cpu(threads, isa)
            assert torch.equal(layer(x)[0], whole), (threads, isa)
    finally:
        jetblock.set_cpu(*before)


def test_linear_attention_is_its_formula() -> None:
    q, k, v = (paint(B, T, 4, 8, seed=seed).double() for seed in (1, 2, 3))
    fq, fk = (nn.functional.elu(x) + 1 for x in (q, k))
    weights = torch.einsum("bthk,bshk->bhts", fq, fk)
    for causal in (True, False):
        admitted = weights.tril() if causal else weights
        expected = torch.einsum("bhts,bshv->bthv", admitted / admitted.sum(-1, keepdim=True), v)
        given, _ = LinearAttentionKernel(causal=causal)(q.float(), k.float(), v.float())
        assert (given - expected).abs().max() < 2e-6
    with pytest.raises(ValueError, match="expected none"):
        LinearAttentionKernel(causal=False)(q, k, v, torch.zeros(1))


def test_linear_attention_shares_heads_of_k_and_v() -> None:
    q, k, v = paint(B, T, 4, 8), paint(B, T, 2, 8, seed=2), paint(B, T, 2, 8, seed=3)
    spread = (x.repeat_interleave(2, dim=2) for x in (k, v))
    attention = LinearAttentionKernel()
    assert torch.equal(attention(q, k, v)[0], attention(q, *spread)[0])


def pytorch_reference(module: DynamicConvolutionKernel, x: Tensor, generator_input: Tensor) -> Tensor:
    """The convolution in PyTorch's own operators, without a state."""
    generator = module.kernel_generator
    flat = generator.w2(nn.functional.silu(generator.w1(generator_input)))
    taps = flat.unflatten(-1, (module.hidden_size, module.kernel_size))
    windows = nn.functional.pad(x.transpose(1, 2), (module.kernel_size - 1, 0)).unfold(2, module.kernel_size, 1)
    return nn.functional.silu((windows.permute(0, 2, 1, 3) * taps).sum(-1))


def test_dynamic_convolution_is_that_of_pytorch() -> None:
    x = qkv()
    expected = pytorch_reference(CONVOLUTION, x, x)
    assert (CONVOLUTION(x)[0] - expected).abs().max() < 2e-6 * expected.abs().max().clamp(min=1)


def test_jet_block_is_its_published_formula() -> None:
    """In PyTorch's own operators and float64, as `jet_block.py` and the recurrent form of its kernel have it."""
    x = qkv()
    block = painted(JetBlock(3 * D, num_heads=2, head_dim=16)).double()
    assert isinstance(block, JetBlock)
    wide = x.double()
    silu, heads = nn.functional.silu, (2, -1)
    q, k = (silu(w(wide)).unflatten(-1, heads) for w in (block.q_proj, block.k_proj))
    v = pytorch_reference(block.dynamic_conv1d, block.v_proj(wide), wide).unflatten(-1, heads)
    q, k = (x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt() for x in (q, k))
    beta = block.b_proj(wide).sigmoid()
    g = -block.A_log.exp() * nn.functional.softplus(block.a_proj(wide) + block.dt_bias)
    state, outputs = torch.zeros(B, 2, 16, 32, dtype=torch.float64), []
    for t in range(T):
        state = state * g[:, t].exp()[..., None, None]
        read = torch.einsum("bhkv,bhk->bhv", state, k[:, t])
        correction = beta[:, t, :, None] * (v[:, t] - read)
        state = state + k[:, t, ..., None] * correction[..., None, :]
        outputs.append(torch.einsum("bhkv,bhk->bhv", state, q[:, t]) * 16**-0.5)
    o = torch.stack(outputs, dim=1)
    o = o / (o.square().mean(-1, keepdim=True) + 1e-5).sqrt() * block.o_norm.weight
    expected = block.o_proj((o * silu(block.g_proj(wide).unflatten(-1, heads))).flatten(-2))
    given, state_after = JET_BLOCK(x)
    assert (given - expected).abs().max() < 1e-5 * expected.abs().max()
    assert (state_after.recurrent - state).abs().max() < 1e-5 * state.abs().max()


def test_jet_block_has_the_published_parameters() -> None:
    shapes = {name: tuple(parameter.shape) for name, parameter in JetBlock(96, 2, 16).state_dict().items()}
    assert shapes == {
        "A_log": (2,),
        "dt_bias": (2,),
        "q_proj.weight": (32, 96),
        "k_proj.weight": (32, 96),
        "v_proj.weight": (64, 96),
        "b_proj.weight": (2, 96),
        "a_proj.weight": (2, 96),
        "dynamic_conv1d.kernel_generator.w1.weight": (8, 96),
        "dynamic_conv1d.kernel_generator.w2.weight": (256, 8),
        "dynamic_conv1d.kernel_generator.w2.bias": (256,),
        "g_proj.weight": (64, 96),
        "o_norm.weight": (32,),
        "o_proj.weight": (96, 64),
    }
    with pytest.raises(ValueError, match="expand_v"):
        JetBlock(96, 2, 16, expand_v=1.01)


def test_an_open_gate_is_softmax_attention() -> None:
    x = qkv()
    attention = painted(JetBlockAttention(3 * D, num_heads=4))
    assert isinstance(attention, JetBlockAttention)
    attention.gate_proj.weight.zero_()
    attention.gate_proj.bias.fill_(40)
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    q, k, v = (ops.linear(x, w.weight).unflatten(-1, (4, -1)) for w in projections)
    expected = ops.linear(ops.attention(q, k, v).flatten(-2), attention.o_proj.weight)
    assert torch.equal(attention(x)[0], expected)
    attention.gate_proj.bias.fill_(-110)
    assert not torch.equal(attention(x)[0], expected)
    linear, _ = LinearAttentionKernel()(q, k, v)
    assert torch.equal(attention(x)[0], ops.linear(linear.flatten(-2), attention.o_proj.weight))


class Counted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows = 0

    def forward(self, x: Tensor, factor: Tensor | float = 1.0) -> Tensor:
        self.rows += len(x)
        return x * x * factor


@pytest.mark.parametrize("reuse", ["output", "residual"])
def test_a_row_is_skipped_whatever_its_neighbours(reuse: Any) -> None:
    steps = [paint(4, 6, seed=1)]
    for seed in range(2, 9):
        moved = torch.tensor([0.001, 0.001, 0.5, 0.0])[:, None] * paint(4, 6, seed=seed)
        steps.append(steps[-1] + moved)
    together, alone = Counted(), Counted()
    skipper = TemporalCoherenceSkipper(together, 0.05, max_skips=3, reuse=reuse)
    kept = [x.clone() for x in steps]
    given = [skipper(x) for x in steps]
    assert all(torch.equal(x, was) for x, was in zip(steps, kept, strict=True))
    assert 0 < skipper.skipped < 4 * 8
    assert skipper.computed == together.rows == 4 * 8 - skipper.skipped
    for row in range(4):
        single = TemporalCoherenceSkipper(alone, 0.05, max_skips=3, reuse=reuse)
        for x, y in zip(steps, given, strict=True):
            assert torch.equal(single(x[row : row + 1])[0], y[row])
    assert alone.rows == together.rows


def test_a_threshold_of_zero_is_exact() -> None:
    module = Counted()
    skipper = TemporalCoherenceSkipper(module, 0.0, max_skips=10)
    x = paint(2, 6)
    factors = torch.tensor([[1.0], [2.0]])
    first = skipper(x, factors)
    x = torch.stack([x[0], x[1] + 1e-6])
    assert torch.equal(skipper(x, factors), x * x * factors)
    assert (skipper.computed, skipper.skipped, module.rows) == (3, 1, 3)
    assert torch.equal(first[0], skipper(x, factors)[0])
    # Another shape starts anew; no rows are no work.
    assert torch.equal(skipper(x[:1]), x[:1] * x[:1])
    assert skipper(x[:0]).shape == (0, 6)
    for wrong in ({"threshold": -1.0}, {"max_skips": -1}, {"reuse": "all"}, {"threshold": float("nan")}):
        with pytest.raises(ValueError, match="expected"):
            TemporalCoherenceSkipper(module, **wrong)


def test_patterns_are_reused_and_bounded() -> None:
    q, k, v = (paint(2, 4, 9, 8, seed=seed) for seed in (1, 2, 3))
    exact = AttentionPatternCache(reuses=0)
    expected = nn.functional.scaled_dot_product_attention(q, k, v)
    assert (exact("a", q, k, v) - expected).abs().max() < 2e-6
    cache = AttentionPatternCache(reuses=2)
    assert torch.equal(cache("a", q, k, v), exact("a", q, k, v))
    for _ in range(2):
        assert torch.equal(cache("a", 2 * q, k, 3 * v), ops.matmul(ops.softmax(ops.matmul(q, k.mT) * 8**-0.5), 3 * v))
    assert torch.equal(cache("a", 2 * q, k, v), exact("a", 2 * q, k, v))
    assert (cache.computed, cache.reused) == (2, 2)
    # A row does not feel its batch.
    assert torch.equal(exact("a", q[1:], k[1:], v[1:]), exact("a", q, k, v)[1:])
    # The bound holds; what was not used for longest goes.
    size = 2 * 4 * 9 * 9 * 4
    small = AttentionPatternCache(reuses=9, max_bytes=2 * size)
    for key in ("a", "b", "a", "c"):
        small(key, q, k, v)
        assert small.bytes <= 2 * size
    small("a", q, k, v)
    assert (small.computed, small.reused) == (3, 2)
    tiny = AttentionPatternCache(reuses=9, max_bytes=size - 1)
    tiny("a", q, k, v)
    assert tiny.bytes == 0
