"""What deterministic mode leaves to PyTorch: one correctly rounded operation each, wherever an element stands."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import jetblock
from jetblock.mode import _exact
from tests.second_implementation import torch_ops

F32 = np.float32
COUNT = 4099


def numbers(seed: int, scale: float = 1.0) -> np.ndarray:
    """Numbers of all sizes, special ones among them."""
    random = np.random.default_rng(seed)
    x = random.standard_normal(COUNT) * scale * 2.0 ** random.integers(-40, 40, COUNT)
    x[::97] = random.choice([0.0, -0.0, np.inf, -np.inf, 1e-42, -1e-42, 3.4e38, 1.0, 0.5, 2.5], x[::97].shape)
    return x.astype(F32)


A, B = numbers(1), numbers(2)

# Operator of PyTorch, and the same in NumPy, whose f32 arithmetic is IEEE's; both of f32 arrays.
ARITHMETIC: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "add": (torch.add, np.add),
    "sub": (torch.sub, np.subtract),
    "rsub": (torch.rsub, lambda a, b: b - a),
    "mul": (torch.mul, np.multiply),
    "div": (torch.div, np.divide),
    "reciprocal": (lambda a, _: torch.reciprocal(a), lambda a, _: F32(1) / a),
    "neg": (lambda a, _: -a, lambda a, _: -a),
    "abs": (lambda a, _: a.abs(), lambda a, _: np.abs(a)),
    "relu": (lambda a, _: torch.relu(a), lambda a, _: np.where(a < 0, F32(0), a)),
    "leaky_relu": (
        lambda a, _: torch.nn.functional.leaky_relu(a, 0.01),
        lambda a, _: np.where(a > 0, a, a * F32(0.01)),
    ),
    "clamp": (lambda a, _: a.clamp(-0.7, 1.3), lambda a, _: np.clip(a, F32(-0.7), F32(1.3))),
    "floor": (lambda a, _: a.floor(), lambda a, _: np.floor(a)),
    "round": (lambda a, _: a.round(), lambda a, _: np.rint(a)),
    "trunc": (lambda a, _: a.trunc(), lambda a, _: np.trunc(a)),
    "copysign": (torch.copysign, np.copysign),
    "where": (lambda a, b: torch.where(a > b, a, b), lambda a, b: np.where(a > b, a, b)),
    "scalars": (lambda a, _: (a + 0.1) * 0.3 - 7, lambda a, _: (a + F32(0.1)) * F32(0.3) - F32(7)),
}


def same(given: torch.Tensor, expected: np.ndarray) -> bool:
    """Bit for bit, where all NaNs are one."""
    values = given.numpy()
    assert values.dtype == expected.dtype
    nan = np.isnan(expected)
    unsigned = np.dtype(f"u{values.itemsize}")
    return bool(
        (np.isnan(values) == nan).all() and (values.view(unsigned)[~nan] == expected.view(unsigned)[~nan]).all()
    )


@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic_is_ieee_wherever_an_element_stands(name: str) -> None:
    function, other = ARITHMETIC[name]
    with np.errstate(all="ignore"):
        expected = other(A, B)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for start, end in ((0, COUNT), (1, 40), (3, 20), (5, 6), (7, 70)):
            a, b = torch.from_numpy(A)[start:end], torch.from_numpy(B)[start:end]
            assert same(function(a, b), expected[start:end]), (threads, start, end)
        gaps = torch.from_numpy(np.repeat(A, 2))[::2], torch.from_numpy(np.repeat(B, 2))[::2]
        assert same(function(*gaps), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [name for name in ARITHMETIC if name not in ("scalars", "leaky_relu", "clamp")])
def test_two_byte_arithmetic_is_that_of_f32_rounded_once(name: str, dtype: torch.dtype) -> None:
    function, other = ARITHMETIC[name]
    a, b = (torch.from_numpy(x).to(dtype) for x in (A, B))
    with np.errstate(all="ignore"):
        wide = other(a.float().numpy(), b.float().numpy())
        expected = torch.from_numpy(wide).to(dtype)
    for start, end in ((0, COUNT), (1, 40), (3, 20), (5, 6), (7, 70)):
        given = function(a[start:end], b[start:end])
        assert given.dtype == dtype
        nan = expected[start:end].isnan()
        assert torch.equal(given.isnan(), nan)
        assert torch.equal(given.view(torch.int16)[~nan], expected[start:end].view(torch.int16)[~nan])


# A number beside such a tensor is rounded to its dtype first, or to f32.
BESIDE: dict[str, tuple[Callable[[Any, Any], Any], bool]] = {
    "add": (lambda x, number: x + number, True),
    "sub": (lambda x, number: x - number, True),
    "rsub": (lambda x, number: number - x, True),
    "mul": (lambda x, number: x * number, False),
    "div": (lambda x, number: x / number, False),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", BESIDE)
def test_numbers_beside_two_byte_tensors(name: str, dtype: torch.dtype) -> None:
    function, is_rounded = BESIDE[name]
    x = torch.from_numpy(np.random.default_rng(7).standard_normal(COUNT)).to(dtype)
    number = torch.tensor(0.7)
    number = number.to(dtype).float() if is_rounded else number
    expected = function(x.float(), number).to(dtype)
    for start, end in ((0, COUNT), (1, 40), (3, 20), (5, 6), (7, 70)):
        assert torch.equal(function(x[start:end], 0.7), expected[start:end])


def test_conversions_round_once() -> None:
    f64 = np.random.default_rng(3).standard_normal(COUNT) * 1e3
    integers = np.random.default_rng(4).integers(-(2**40), 2**40, COUNT)
    for start, end in ((0, COUNT), (1, 40), (3, 20), (5, 6)):
        assert same(torch.from_numpy(f64)[start:end].float(), f64[start:end].astype(F32))
        assert same(torch.from_numpy(integers)[start:end].float(), integers[start:end].astype(F32))
        with np.errstate(over="ignore"):
            assert same(torch.from_numpy(A)[start:end].half(), A[start:end].astype(np.float16))
        bits = A[start:end].view(np.uint32).astype(np.uint64)
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        assert (torch.from_numpy(A)[start:end].bfloat16().view(torch.uint16).numpy() == rounded).all()


F = torch.nn.functional
# Functions of two rows, of -0 and +0: the sign of their zeros.
ZEROS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "relu": lambda n, _: torch.relu(n),
    "relu6": lambda n, _: F.relu6(n),
    "clamp": lambda n, _: n.clamp(0, 1),
    "clamp_min": lambda n, _: n.clamp_min(0.0),
    "clamp_max": lambda n, _: n.clamp_max(0.0),
    "hardtanh": lambda n, _: F.hardtanh(n, 0.0, 6.0),
    "leaky_relu": lambda n, _: F.leaky_relu(n),
    "threshold": lambda n, _: F.threshold(n, 0.0, 0.0),
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "max of a dimension": lambda n, p: torch.stack([n, p]).max(0).values,
    "max_pool1d": lambda n, p: F.max_pool1d(torch.stack([p, n], -1)[None], 2),
    "max_pool2d": lambda n, p: F.max_pool2d(torch.stack([n, p])[None, None].expand(1, 8, 2, -1).contiguous(), (2, 1)),
    "max_pool2d, channels last": lambda n, p: F.max_pool2d(
        torch.stack([n, p])[None, None].expand(1, 8, 2, -1).contiguous(memory_format=torch.channels_last), (2, 1)
    ),
    "round": lambda n, _: (n - 0.3).round(),
    "sgn": lambda n, _: torch.sgn(n),
    "where": lambda n, p: torch.where(n < p, n, p),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ZEROS)
def test_the_sign_of_zero_does_not_depend_on_the_place(name: str, dtype: torch.dtype) -> None:
    positive = torch.zeros(67, dtype=dtype)
    y = ZEROS[name](-positive, positive)
    assert (y == 0).all()
    assert len(set(y.signbit().flatten().tolist())) == 1


def test_what_pytorch_does_not_round_correctly_is_covered() -> None:
    zeros = torch.zeros(67), -torch.zeros(67)
    with jetblock.deterministic(), np.errstate(all="ignore"):
        assert same(torch.sqrt(torch.from_numpy(A)), np.sqrt(A))
        assert same(torch.rsqrt(torch.from_numpy(A)), F32(1) / np.sqrt(A))
        for a, b in (zeros, zeros[::-1]):
            assert not torch.maximum(a, b).signbit().any()
            assert torch.minimum(a, b).signbit().all()
            assert not torch.stack([a, b]).amax(0).signbit().any()
            assert not torch.clamp(a, min=b).signbit().any()
            assert torch.clamp(a, max=b).signbit().all()
        assert same(torch.maximum(torch.from_numpy(A), torch.from_numpy(B)), np.maximum(A, B))


def test_index_add_adds_in_order() -> None:
    random = np.random.default_rng(5)
    index, source = random.integers(0, 7, 5000), random.standard_normal((5000, 33)).astype(F32)
    expected = np.zeros((7, 33), F32)
    for i, row in zip(index, source, strict=True):
        expected[i] += row
    for threads in (1, 2):
        torch.set_num_threads(threads)
        given = torch.zeros(7, 33).index_add(0, torch.from_numpy(index), torch.from_numpy(source))
        assert same(given, expected)
        line = torch.zeros(7).index_add(0, torch.from_numpy(index), torch.from_numpy(source[:, 0].copy()))
        assert same(line, expected[:, 0].copy())


def test_equal_elements_keep_their_order() -> None:
    x = torch.from_numpy(np.random.default_rng(6).integers(0, 5, (3, 4000)).astype(F32))
    with jetblock.deterministic():
        for largest in (True, False):
            values, indices = torch.topk(x, 900, largest=largest)
            for row, row_values, row_indices in zip(x.numpy(), values, indices, strict=True):
                order = np.argsort(-row if largest else row, kind="stable")[:900]
                assert (row_indices.numpy() == order).all()
                assert (row_values.numpy() == row[order]).all()
        values, indices = torch.sort(x, dim=0, descending=True)
        assert (indices.numpy() == np.argsort(-x.numpy(), axis=0, kind="stable")).all()


def test_numbers_in_order() -> None:
    with jetblock.deterministic():
        given = torch.arange(0.3, 700.0, 0.7)
        assert same(given, (np.arange(len(given), dtype=np.float64) * 0.7 + 0.3).astype(F32))
        assert torch.arange(7).dtype == torch.int64
        line = torch.linspace(-1, 2, 1001)
        assert (line[0], line[-1]) == (-1, 2)
        assert torch.equal(line[::10][:20], torch.linspace(-1, 2, 1001)[:200:10])


@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_narrower_vectors_of_pytorch_change_nothing(capability: str) -> None:
    """This file again, with PyTorch held to another instruction set."""
    if "ATEN_CPU_CAPABILITY" in os.environ:
        pytest.skip("this is the run inside")
    command = [sys.executable, "-m", "pytest", "-q", "-c", str(Path(__file__).with_name("pytest.ini")), __file__]
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_lists_name_operators() -> None:
    """A slip of the pen would leave an operator uncovered in silence."""
    for name in _exact.MOVES | _exact.ARITHMETIC:
        assert hasattr(torch.ops.aten, name.removeprefix("aten.")), name
    assert not _exact.MOVES & _exact.ARITHMETIC


def test_writing_forms_are_told_apart_by_the_types_of_arguments() -> None:
    """`clamp_` to numbers is exact, `clamp_` to tensors is not, and both have the same names of arguments."""
    x = torch.tensor([-2.0, -0.0, 0.3, 7.0])
    with torch.no_grad(), jetblock.deterministic() as report:
        by_numbers = x.clone().clamp_(0.0, 1.0)
        by_tensors = x.clone().clamp_(torch.tensor(0.0), torch.tensor(1.0))
        into = torch.clamp(x, 0.0, 1.0, out=torch.empty(4))
    assert torch.equal(by_numbers, torch.tensor([0.0, 0.0, 0.3, 1.0]))
    assert torch.equal(by_tensors, by_numbers)
    assert torch.equal(into, by_numbers)
    assert {row.status for row in report.rows} == {"covered", "exact"}


def test_a_number_to_the_power_of_a_table() -> None:
    exponents = torch.tensor([[0.0, 0.25, 2.0], [-1.0, 3.7, -0.5]])
    with torch.no_grad(), jetblock.deterministic() as report:
        given = 160000.0**exponents
    assert [row.status for row in report.rows] == ["covered"]
    expected = [torch_ops.pow_scalar(F32([160000.0]), F32(e)) for e in exponents.flatten().tolist()]
    assert same(given.flatten(), np.concatenate(expected))
    with (
        jetblock.deterministic(),
        pytest.raises(jetblock.UncoveredOperatorError, match="4097 exponents, more than 4096"),
    ):
        torch.pow(3.0, torch.ones(4097))
