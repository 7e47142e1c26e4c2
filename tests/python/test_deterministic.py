"""Deterministic mode: real architectures, the same bits in every batch; what a scope is; what is refused."""

import itertools
import math
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES, Inputs
from torch.utils._python_dispatch import TorchDispatchMode

import jetblock
from jetblock.mode import Report, _exact
from tests.second_implementation import functions

pytestmark = pytest.mark.filterwarnings("ignore")
MOST = 8


@pytest.fixture(autouse=True)
def _cpu_as_before() -> Iterator[None]:
    before, threads = jetblock.get_cpu(), torch.get_num_threads()
    yield
    jetblock.set_cpu(*before)
    torch.set_num_threads(threads)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def rows_of(inputs: Inputs, rows: slice) -> Inputs:
    return {name: value[rows] for name, value in inputs.items()}


def set_threads(threads: int, isa: str) -> None:
    jetblock.set_cpu(threads, isa)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_row_has_the_bits_it_has_alone(name: str, dtype: torch.dtype) -> None:
    architecture = ARCHITECTURES[name]
    torch.manual_seed(7)
    model = architecture.build().eval().to(dtype)
    inputs = architecture.inputs(MOST)
    inputs = {key: value.to(dtype) if value.is_floating_point() else value for key, value in inputs.items()}
    best = jetblock.available_isas()[0]
    with torch.no_grad():
        plain = architecture.run(model, rows_of(inputs, slice(0, 2)))
        with jetblock.deterministic() as report:
            set_threads(2, best)
            alone = [architecture.run(model, rows_of(inputs, slice(i, i + 1))) for i in range(MOST)]
            for rows in (2, 3, 4, 8):
                batch = architecture.run(model, rows_of(inputs, slice(0, rows)))
                assert [bits(row[None]) for row in batch] == [bits(row) for row in alone[:rows]], rows
            for threads, isa in itertools.product((1, 2), jetblock.available_isas()):
                set_threads(threads, isa)
                batch = architecture.run(model, rows_of(inputs, slice(0, 2)))
                assert bits(batch) == b"".join(bits(row) for row in alone[:2]), (threads, isa)
    # It is the same model: PyTorch's numbers, up to rounding; and rows differ, so equal bits say something.
    assert len({bits(row) for row in alone}) == MOST
    assert torch.isfinite(plain).all()
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(torch.cat(alone[:2]).float(), plain.float(), rtol=tolerance, atol=tolerance)
    assert not report.uncovered
    assert {"aten.linear"} <= {row.name for row in report.rows if row.status == "covered"}


def test_without_the_mode_bits_differ() -> None:
    """The control: PyTorch's own bits of a row depend on the batch, for the same models and inputs."""
    different = []
    for name, architecture in ARCHITECTURES.items():
        torch.manual_seed(7)
        model, inputs = architecture.build().eval(), architecture.inputs(MOST)
        with torch.no_grad():
            batch = architecture.run(model, inputs)
            alone = [architecture.run(model, rows_of(inputs, slice(i, i + 1))) for i in range(MOST)]
        if bits(batch) != b"".join(map(bits, alone)):
            different.append(name)
    print("PyTorch's bits depend on the batch:", ", ".join(different))
    assert different


LAYER = torch.nn.Linear(512, 512)
X = torch.randn(8, 512, generator=torch.manual_seed(0))


def is_held() -> bool:
    """Whether a row has the bits it has alone, which PyTorch's linear layer of this size does not give it."""
    with torch.no_grad():
        return torch.equal(LAYER(X)[:1], LAYER(X[:1]))


def test_a_scope_is_its_threads() -> None:
    assert not is_held()
    seen = []
    with jetblock.deterministic() as report:
        assert is_held()
        thread = threading.Thread(target=lambda: seen.append(is_held()))
        thread.start()
        thread.join()
        assert seen == [False]
    assert not is_held()
    assert sum(row.calls for row in report.rows if row.name == "aten.linear") == 2


def test_scopes_of_threads_are_their_own() -> None:
    barrier = threading.Barrier(4)
    reports: list[Report] = []

    def work() -> None:
        barrier.wait()
        with jetblock.deterministic() as report:
            for _ in range(20):
                assert is_held()
        assert not is_held()
        reports.append(report)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row.calls for report in reports for row in report.rows if row.name == "aten.linear"] == [40] * 4


def test_scopes_nest() -> None:
    with jetblock.deterministic(strict=False) as outer:
        assert is_held()
        with jetblock.deterministic() as inner:
            assert is_held()
            # The strictest decides.
            with pytest.raises(jetblock.UncoveredOperatorError), jetblock.deterministic(strict=False):
                torch.rand(3)
        assert is_held()
        torch.rand(3)
    assert not is_held()

    def calls(report: Report) -> int:
        return sum(row.calls for row in report.rows if row.name == "aten.linear")

    assert (calls(inner), calls(outer)) == (2, 6)
    assert ([row.name for row in outer.uncovered], inner.uncovered) == (["aten.rand"], [])


def test_an_exception_ends_a_scope() -> None:
    with pytest.raises(ZeroDivisionError), jetblock.deterministic():
        _ = 1 / 0
    assert not is_held()
    with pytest.raises(jetblock.UncoveredOperatorError), jetblock.deterministic():
        torch.rand(3)
    assert not is_held()
    with jetblock.deterministic():
        assert is_held()


def test_generators() -> None:
    def steps() -> Iterator[bool]:
        for _ in range(3):
            yield is_held()

    # One that was made inside runs as whoever asks it.
    with jetblock.deterministic():
        inside = steps()
        assert next(inside)
    assert not next(inside)

    # One that has a scope ends it when it is closed.
    def scoped() -> Iterator[bool]:
        with jetblock.deterministic():
            yield is_held()

    generator = scoped()
    assert next(generator)
    generator.close()
    assert not is_held()


def test_a_function_can_be_a_scope() -> None:
    assert jetblock.deterministic()(is_held)()
    assert not is_held()


RANDOM = {
    "aten.rand": lambda: torch.rand(2),
    "aten.randn": lambda: torch.randn(2, generator=torch.manual_seed(1)),
    "aten.randint": lambda: torch.randint(0, 5, (2,)),
    "aten.randperm": lambda: torch.randperm(5),
    "aten.bernoulli": lambda: torch.bernoulli(torch.full((2,), 0.5)),
    "aten.multinomial": lambda: torch.multinomial(torch.ones(4), 2),
    "aten.normal_": lambda: torch.empty(2).normal_(),
    "aten.uniform_": lambda: torch.empty(2).uniform_(),
    "aten.native_dropout": lambda: torch.nn.functional.dropout(torch.ones(4), training=True),
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_operators_are_refused(name: str) -> None:
    with jetblock.deterministic(), pytest.raises(jetblock.UncoveredOperatorError) as error:
        RANDOM[name]()
    assert error.value.operator == name
    assert "test_deterministic.py" in error.value.site
    with jetblock.deterministic(strict=False) as report:
        RANDOM[name]()
    assert [row.name for row in report.uncovered] == [name]
    assert "test_deterministic.py" in str(report)


def test_what_is_not_covered_is_named() -> None:
    x = torch.randn(4, 4)
    with jetblock.deterministic():
        with pytest.raises(jetblock.UncoveredOperatorError, match=r"aten\.linalg_svd|aten\._linalg_svd"):
            torch.linalg.svd(x)
        with pytest.raises(jetblock.UncoveredOperatorError, match=r"aten\.mm with dtype torch\.float64"):
            x.double() @ x.double()
        with pytest.raises(jetblock.UncoveredOperatorError, match=r"aten\.mul with dtype torch\.complex64"):
            torch.complex(x, x) * 2
        with pytest.raises(jetblock.UncoveredOperatorError, match=r"aten\.add with alpha=0\.3"):
            torch.add(x, x, alpha=0.3)
        with pytest.raises(jetblock.UncoveredOperatorError, match="accumulate"):
            x.index_put((torch.tensor([0, 0]),), x[:2], accumulate=True)
        with pytest.raises(jetblock.UncoveredOperatorError, match="repeated indices"):
            x.index_put((torch.tensor([0, 0]),), x[:2])
        torch.nn.functional.dropout(x, training=False)


def test_angles_of_positions_in_binary64() -> None:
    """Bit for bit what section 5.7 gives, in the form in which Flux and Qwen-Image write it."""
    generator = torch.Generator().manual_seed(1)
    scale = torch.cat([torch.linspace(0, 54 / 56, 28, dtype=torch.float64), torch.tensor([-2.5, 300.0, -300.0])])
    wide = torch.randn(2000, generator=generator, dtype=torch.float64) * torch.logspace(-300, 300, 2000).double()
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 0.7853981633974483, 1e308, 5e-324]).double()
    with jetblock.deterministic() as report:
        powers = 10000**scale
        angles = torch.einsum("n,d->nd", torch.arange(-65.0, 65.0), 1.0 / powers)
        x = torch.cat([angles.flatten(), wide, special])
        sines, cosines = torch.sin(x), torch.cos(x)
    assert {"aten.pow", "aten.sin", "aten.cos"} <= {row.name for row in report.rows if row.status == "covered"}
    for got, want in (
        (powers, [functions.pow64(10000.0, y) for y in scale.tolist()]),
        (sines, functions.sin64(x.numpy())),
        (cosines, functions.cos64(x.numpy())),
    ):
        expected = torch.as_tensor(want, dtype=torch.float64)
        assert torch.equal(got.isnan(), expected.isnan())
        assert bits(got.nan_to_num(7.0)) == bits(expected.nan_to_num(7.0))


def test_gradients_are_refused() -> None:
    with jetblock.deterministic(), pytest.raises(jetblock.ArgumentError, match=r"aten\.linear .* requires a gradient"):
        LAYER(X)
    x = torch.ones(3, requires_grad=True)
    with jetblock.deterministic(), pytest.raises(jetblock.ArgumentError, match=r"expected torch\.no_grad"):
        x * 2
    with jetblock.deterministic(), torch.inference_mode():
        assert torch.equal(LAYER(X)[:1], LAYER(X[:1]))


def test_only_the_portable_level_can_be_held() -> None:
    with (
        pytest.raises(jetblock.ArgumentError, match="level is 'fast', expected 'portable'"),
        jetblock.deterministic("fast"),
    ):
        pass


def test_writing_forms() -> None:
    x = torch.randn(5, 70)
    with jetblock.deterministic():
        expected = torch.nn.functional.silu(x)
        in_place, out = x.clone(), torch.empty(0)
        torch.nn.functional.silu(in_place, inplace=True)
        assert bits(in_place) == bits(expected)
        torch.sigmoid(x, out=out)
        assert bits(out) == bits(torch.sigmoid(x))
        version = in_place._version  # noqa: SLF001
        in_place.sigmoid_()
        assert in_place._version > version  # noqa: SLF001
        product = torch.empty(5, 5)
        torch.mm(x, x.t(), out=product)
        assert bits(product) == bits(x @ x.t())


def angles() -> torch.Tensor:
    """Positions times frequencies, and what is not ordinary."""
    generator = torch.Generator().manual_seed(7)
    many = torch.randn(20_000, dtype=torch.float64, generator=generator)
    many[5000:] *= torch.logspace(-300, 300, 15_000, dtype=torch.float64)
    edges = [0.0, -0.0, 1.0, -1.0, 2.0, -3.0, 5e-324, 1e308, math.inf, -math.inf, math.nan]
    return torch.cat([many, torch.tensor(edges, dtype=torch.float64)])


@pytest.mark.parametrize("name", ["sin", "cos", "exp", "log"])
def test_binary64_functions_have_the_bits_of_the_second_implementation(name: str) -> None:
    x = angles()
    function = getattr(torch, name)
    with jetblock.deterministic():
        y = function(x)
        assert bits(function(x.reshape(-1, 1).expand(-1, 3))[:, 1]) == bits(y)
    function64 = getattr(functions, f"{name}64")
    expected = torch.from_numpy(np.array([float(function64(float(value))) for value in x]))
    assert bits(y) == bits(expected)
    assert bits(y) != bits(function(x))  # PyTorch's own, which differ by processor


@pytest.mark.parametrize("number", [2.0, 0.5, 3.0, -1.0, 10_000.0, 0.7310585])
def test_binary64_powers_have_the_bits_of_the_second_implementation(number: float) -> None:
    x = angles()[::20]
    with jetblock.deterministic():
        powers, of_number = x**number, number**x
    for got, pairs in ((powers, ((value, number) for value in x)), (of_number, ((number, value) for value in x))):
        expected = [functions.pow64(float(base), float(exponent)) for base, exponent in pairs]
        assert bits(got) == bits(torch.tensor(expected, dtype=torch.float64))


def test_weights_are_packed_once() -> None:
    start = jetblock.ops.weight_cache_stats()["packed"]
    experts = torch.nn.Parameter(torch.randn(3, 32, 64))
    x = torch.randn(4, 64)
    with torch.no_grad(), jetblock.deterministic():
        for _ in range(3):
            for expert in range(3):
                x @ experts[expert].t()
                torch.nn.functional.linear(x, experts[expert])
        assert jetblock.ops.weight_cache_stats()["packed"] == start + 3
        experts[1] += 1
        changed = x @ experts[1].t()
        assert bits(changed) == bits(x @ experts[1].clone().t())
        # Products of activations are not kept.
        x @ x.t()
    assert jetblock.ops.weight_cache_stats()["packed"] == start + 4


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("masks", [{}, {"key_padding_mask": torch.arange(9) > torch.tensor([[8], [5], [3]])}])
def test_fast_paths_have_the_bits_of_the_slow(masks: dict[str, torch.Tensor], *, need_weights: bool) -> None:
    attention = torch.nn.MultiheadAttention(64, 4, batch_first=True).eval()
    layer = torch.nn.TransformerEncoderLayer(64, 4, 96, batch_first=True, activation="gelu", norm_first=need_weights)
    layer.eval()
    x = torch.randn(3, 9, 64, generator=torch.manual_seed(1))

    def run() -> tuple[list[bytes], set[str]]:
        with torch.no_grad(), jetblock.deterministic() as report:
            outputs = [*attention(x, x, x, need_weights=need_weights, **masks)]
            outputs.append(layer(x, src_key_padding_mask=masks.get("key_padding_mask")))
        return [bits(output) for output in outputs if output is not None], {row.name for row in report.rows}

    fast, names = run()
    assert {"aten._native_multi_head_attention", "aten._transformer_encoder_layer_fwd"} <= names
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        slow, names = run()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert "aten._native_multi_head_attention" not in names
    assert fast == slow


class _Watch(TorchDispatchMode):
    """Sees from outside what the mode leaves to PyTorch, and what its own functions are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, bool]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_float = any(isinstance(a, torch.Tensor) and a.is_floating_point() for a in args)
        self.calls.append((str(func).rsplit(".", 1)[0], is_float))
        return func(*args, **(kwargs or {}))


CONDITIONAL = {f"aten.{name}" for name in ("arange", "histc", "index_add", "index_put_", "scatter", "sort")}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_pytorch_computes_nothing_but_exact_operators(name: str) -> None:
    architecture = ARCHITECTURES[name]
    torch.manual_seed(7)
    model, inputs = architecture.build().eval(), architecture.inputs(2)
    watch = _Watch()
    with torch.no_grad(), watch, jetblock.deterministic():
        architecture.run(model, inputs)
    assert len(watch.calls) > 20
    exact = _exact.MOVES | _exact.ARITHMETIC | _exact.INTEGERS | CONDITIONAL
    for operator, is_float in set(watch.calls):
        # Sums and powers of integers are exact as well.
        assert operator in exact or operator.removesuffix("_") in exact or not is_float, operator


def test_compiled_functions_run_as_they_are_written() -> None:
    compiled = torch.compile(lambda x: torch.nn.functional.linear(x, LAYER.weight), backend="eager")
    with torch.no_grad():
        compiled(X)
        with jetblock.deterministic() as report:
            assert torch.equal(compiled(X)[:1], compiled(X[:1]))
    assert "aten.linear" in {row.name for row in report.rows}
