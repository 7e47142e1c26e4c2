"""Attention in two paths and linear layers in 8 bits: near what they stand for, and rows by themselves."""

import pytest
import torch
from torch.nn.functional import linear, scaled_dot_product_attention

from jetblock import ArgumentError, ops
from jetblock.diffusion.int8 import int8_linear, worthwhile
from jetblock.diffusion.sparse_attention import dual_path_attention


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tokens_that_know_their_like(length: int) -> tuple[torch.Tensor, ...]:
    """Tokens of 16 kinds in runs, as neighbouring patches of a picture are alike."""
    kinds = normal(16, 32) * 2
    base = kinds[(torch.arange(length) // 64) % 16]
    q, k, v = (base + normal(length, 32, seed=seed) * 0.3 for seed in (2, 3, 4))
    return tuple(x.reshape(1, 1, length, 32).expand(2, 3, -1, -1) for x in (q, k, v))


@pytest.mark.parametrize("length", [64, 100, 600, 1024])
def test_all_blocks_kept_is_attention(length: int) -> None:
    q, k, v = normal(2, 3, length, 16, seed=1), normal(2, 3, length, 16, seed=2), normal(2, 3, length, 16, seed=3)
    torch.testing.assert_close(dual_path_attention(q, k, v, keep=1.0), scaled_dot_product_attention(q, k, v))


def test_few_blocks_are_near_where_tokens_have_kinds() -> None:
    q, k, v = tokens_that_know_their_like(1024)
    exact = scaled_dot_product_attention(q, k, v)
    error = [float((dual_path_attention(q, k, v, keep=keep) - exact).norm() / exact.norm()) for keep in (0.125, 0.5)]
    assert 0 < error[1] <= error[0] < 0.05
    # The pooled path matters: leaving the rest out is worse.
    rest = k.clone()
    rest[..., 128:, :] = 0
    assert float((dual_path_attention(q, rest, v, keep=0.125) - exact).norm() / exact.norm()) > 2 * error[0]


def test_images_and_heads_are_apart() -> None:
    q, k, v = (normal(3, 2, 300, 16, seed=seed) for seed in (1, 2, 3))
    whole = dual_path_attention(q, k, v)
    for image in range(3):
        one = slice(image, image + 1)
        assert torch.equal(dual_path_attention(q[one], k[one], v[one]), whole[one])


def test_bad_arguments_of_attention() -> None:
    x = normal(1, 1, 8, 4)
    with pytest.raises(ArgumentError, match="keep 0, block 64: expected more than 0"):
        dual_path_attention(x, x, x, keep=0)
    with pytest.raises(ArgumentError, match=r"expected \[B, H, N, D\]"):
        dual_path_attention(x, x[..., :2], x)


def test_int8_is_near_and_by_rows() -> None:
    x, weight, bias = normal(64, 128), normal(96, 128, seed=2), normal(96, seed=3)
    exact = linear(x, weight, bias)
    whole = int8_linear(x, weight, bias)
    assert 1e-4 < float((whole - exact).norm() / exact.norm()) < 0.02
    assert torch.equal(int8_linear(x[10:50], weight, bias), whole[10:50])
    assert torch.equal(int8_linear(x.reshape(4, 16, 128), weight, bias).reshape(64, 96), whole)


@pytest.mark.parametrize("inference", [False, True])
def test_int8_weights_are_kept_until_they_change(inference: bool) -> None:  # noqa: FBT001
    with torch.inference_mode(inference):
        x, weight = normal(64, 128), normal(96, 128, seed=2)
        packed = ops.weight_cache_stats()["packed"]
        first = int8_linear(x, weight, None)
        assert torch.equal(int8_linear(x, weight, None), first)
        assert ops.weight_cache_stats()["packed"] == packed + 1
        weight.mul_(2)
        torch.testing.assert_close(int8_linear(x, weight, None), 2 * first)
        assert ops.weight_cache_stats()["packed"] == packed + 2


def test_int8_where_it_pays() -> None:
    assert worthwhile(normal(64, 128), normal(64, 128))
    assert not worthwhile(normal(4, 128), normal(64, 128))  # a row or two of a modulation
    assert not worthwhile(normal(64, 132), normal(64, 132))
