"""Operators on arrays and tensors: bits of a second implementation, of every thread count and instruction set, of a row
alone; dtypes, strides, errors; tracing by PyTorch.
"""

import gc
import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from torch_cases import SHARED as SHARED_IN_TORCH_CASES
from torch_cases import TORCH_CASES, paint, weights

import jetblock
import jetblock.torch_ops
from jetblock import ops
from jetblock.ops._registry import OPERATORS
from tests.second_implementation import arith, functions, reduce, sampling, torch_ops
from tests.second_implementation import ops as second

F32 = np.float32


@pytest.fixture(autouse=True)
def _errors_of_the_second_implementation() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield


def second_linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    y = second.Linear(weight, "f32", bias)(x.reshape(-1, x.shape[-1]))
    return y.reshape(*x.shape[:-1], -1)


def second_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    def one(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        cache = second.KvCache(k.shape[1], k.shape[2], "f32", "f32")
        cache.append(k, v)
        return second.attention(q, cache, "f32", 256).reshape(q.shape)

    return np.stack([one(*row) for row in zip(q, k, v, strict=True)])


def second_conv(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, initial_state: np.ndarray
) -> tuple[np.ndarray, ...]:
    rows = np.concatenate([initial_state, x], axis=1)
    kernel = weight.shape[1]
    return np.stack([second.causal_conv1d(row, weight, bias, kernel) for row in rows]), rows[:, -(kernel - 1) :]


def second_scan(
    x: np.ndarray,
    dt: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    c: np.ndarray,
    d: np.ndarray,
    dt_bias: np.ndarray,
    initial_state: np.ndarray,
) -> tuple[np.ndarray, ...]:
    step = second.time_step(dt, dt_bias, 0.0, float("inf"))
    decay = functions.exp(step * a)
    group = x.shape[2] // b.shape[2]
    b, c = (np.repeat(array, group, axis=2) for array in (b, c))
    pairs = [second.ssm_scan(*row[:5], d, row[5]) for row in zip(x, step, decay, b, c, initial_state, strict=True)]
    return np.stack([y for y, _ in pairs]), np.stack([state for _, state in pairs])


def second_dynamic_conv(x: np.ndarray, weight: np.ndarray, initial_state: np.ndarray) -> tuple[np.ndarray, ...]:
    rows = np.concatenate([initial_state, x], axis=1)
    kernel = weight.shape[2]
    taps = weight.swapaxes(2, 3)
    pairs = zip(rows, taps, strict=True)
    return np.stack([second.causal_conv1d(row, tap, None, kernel) for row, tap in pairs]), rows[:, -(kernel - 1) :]


def second_delta(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, g: np.ndarray, beta: np.ndarray, initial_state: np.ndarray
) -> tuple[np.ndarray, ...]:
    group = v.shape[2] // q.shape[2]
    q, k = (np.repeat(array, group, axis=2) for array in (q, k))
    rows = zip(q, k, v, g, beta, initial_state, strict=True)
    pairs = [second.gated_delta_rule(*row[:5], 0.25, row[5]) for row in rows]
    return np.stack([o for o, _ in pairs]), np.stack([state for _, state in pairs])


def second_linear_attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, initial_state: np.ndarray
) -> tuple[np.ndarray, ...]:
    pairs = [second.linear_attention(*row) for row in zip(q, k, v, initial_state, strict=True)]
    return np.stack([y for y, _ in pairs]), np.stack([state for _, state in pairs])


def second_router(logits: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, ...]:
    router = second.Router(np.eye(logits.shape[1], dtype=F32), bias, 3, 4, 2, True, 2.5, 0)
    rows = router(logits, 0)
    return tuple(np.array([[pair[i] for pair in row] for row in rows], kind) for i, kind in ((0, np.int64), (1, F32)))


def second_randn(seeds: np.ndarray, images: np.ndarray) -> np.ndarray:
    rows = zip(seeds.tolist(), images.tolist(), strict=True)
    return np.stack([torch_ops.randn(seed % 2**64, image, 5, (4, 1, 3, 9))[:, 0] for seed, image in rows])


def second_sample(logits: np.ndarray, seeds: np.ndarray, positions: np.ndarray) -> np.ndarray:
    how = sampling.Settings(temperature=0.8, top_k=20, top_p=0.9, min_p=0.01)
    rows = zip(logits, seeds, positions, strict=True)
    return np.array([sampling.sample(row, how, int(seed), int(at)) for row, seed, at in rows])


B, T, H, G, P, N, C, K = 3, 5, 4, 2, 6, 8, 10, 4

# Operator: its arguments, its options, the same in the second implementation. The first axis of arguments that are not
# weights is the batch.
CASES: dict[str, tuple[tuple[np.ndarray, ...], dict[str, Any], Callable[..., Any]]] = {
    "rms_norm": ((paint(B, 7, 130), paint(130)), {"eps": 1e-5}, lambda x, w: reduce.rms_norm(x, w, 1e-5)),
    "rms_norm_gated": (
        (paint(B, 64), paint(B, 64, seed=3), paint(64)),
        {"groups": 4, "eps": 1e-5},
        lambda y, z, w: reduce.gated_rms_norm(y, z, w, 4, 1e-5),
    ),
    "relu2": ((paint(B, 77),), {}, functions.relu2),
    "silu": ((paint(B, 77, scale=9),), {}, functions.silu),
    "sigmoid": ((paint(B, 77, scale=9),), {}, functions.sigmoid),
    "softplus": ((paint(B, 77, scale=9),), {}, functions.softplus),
    "gelu": ((paint(B, 77, scale=3),), {}, functions.gelu_erf),
    "gelu_tanh": ((paint(B, 77, scale=3),), {}, functions.gelu_tanh),
    "swiglu": ((paint(B, 77), paint(B, 77, seed=5)), {}, lambda g, u: arith.canonical(functions.silu(g) * u)),
    "softmax": ((paint(B, 1100, scale=4),), {}, reduce.softmax),
    "log_softmax": ((paint(B, 1100, scale=4),), {}, reduce.log_softmax),
    "linear": ((paint(B, 2, 300), weights(70, 300), paint(70)), {}, second_linear),
    "embedding": ((np.array([[3, 0], [8, 3], [1, 1]]), paint(9, 33)), {}, lambda ids, w: w[ids]),
    "rope": (
        (paint(B, T, H, 8),),
        {"start": 11, "theta": 5000.0, "rotary_dim": 6},
        lambda x: np.stack([second.rope(row, second.rope_frequencies(5000.0, 6), 11) for row in x]),
    ),
    "attention": (
        (paint(B, 4, H, 16), paint(B, 300, 2, 16, seed=3), paint(B, 300, 2, 16, seed=4)),
        {},
        second_attention,
    ),
    "causal_conv1d": (
        (paint(B, T, C), paint(C, K), paint(C, seed=3)),
        {"initial_state": paint(B, K - 1, C, seed=4)},
        second_conv,
    ),
    "dynamic_causal_conv1d": (
        (paint(B, T, C), paint(B, T, K, C)),
        {"initial_state": paint(B, K - 1, C, seed=4)},
        second_dynamic_conv,
    ),
    "gated_delta_rule": (
        (
            paint(B, T, G, N),
            paint(B, T, G, N, seed=3),
            paint(B, T, H, P, seed=4),
            -np.abs(paint(B, T, H, seed=5)),
            np.abs(paint(B, T, H, seed=6)),
        ),
        {"scale": 0.25, "qk_l2norm": True, "initial_state": paint(B, H, N, P, seed=9)},
        second_delta,
    ),
    "linear_attention": (
        (paint(B, T, H, N), paint(B, T, H, N, seed=3), paint(B, T, H, P, seed=4)),
        {"initial_state": np.abs(paint(B, H, N, P + 1, seed=9))},
        second_linear_attention,
    ),
    "selective_scan": (
        (
            paint(B, T, H, P),
            paint(B, T, H, seed=3),
            -np.exp(paint(H, seed=4)),
            paint(B, T, G, N, seed=5),
            paint(B, T, G, N, seed=6),
            paint(H, seed=7),
            paint(H, seed=8),
        ),
        {"initial_state": paint(B, H, P, N, seed=9)},
        second_scan,
    ),
    "decay_rates": ((paint(B, 16, scale=9),), {}, lambda a_log: -functions.exp(a_log)),
    "moe_router": (
        (paint(B, 16), paint(16, seed=3, scale=0.1)),
        {"num_experts_per_tok": 3, "n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5},
        second_router,
    ),
    "sample": (
        (paint(B, 50, scale=3), np.array([1, 2, 3]), np.array([7, 7, 90])),
        {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.01},
        second_sample,
    ),
    "randn": ((np.array([1, -2, 3]), np.array([0, 1, 2])), {"size": [4, 3, 9], "step": 5}, second_randn),
    **TORCH_CASES,
}
UPDATES = {
    "causal_conv1d_update": "causal_conv1d",
    "dynamic_causal_conv1d_update": "dynamic_causal_conv1d",
    "gated_delta_rule_update": "gated_delta_rule",
    "linear_attention_update": "linear_attention",
    "selective_state_update": "selective_scan",
}
# Arguments that every row of a batch shares.
SHARED = {
    "rms_norm": {1}, "rms_norm_gated": {2}, "linear": {1, 2}, "embedding": {1}, "causal_conv1d": {1, 2},
    "selective_scan": {2, 5, 6}, "moe_router": {1}, **SHARED_IN_TORCH_CASES,
}  # fmt: skip


def as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def as_bytes(value: Any) -> list[bytes]:
    return [np.ascontiguousarray(np.asarray(array)).tobytes() for array in as_tuple(value)]


def tensors(value: Any) -> Any:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def call(name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return getattr(ops, name)(*arguments, **options)


def test_every_operator_is_tested_and_public() -> None:
    assert set(OPERATORS) == {*CASES, *UPDATES, "moe_combine"}
    assert set(OPERATORS) <= set(ops.__all__)


@pytest.mark.parametrize("name", CASES)
def test_bits_of_the_second_implementation(name: str) -> None:
    arguments, options, other = CASES[name]
    states = [value for value in options.values() if isinstance(value, np.ndarray)]
    expected = as_tuple(other(*arguments, *states))
    given = as_tuple(call(name, arguments, options))
    assert [(array.shape, array.dtype) for array in given] == [(array.shape, array.dtype) for array in expected]
    assert as_bytes(given) == as_bytes(expected)
    # The inputs are felt, so equal bits say something.
    moved = (np.flip(arguments[0], -1).copy(), *arguments[1:])
    if name != "embedding":
        assert as_bytes(call(name, moved, options)) != as_bytes(expected)


@pytest.mark.parametrize("name", CASES)
def test_tensors_have_the_bits_of_arrays(name: str) -> None:
    arguments, options, _ = CASES[name]
    expected = as_bytes(call(name, arguments, options))
    on_tensors = tuple(map(tensors, arguments)), {key: tensors(value) for key, value in options.items()}
    assert as_bytes(call(name, *on_tensors)) == expected
    registered = getattr(torch.ops.jetblock, name)
    assert as_bytes(registered(*on_tensors[0], **on_tensors[1])) == expected


@pytest.mark.parametrize("name", CASES)
def test_threads_and_instruction_sets_change_nothing(name: str) -> None:
    arguments, options, _ = CASES[name]
    expected = as_bytes(call(name, arguments, options))
    before = jetblock.get_cpu()
    try:
        for threads, isa in itertools.product((1, 2, 3, 4), jetblock.available_isas()):
            jetblock.set_cpu(threads, isa)
            assert jetblock.get_cpu() == (threads, isa)
            assert as_bytes(call(name, arguments, options)) == expected, (threads, isa)
    finally:
        jetblock.set_cpu(*before)


@pytest.mark.parametrize("name", CASES)
def test_a_row_is_independent_of_its_batch(name: str) -> None:
    arguments, options, _ = CASES[name]
    shared = SHARED.get(name, set())
    whole = as_tuple(call(name, arguments, options))
    rows = []
    for row in range(B):
        own = slice(row, row + 1)
        alone = tuple(array if i in shared else array[own] for i, array in enumerate(arguments))
        own_options = {key: value[own] if isinstance(value, np.ndarray) else value for key, value in options.items()}
        given = as_bytes(call(name, alone, own_options))
        assert given == as_bytes(tuple(array[own] for array in whole))
        rows.append(b"".join(given))
    assert len(set(rows)) == B


@pytest.mark.parametrize("name", CASES)
def test_strides_change_nothing(name: str) -> None:
    arguments, options, _ = CASES[name]
    expected = as_bytes(call(name, arguments, options))

    def spread(array: np.ndarray) -> np.ndarray:
        """The same values, backwards in memory and with gaps."""
        wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
        wide[..., 1::2] = array[..., ::-1]
        return wide[..., ::-2]

    def fortran(array: np.ndarray) -> np.ndarray:
        return np.asfortranarray(array)

    for relaid in (spread, fortran):
        other = tuple(map(relaid, arguments))
        assert all((a == b).all() for a, b in zip(other, arguments, strict=True))
        other_options = {
            key: relaid(value) if isinstance(value, np.ndarray) else value for key, value in options.items()
        }
        assert as_bytes(call(name, other, other_options)) == expected
    on_tensors = tuple(torch.from_numpy(fortran(array)) for array in arguments)
    assert as_bytes(call(name, on_tensors, {key: tensors(value) for key, value in options.items()})) == expected


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["rms_norm", "silu", "swiglu", "softmax", "rope", "embedding"])
def test_two_byte_dtypes_are_widened_and_rounded_once(name: str, dtype: str) -> None:
    arguments, options, _ = CASES[name]
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    narrow = tuple(array.astype(kind) if array.dtype == F32 else array for array in arguments)
    wide = tuple(array.astype(F32) if array.dtype == kind else array for array in narrow)
    expected = call(name, wide, options).astype(kind)
    given = call(name, narrow, options)
    assert given.dtype == kind
    assert as_bytes(given) == as_bytes(expected)
    on_tensors = tuple(tensors(a).to(getattr(torch, dtype)) if a.dtype == F32 else tensors(a) for a in wide)
    assert call(name, on_tensors, options).view(torch.int16).numpy().tobytes() == given.tobytes()


def test_bf16_linear_has_bf16_operands() -> None:
    x, weight, bias = CASES["linear"][0]
    bf16 = ml_dtypes.bfloat16
    expected = second.Linear(weight.astype(bf16).astype(F32), "bf16", bias)(x.astype(bf16).astype(F32).reshape(-1, 300))
    given = ops.linear(x.astype(bf16), weight.astype(bf16), bias)
    assert as_bytes(given) == as_bytes(expected.reshape(3, 2, 70).astype(bf16))
    # One side alone keeps f32 products.
    mixed = ops.linear(x, weight.astype(bf16), bias)
    assert as_bytes(mixed) == as_bytes(second_linear(x, weight.astype(bf16).astype(F32), bias))


def test_bf16_attention_keeps_a_bf16_cache() -> None:
    q, k, v = (array.astype(ml_dtypes.bfloat16) for array in CASES["attention"][0])

    def one(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        cache = second.KvCache(2, 16, "bf16", "bf16")
        cache.append(k.astype(F32), v.astype(F32))
        return second.attention(q.astype(F32), cache, "bf16", 256).reshape(q.shape)

    expected = np.stack([one(*row) for row in zip(q, k, v, strict=True)])
    assert as_bytes(ops.attention(q, k, v)) == as_bytes(expected.astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("of", [np.asarray, torch.from_numpy])
def test_single_tokens_are_the_whole(of: Callable[[np.ndarray], Any]) -> None:
    arguments, options, _ = CASES["causal_conv1d"]
    x, weight, bias = map(of, arguments)
    whole, last = ops.causal_conv1d(x, weight, bias, initial_state=of(options["initial_state"]))
    state = of(options["initial_state"].copy())
    for t in range(T):
        assert as_bytes(ops.causal_conv1d_update(x[:, t], state, weight, bias)) == as_bytes(whole[:, t])
    assert as_bytes(state) == as_bytes(last)

    arguments, options, _ = CASES["selective_scan"]
    x, dt, a, b, c, d, dt_bias = map(of, arguments)
    whole, last = ops.selective_scan(x, dt, a, b, c, d, dt_bias, initial_state=of(options["initial_state"]))
    cut, middle = ops.selective_scan(
        x[:, :2], dt[:, :2], a, b[:, :2], c[:, :2], d, dt_bias, initial_state=of(options["initial_state"])
    )
    assert as_bytes(cut) == as_bytes(whole[:, :2])
    in_order = of(np.ascontiguousarray(np.asarray(middle)))
    for state in (middle, in_order):
        for t in range(2, T):
            y = ops.selective_state_update(x[:, t], state, dt[:, t], a, b[:, t], c[:, t], d, dt_bias)
            assert as_bytes(y) == as_bytes(whole[:, t])
        assert as_bytes(state) == as_bytes(last)

    arguments, options, _ = CASES["dynamic_causal_conv1d"]
    x, weight = map(of, arguments)
    whole, last = ops.dynamic_causal_conv1d(x, weight, initial_state=of(options["initial_state"]))
    state = of(options["initial_state"].copy())
    for t in range(T):
        assert as_bytes(ops.dynamic_causal_conv1d_update(x[:, t], state, weight[:, t])) == as_bytes(whole[:, t])
    assert as_bytes(state) == as_bytes(last)

    arguments, options, _ = CASES["gated_delta_rule"]
    rows = [of(array) for array in arguments]
    whole, last = ops.gated_delta_rule(*rows, scale=0.25, qk_l2norm=True, initial_state=of(options["initial_state"]))
    state = of(options["initial_state"].copy())
    for t in range(T):
        y = ops.gated_delta_rule_update(*(row[:, t] for row in rows), state, scale=0.25, qk_l2norm=True)
        assert as_bytes(y) == as_bytes(whole[:, t])
    assert as_bytes(state) == as_bytes(last)

    arguments, options, _ = CASES["linear_attention"]
    q, k, v = map(of, arguments)
    whole, last = ops.linear_attention(q, k, v, initial_state=of(options["initial_state"]))
    state = of(options["initial_state"].copy())
    for t in range(T):
        assert as_bytes(ops.linear_attention_update(q[:, t], k[:, t], v[:, t], state)) == as_bytes(whole[:, t])
    assert as_bytes(state) == as_bytes(last)

    q, k, v = (of(array) for array in CASES["attention"][0])
    whole = ops.attention(q, k, v)
    for t in range(4):
        end = 300 - 3 + t
        assert as_bytes(ops.attention(q[:, t : t + 1], k[:, :end], v[:, :end])) == as_bytes(whole[:, t : t + 1])


def test_answers_of_experts_are_combined_in_their_order() -> None:
    rows, k, total, width = 5, 3, 8, 37
    rng = np.random.default_rng(1)
    experts = np.sort(np.stack([rng.permutation(total)[:k] for _ in range(rows)]), axis=1)
    shares, answers = paint(rows, k, seed=2), paint(total, rows, width, seed=3)
    slots = [(expert, row) for expert in range(total) for row in range(rows) if expert in experts[row]]
    y = np.stack([answers[slot] for slot in slots])
    expected = np.zeros((rows, width), F32)
    for i in range(k):
        expected = arith.fma(shares[:, i, None], answers[experts[:, i], np.arange(rows)], expected)
    before = jetblock.get_cpu()
    try:
        for threads, isa in itertools.product((1, 3), jetblock.available_isas()):
            jetblock.set_cpu(threads, isa)
            assert as_bytes(ops.moe_combine(y, experts, shares, num_experts=total)) == as_bytes(expected)
    finally:
        jetblock.set_cpu(*before)
    arguments = tuple(map(tensors, (y, experts, shares)))
    assert as_bytes(ops.moe_combine(*arguments, num_experts=total)) == as_bytes(expected)
    assert as_bytes(ops.moe_combine(y, experts, shares[::-1], num_experts=total)) != as_bytes(expected)
    alone = [i for i, (_, row) in enumerate(slots) if row == 2]
    one = ops.moe_combine(y[alone], experts[2:3], shares[2:3], num_experts=total)
    assert as_bytes(one) == as_bytes(expected[2:3])
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(torch.ops.jetblock.moe_combine.default, (*arguments, total), test_utils=checks)
    bf16 = ops.moe_combine(arguments[0].bfloat16(), *arguments[1:], num_experts=total)
    wide = ops.moe_combine(arguments[0].bfloat16().float(), *arguments[1:], num_experts=total)
    assert bf16.equal(wide.bfloat16())


def test_rope_with_frequencies_of_its_own() -> None:
    x = CASES["rope"][0][0]
    given = second.rope_frequencies(5000.0, 6)
    assert as_bytes(ops.rope(x, start=11, inverse_frequencies=list(given))) == as_bytes(
        call("rope", (x,), CASES["rope"][1])
    )
    stretched = [f / 3 for f in given]
    expected = np.stack([second.rope(row, np.array(stretched), 11) for row in x])
    assert as_bytes(ops.rope(x, start=11, inverse_frequencies=stretched)) == as_bytes(expected)


def test_states_of_the_caller_are_left_alone() -> None:
    for name in UPDATES.values():
        arguments, options, _ = CASES[name]
        before = options["initial_state"].tobytes()
        call(name, arguments, options)
        assert options["initial_state"].tobytes() == before


@pytest.mark.parametrize("rows", [0, 1])
def test_empty_batches(rows: int) -> None:
    for name, (arguments, options, _) in CASES.items():
        shared = SHARED.get(name, set())
        few = tuple(array if i in shared else array[:rows] for i, array in enumerate(arguments))
        few_options = {key: value[:rows] if isinstance(value, np.ndarray) else value for key, value in options.items()}
        for given in as_tuple(call(name, few, few_options)):
            assert given.shape[0] == rows


MISTAKES = [
    (lambda: ops.rms_norm(paint(2, 3), paint(4)), r"rms_norm: weight has shape \[4\], expected \[3\]"),
    (lambda: ops.rms_norm(paint(2, 3), paint(3), eps=-1.0), "eps is -1, expected finite and >= 0"),
    (lambda: ops.rms_norm(paint(2, 3).astype(np.float64), paint(3)), "x has dtype f64, expected f32, bf16 or f16"),
    (lambda: ops.rms_norm(paint(2, 3), torch.ones(3)), "torch and numpy, expected one of them"),
    (lambda: ops.rms_norm_gated(paint(2, 6), paint(2, 6), paint(6), groups=4), "groups is 4, expected a divisor"),
    (lambda: ops.swiglu(paint(2, 3), paint(3, 2)), r"up has shape \[3, 2\], expected \[2, 3\]"),
    (lambda: ops.softmax(np.float32(1.0)), "expected a last dimension"),
    (lambda: ops.softmax(paint(2, 0)), "expected a last dimension of at least 1"),
    (lambda: ops.linear(paint(2, 3), paint(5, 4)), r"x has shape \[2, 3\], expected a last dimension of 4"),
    (lambda: ops.linear(paint(2, 3), paint(3)), r"weight has shape \[3\], expected \[N, K\]"),
    (lambda: ops.linear(paint(2, 3), paint(5, 3), paint(4)), r"bias has shape \[4\], expected \[5\]"),
    (lambda: ops.embedding(np.array([9]), paint(9, 2)), "token id is 9, expected below the vocabulary size 9"),
    (lambda: ops.embedding(np.array([-1]), paint(9, 2)), "ids has the id -1"),
    (lambda: ops.embedding(paint(2), paint(9, 2)), "ids has dtype f32, expected i64 or i32"),
    (lambda: ops.rope(paint(1, 2, 1, 8), rotary_dim=7), "rotary_dim is 7"),
    (lambda: ops.rope(paint(1, 2, 1, 8), rotary_dim=10), "rotary_dim is 10, expected at most head_dim = 8"),
    (
        lambda: ops.attention(paint(1, 3, 4, 8), paint(1, 2, 4, 8), paint(1, 2, 4, 8)),
        "k has 2 tokens, expected at least",
    ),
    (lambda: ops.attention(paint(1, 2, 4, 8), paint(1, 2, 3, 8), paint(1, 2, 3, 8)), "multiple of 3 key/value heads"),
    (lambda: ops.attention(paint(1, 1, 4, 8), paint(1, 2, 4, 8), paint(1, 2, 4, 8), split=100), "split is 100"),
    (lambda: ops.causal_conv1d(paint(1, 2, 3), paint(4, 2)), r"weight has shape \[4, 2\], expected \[3, 2\]"),
    (lambda: ops.moe_router(paint(2, 8), paint(8), num_experts_per_tok=9), "num_experts_per_tok is 9"),
    (lambda: ops.rope(paint(1, 2, 1, 8), inverse_frequencies=[1.0, np.inf]), "an inverse frequency is inf"),
    (lambda: ops.rope(paint(1, 2, 1, 8), inverse_frequencies=[1.0] * 5), "rotary_dim is 10|head_dim"),
    (
        lambda: ops.moe_combine(paint(4, 8), np.array([[0, 9]] * 2), paint(2, 2), num_experts=9),
        "expert is 9, expected below 9",
    ),
    (
        lambda: ops.moe_combine(paint(3, 8), np.array([[0, 1]] * 2), paint(2, 2), num_experts=2),
        r"y has shape \[3, 8\], expected \[4, 8\]",
    ),
    (lambda: ops.moe_router(paint(2, 8) * np.nan, paint(8), num_experts_per_tok=2), "logits .* is NaN at index 0"),
    (lambda: ops.sample(paint(1, 8), np.array([1]), np.array([-1])), "a position is -1"),
    (lambda: ops.randn(np.array([1]), np.array([1]), [1, 2, 3, 4, 5]), "size has 5 dimensions, expected 1 to 4"),
    (lambda: ops.randn(np.array([1]), np.array([1, 2]), [4]), r"images has shape \[2\], expected \[1\]"),
    (lambda: ops.randn(np.array([1]), np.array([1]), [4], step=1 << 24), "step is 16777216, expected below 2\\^24"),
    (lambda: ops.sample(paint(1, 8), np.array([1]), np.array([1]), top_p=2.0), "top_p is 2"),
]


@pytest.mark.parametrize(("mistake", "message"), MISTAKES)
def test_mistakes_are_named(mistake: Callable[[], Any], message: str) -> None:
    with pytest.raises(jetblock.ArgumentError, match=message):
        mistake()


def test_states_must_be_their_own_writable_memory() -> None:
    x, weight = paint(2, C), paint(C, 2)
    memory = paint(2, 2, C)
    with pytest.raises(jetblock.ArgumentError, match="shares memory"):
        ops.causal_conv1d_update(memory[:, 0], memory[:, 1:], weight)
    with pytest.raises(jetblock.ArgumentError, match="expected a contiguous writable array of f32"):
        ops.causal_conv1d_update(x, memory[:, 1:], weight)
    frozen = paint(2, 1, C)
    frozen.flags.writeable = False
    with pytest.raises(jetblock.ArgumentError, match="read-only"):
        ops.causal_conv1d_update(x, frozen, weight)
    with pytest.raises(jetblock.ArgumentError, match="is f64"):
        ops.causal_conv1d_update(x, np.zeros((2, 1, C)), weight)


def test_weights_are_packed_once_until_they_change() -> None:
    gc.collect()  # what other tests left
    start = ops.weight_cache_stats()
    layer = torch.nn.Linear(32, 16)
    x = torch.from_numpy(paint(4, 32))
    with torch.no_grad():
        first = ops.linear(x, layer.weight, layer.bias)
        assert as_bytes(ops.linear(x, layer.weight, layer.bias)) == as_bytes(first)
        assert ops.weight_cache_stats()["packed"] == start["packed"] + 1
        layer.weight[3, 5] += 1
        assert as_bytes(ops.linear(x, layer.weight, layer.bias)) != as_bytes(first)
        layer.weight.data = layer.weight.data * 2
        expected = ops.linear(x.numpy(), layer.weight.numpy(), layer.bias.numpy())
        assert as_bytes(ops.linear(x, layer.weight, layer.bias)) == as_bytes(expected)
    assert ops.weight_cache_stats()["packed"] == start["packed"] + 3
    assert ops.weight_cache_stats()["weights"] == start["weights"] + 1
    del layer
    gc.collect()
    assert ops.weight_cache_stats()["weights"] == start["weights"]
    assert ops.weight_cache_stats()["bytes"] == start["bytes"]


def test_the_weight_cache_has_a_bound() -> None:
    limit = ops.weight_cache_stats()["limit"]
    layers = [torch.from_numpy(weights(64, 64, seed=seed)) for seed in range(6)]
    x = torch.from_numpy(paint(2, 64))
    try:
        ops.set_weight_cache_limit(0)
        assert ops.weight_cache_stats()["bytes"] == 0
        ops.linear(x, layers[0])
        assert ops.weight_cache_stats()["weights"] == 0
        ops.set_weight_cache_limit(3 * 64 * 64 * 4)
        expected = [as_bytes(ops.linear(x.numpy(), layer.numpy())) for layer in layers]
        for _ in range(2):
            assert [as_bytes(ops.linear(x, layer)) for layer in layers] == expected
        assert ops.weight_cache_stats()["weights"] == 3
        with pytest.raises(ValueError, match="the limit is -1"):
            ops.set_weight_cache_limit(-1)
    finally:
        ops.set_weight_cache_limit(limit)


def test_packed_weights_of_arrays() -> None:
    x, weight, bias = CASES["linear"][0]
    packed = ops.pack_weight(weight)
    assert (packed.shape, packed.kind) == ((70, 300), "f32")
    assert packed.nbytes >= weight.nbytes
    assert as_bytes(ops.linear(x, packed, bias)) == as_bytes(ops.linear(x, weight, bias))
    with pytest.raises(jetblock.ArgumentError, match="kind is"):
        ops.pack_weight(weight, kind="f16")


def test_inference_tensors_are_not_kept() -> None:
    x = torch.from_numpy(paint(2, 64))
    with torch.inference_mode():
        weight = torch.from_numpy(weights(8, 64)).clone()
        first = ops.linear(x, weight)
        weight[0] += 1
        assert as_bytes(ops.linear(x, weight)) != as_bytes(first)


def test_constant_weights_are_packed_once() -> None:
    x = torch.from_numpy(paint(2, 64))
    packed = ops.weight_cache_stats()
    with torch.inference_mode():
        weight, other = (torch.from_numpy(weights(8, 64)).clone() for _ in range(2))
        first = ops.linear(x, weight)
        with ops.constant_weights([weight]):
            for _ in range(3):
                assert as_bytes(ops.linear(x, weight)) == as_bytes(first)
            assert ops.weight_cache_stats()["packed"] == packed["packed"] + 1
            other += 1  # not one of them
            assert as_bytes(ops.linear(x, other)) != as_bytes(first)
        assert ops.weight_cache_stats()["weights"] == packed["weights"]
        weight += 1
        assert as_bytes(ops.linear(x, weight)) == as_bytes(ops.linear(x, other))


def test_a_constant_weight_that_changes_is_noticed() -> None:
    x = torch.from_numpy(paint(2, 64))

    def change(weight: torch.Tensor, error: Exception | None = None) -> None:
        with ops.constant_weights([weight]):
            ops.linear(x, weight)
            weight[0, 0] += 1
            if error:
                raise error

    with torch.inference_mode():
        weight, unused = (torch.from_numpy(weights(8, 64)).clone() for _ in range(2))
        with ops.constant_weights([weight, unused]):
            unused += 1  # nothing was made of it
        with pytest.raises(jetblock.JetBlockError, match=r"shape \[8, 64\] has changed"):
            change(weight)
        with pytest.raises(RuntimeError, match="own"):  # what else went wrong comes first
            change(weight, RuntimeError("own"))
        assert as_bytes(ops.linear(x, weight)) == as_bytes(ops.linear(x, weight.clone()))


def test_memory_is_read_in_place() -> None:
    """The peak of a large elementwise operator is its output."""
    script = """if True:
        import resource, numpy as np, jetblock
        from jetblock import ops
        jetblock.set_cpu(2)
        ops.silu(np.ones(1000, np.float32))
        x = np.ones((64 << 20) // 4, np.float32)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        y = ops.silu(x)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    import subprocess  # noqa: PLC0415
    import sys  # noqa: PLC0415

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ)
    assert int(done.stdout) < (64 + 8) << 10


@pytest.mark.parametrize("name", CASES)
def test_pytorch_traces_through(name: str) -> None:
    arguments, options, _ = CASES[name]
    arguments = tuple(map(tensors, arguments))
    options = {key: tensors(value) for key, value in options.items()}
    torch.library.opcheck(
        getattr(torch.ops.jetblock, name).default,
        arguments,
        options,
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )


def test_updates_are_traced_through() -> None:
    x, weight, _ = map(tensors, CASES["causal_conv1d"][0])
    state = torch.zeros(B, K - 1, C)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(
        torch.ops.jetblock.causal_conv1d_update.default, (x[:, 0].clone(), state, weight), test_utils=checks
    )
    x, dt, a, b, c, d, dt_bias = map(tensors, CASES["selective_scan"][0])
    first = [array[:, 0].clone() for array in (x, dt, b, c)]
    arguments = (first[0], torch.zeros(B, H, P, N), first[1], a, first[2], first[3], d, dt_bias)
    torch.library.opcheck(torch.ops.jetblock.selective_state_update.default, arguments, test_utils=checks)


def test_export_and_compile_keep_the_bits() -> None:
    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.Parameter(tensors(paint(64)))
            self.weight = torch.nn.Parameter(tensors(weights(32, 64)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return ops.silu(ops.linear(ops.rms_norm(x, self.norm), self.weight))

    block, x = Block(), tensors(paint(3, 64))
    with torch.no_grad():
        expected = as_bytes(block(x))
        exported = torch.export.export(block, (x,))
        assert "jetblock.rms_norm" in str(exported.graph)
        assert as_bytes(exported.module()(x)) == expected
        assert as_bytes(torch.compile(block, backend="eager", fullgraph=True)(x)) == expected


def test_gradients_are_refused() -> None:
    x = torch.ones(2, 3, requires_grad=True)
    y = ops.rms_norm(x, torch.ones(3))
    assert y.requires_grad
    with pytest.raises(NotImplementedError, match=r"jetblock::rms_norm has no gradient"):
        y.sum().backward()
