"""Digests of NUMERICS.md, section 12, against a second implementation; determinism of functions."""

import hashlib
import itertools

import ml_dtypes
import numpy as np
import pytest
import torch

import jetblock

NAMES = {
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
    "float64": "f64",
    "float8_e4m3fn": "e4m3",
    "float8_e5m2": "e5m2",
    "int8": "i8",
    "int16": "i16",
    "int32": "i32",
    "int64": "i64",
    "uint8": "u8",
    "uint16": "u16",
    "uint32": "u32",
    "uint64": "u64",
    "bool": "bool",
}
SHAPES = [(), (0,), (3, 0, 2), (1,), (7,), (2, 3), (5, 1, 4), (1 << 18,), ((1 << 18) + 1,), (3, 1 << 17)]


def second_implementation(dtype: str, shape: tuple[int, ...], data: bytes) -> str:
    digest = hashlib.sha256(f"{dtype}[{','.join(map(str, shape))}]\n".encode())
    for start in range(0, len(data), 1 << 20):
        digest.update(hashlib.sha256(data[start : start + (1 << 20)]).digest())
    return digest.hexdigest()


def painted(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Every bit pattern may occur, NaN and -0 included, except in bool."""
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    random = np.random.default_rng(len(shape))
    if dtype == "bool":
        return random.integers(0, 2, shape).astype(bool)
    size = int(np.prod(shape)) * kind.itemsize
    return np.frombuffer(random.bytes(size), kind).reshape(shape).copy()


@pytest.mark.parametrize("dtype", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_arrays_and_tensors(dtype: str, shape: tuple[int, ...]) -> None:
    array = painted(shape, dtype)
    expected = second_implementation(NAMES[dtype], shape, array.tobytes())
    assert jetblock.checksum(array) == expected
    words = {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64}[array.itemsize]
    tensor = torch.from_numpy(array.reshape(-1).view(words)).view(getattr(torch, dtype)).reshape(shape)
    assert jetblock.checksum(tensor) == expected


def test_strides_do_not_enter() -> None:
    base = painted((6, 8, 5), "float32")
    views = [base[::2], base[:, ::-1], base.transpose(2, 0, 1), base[1:, 2:5], np.broadcast_to(base[0], (3, 8, 5))]
    for view in views:
        assert jetblock.checksum(view) == jetblock.checksum(np.ascontiguousarray(view))
    tensor = torch.from_numpy(base)
    for strided in (tensor[::2], tensor.permute(2, 0, 1), tensor[0].expand(3, 8, 5)):
        assert not strided.is_contiguous() or strided.shape[0] == 1
        assert jetblock.checksum(strided) == jetblock.checksum(strided.contiguous())
    unaligned = np.frombuffer(b"\0" + base.tobytes(), np.uint8)[1:].view(np.float32)
    assert jetblock.checksum(unaligned) == jetblock.checksum(base.ravel())


def test_shape_dtype_and_every_bit_enter() -> None:
    array = painted((4, 6), "float32")
    digests = {
        jetblock.checksum(array),
        jetblock.checksum(array.reshape(6, 4)),
        jetblock.checksum(array.view(np.int32)),
    }
    for index in range(24):
        changed = array.copy()
        changed.view(np.uint32).ravel()[index] ^= 1
        digests.add(jetblock.checksum(changed))
    assert len(digests) == 27
    assert jetblock.checksum(np.float32([0.0])) != jetblock.checksum(np.float32([-0.0]))


def test_parameters_and_negated_views() -> None:
    parameter = torch.nn.Parameter(torch.arange(6.0))
    assert jetblock.checksum(parameter) == jetblock.checksum(parameter.detach())
    negated = torch.tensor([1 + 2j, 3 - 4j]).conj().imag
    assert negated.is_neg()
    assert jetblock.checksum(negated) == jetblock.checksum(torch.tensor([-2.0, 4.0]))


def test_what_has_no_digest() -> None:
    with pytest.raises(TypeError, match=r"expected a torch.Tensor or a numpy.ndarray, got list"):
        jetblock.checksum([1.0])
    for array in (torch.zeros(2, dtype=torch.complex64), np.zeros(2, np.complex64), np.array(["a"])):
        with pytest.raises(jetblock.ArgumentError, match="dtype"):
            jetblock.checksum(array)
    with pytest.raises(jetblock.ArgumentError, match="foreign byte order"):
        jetblock.checksum(np.zeros(2, ">f4"))
    with pytest.raises(jetblock.ArgumentError, match="is on meta, expected cpu"):
        jetblock.checksum(torch.zeros(2, device="meta"))
    with pytest.raises(jetblock.ArgumentError, match="sparse"):
        jetblock.checksum(torch.eye(2).to_sparse())


def test_a_function_that_always_gives_the_same_bits() -> None:
    report = jetblock.validate_determinism(torch.sort, torch.arange(8.0).flip(0), runs=20)
    assert report
    assert report.runs == 20
    assert report.first_difference is None
    assert list(report.digests.values()) == [20]


def test_the_first_difference_is_named() -> None:
    counter = itertools.count()

    def unsteady(x: torch.Tensor) -> dict[str, list[torch.Tensor]]:
        y = x.clone()
        if next(counter) == 3:
            y[1, 2] = -0.0
        return {"out": [x, y]}

    report = jetblock.validate_determinism(unsteady, (torch.zeros(2, 3),), runs=6)
    assert not report
    assert sorted(report.digests.values()) == [1, 5]
    assert report.first_difference == jetblock.Difference(3, "['out'][1]", (1, 2), "00000000", "80000000")
    assert "2 different results in 6 runs" in str(report)


def test_memory_that_is_used_again_does_not_hide_a_difference() -> None:
    out = np.zeros(4)

    def count() -> np.ndarray:
        out[0] += 1
        return out

    report = jetblock.validate_determinism(count, runs=3)
    assert len(report.digests) == 3
    assert report.first_difference is not None
    assert report.first_difference.index == (0,)


def test_other_shapes_are_a_difference() -> None:
    counter = itertools.count(1)
    report = jetblock.validate_determinism(lambda: np.zeros(next(counter)), runs=2)
    assert report.first_difference == jetblock.Difference(1, "", (), "float64[1]", "float64[2]")


def test_what_proves_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no tensor"):
        jetblock.validate_determinism(lambda: 3, runs=2)
    with pytest.raises(ValueError, match="runs is 0"):
        jetblock.validate_determinism(np.zeros, 3, runs=0)
    with pytest.raises(ValueError, match="changed the inputs in place"):
        jetblock.validate_determinism(lambda x: x.add_(1), torch.zeros(2), runs=2)
