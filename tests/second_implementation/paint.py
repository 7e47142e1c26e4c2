"""Section 6: painted inputs and the digest of golden vectors."""

import numpy as np

from .arith import F32, I64, U32, bits, from_bits


def lowbias32(x):
    x = np.asarray(x, U32)
    x = x ^ (x >> U32(16))
    x = x * U32(0x7FEB352D)
    x = x ^ (x >> U32(15))
    x = x * U32(0x846CA68B)
    return x ^ (x >> U32(16))


def hash32(seed, i):
    return lowbias32(lowbias32(np.asarray(seed, U32)) + np.asarray(i, U32))


def raw(seed, i):
    return from_bits(hash32(seed, i))


def uniform(seed, i):
    h = hash32(seed, i)
    e = ((h >> U32(23)) & U32(0xFF)).astype(I64) | 0x100
    lowest = e & -e
    zeros = np.zeros_like(e)
    for n in range(1, 9):
        zeros = np.where(lowest == 1 << n, n, zeros)
    return from_bits((h & U32(0x807FFFFF)) | ((127 - zeros).astype(U32) << U32(23)))


def wide(seed, i):
    h = hash32(seed, i)
    e = (h >> U32(23)) & U32(0xFF)
    return from_bits((h & U32(0x807FFFFF)) | ((U32(107) + ((U32(40) * e) >> U32(8))) << U32(23)))


PAINTS = {"raw": raw, "uniform": uniform, "wide": wide}


def golden_input(spec):
    """An input of a golden vector: a list of f32 patterns or a paint."""
    if isinstance(spec, list):
        return from_bits(np.array([int(b, 16) for b in spec], U32))
    x = PAINTS[spec["paint"]](spec["seed"], np.arange(spec["count"], dtype=U32))
    return x if spec["scale"] == 0 else x * F32(2.0 ** spec["scale"])


def golden_digest(y):
    b = bits(y).astype(np.uint64)
    odd = 2 * np.arange(b.size, dtype=np.uint64) + np.uint64(1)
    return int((b * odd).sum(dtype=np.uint64))
