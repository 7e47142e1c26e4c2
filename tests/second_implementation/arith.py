"""Sections 1 and 2: binary32 arithmetic on arrays, rounding and conversion.

numpy's float32 ``+ - * /`` and ``sqrt`` round once to nearest even and keep subnormals. The fused multiply-add is made from
binary64: the product of two f32 is exact there, the sum is rounded to odd, and a value rounded to odd with 53 bits rounds to
24 bits (or to a subnormal) as the exact value would.
"""

import numpy as np

np.seterr(all="ignore")

F32, F64, U16, U32, I32, I64 = np.float32, np.float64, np.uint16, np.uint32, np.int32, np.int64
CANONICAL_NAN = 0x7FC00000


def f32(x):
    """An f32 array of Python numbers or an array (rounded to nearest even)."""
    return np.asarray(x, dtype=F32)


def bits(x):
    return np.ascontiguousarray(x, dtype=F32).view(U32).reshape(np.shape(x))


def from_bits(b):
    """float(b): the value with pattern b; integers are taken modulo 2^32."""
    b = np.asarray(b)
    if b.dtype != U32:
        b = (b.astype(I64) & 0xFFFFFFFF).astype(U32)
    return np.ascontiguousarray(b).view(F32).reshape(b.shape)


def const(pattern):
    """A constant given as eight hex digits."""
    return from_bits(U32(int(pattern, 16)))


def canonical(x):
    """Every NaN becomes 7FC00000."""
    x = f32(x)
    return np.where(np.isnan(x), from_bits(U32(CANONICAL_NAN)), x)


def fma64(a, b, c):
    """fma of binary64 arrays that hold f32 values; the result holds f32 values too."""
    product = a * b
    s = product + c
    t = s - product
    error = (product - (s - t)) + (c - t)          # s + error is exact (Knuth's two-sum)
    side = error * s
    beyond, short = side < 0, side > 0             # both false for an exact, infinite or NaN sum
    pattern = np.atleast_1d(s).view(I64)
    pattern -= beyond
    pattern |= beyond | short
    return pattern.view(F64).reshape(s.shape).astype(F32).astype(F64)


def fma(a, b, c):
    """a*b + c rounded once."""
    return fma64(np.asarray(a, F64), np.asarray(b, F64), np.asarray(c, F64)).astype(F32)


def neg(x):
    return from_bits(bits(x) ^ U32(0x80000000))


def magnitude(x):
    return from_bits(bits(x) & U32(0x7FFFFFFF))


def with_sign(a, x):
    return from_bits(bits(a) | (bits(x) & U32(0x80000000)))


def _order(x):
    """Signed integers in the order of the f32 values, with -0 below +0."""
    b = np.ascontiguousarray(x, dtype=F32).view(I32).reshape(np.shape(x))
    return b ^ ((b >> I32(31)) & I32(0x7FFFFFFF))


def _unorder(k):
    return np.ascontiguousarray(k ^ ((k >> I32(31)) & I32(0x7FFFFFFF))).view(F32).reshape(k.shape)


def maximum(a, b):
    a, b = np.broadcast_arrays(f32(a), f32(b))
    return np.where(np.isnan(a) | np.isnan(b), const("7FC00000"), _unorder(np.maximum(_order(a), _order(b))))


def minimum(a, b):
    a, b = np.broadcast_arrays(f32(a), f32(b))
    return np.where(np.isnan(a) | np.isnan(b), const("7FC00000"), _unorder(np.minimum(_order(a), _order(b))))


def max_last(x):
    """The maximum over the last axis; -inf of nothing."""
    x = f32(x)
    if x.shape[-1] == 0:
        return np.full(x.shape[:-1], -np.inf, F32)
    return np.where(np.isnan(x).any(axis=-1), const("7FC00000"), _unorder(_order(x).max(axis=-1)))


def f32_to_bf16(x):
    b = bits(x).astype(np.uint64)
    rounded = ((b + 0x7FFF + ((b >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)).astype(U16)
    return np.where(np.isnan(f32(x)), U16(0x7FC0), rounded)


def bf16_to_f32(h):
    return canonical(from_bits(np.asarray(h, U16).astype(U32) << U32(16)))


def operand_bf16(x):
    """The pattern of operand(x): rounded to bf16, then values below 2^-50 become +0."""
    h = f32_to_bf16(x)
    return np.where((h & U16(0x7FFF)) < U16(0x2680), U16(0), h)


def operand(x):
    return bf16_to_f32(operand_bf16(x))


def f32_to_f16(x):
    b = bits(x)
    sign = (b >> U32(16)) & U32(0x8000)
    a = b & U32(0x7FFFFFFF)
    normal = (a - U32(0x38000000) + U32(0xFFF) + ((a >> U32(13)) & U32(1))) >> U32(13)
    small = bits(from_bits(a) + F32(0.5)) - U32(0x3F000000)
    out = np.where(a >= 0x477FF000, U32(0x7C00), np.where(a >= 0x38800000, normal, small))
    return np.where(a > 0x7F800000, U32(0x7E00), sign | out).astype(U16)


def f16_to_f32(h):
    """Exact; numpy's own widening is only a change of format."""
    return canonical(np.asarray(h, U16).view(np.float16).astype(F32))
