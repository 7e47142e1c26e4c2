"""The tools of this implementation against exact rational arithmetic, and section 4 against its literal reading."""

from fractions import Fraction

import ml_dtypes
import numpy as np

from . import arith, paint, quant, reduce
from .arith import F32, F64, U32, bits, from_bits


def round_exactly(value):
    """The f32 pattern of a rational number that is not 0, to nearest even."""
    sign, value = (0x80000000, -value) if value < 0 else (0, value)
    exponent = value.numerator.bit_length() - value.denominator.bit_length()
    if value < Fraction(2) ** exponent:
        exponent -= 1
    unit = Fraction(2) ** (max(exponent, -126) - 23)
    count = value / unit
    whole = count.numerator // count.denominator
    rest = count - whole
    if rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole % 2):
        whole += 1
    if whole * unit >= Fraction(2) ** 128:
        return sign | 0x7F800000
    return sign | (whole + ((max(exponent, -126) + 126) << 23))


def triples():
    """Any patterns; sums that cancel; sums that are at or next to the middle of two f32 or f64; subnormal results."""
    n = 400
    i = np.arange(n, dtype=U32)
    a, b, c = (paint.raw(seed, i) for seed in (31, 32, 33))
    yield a, b, c
    x, y = paint.wide(34, i), paint.wide(35, i)
    yield x, y, arith.neg(x * y)
    yield x, y, from_bits(bits(x * y) ^ ((paint.hash32(36, i) & U32(0x3)) | U32(0x80000000)))
    shift = ((paint.hash32(37, i) % U32(70)).astype(np.int64) - 5).astype(F64)
    yield x, y, (x.astype(F64) * y * 2.0**-shift).astype(F32)
    short = from_bits(bits(x) & U32(0xFFFFF000))
    yield short, from_bits(bits(y) & U32(0xFFFFF000)), (short.astype(F64) * y * 2.0**shift).astype(F32)
    near_one = (from_bits(U32(b)) * F32(2.0**-12) for b in (0x3F800001, 0x3F7FFFFE))     # their product is 2^-24 - 2^-70
    yield *(np.full(n, v) for v in near_one), from_bits(U32(0x3F800000) | (paint.hash32(40, i) >> U32(9)))
    tiny = F32(2.0**-70)
    yield x * tiny, y * tiny, from_bits(paint.hash32(38, i) & U32(0x80FFFFFF))


def run(report):
    report.section("this implementation's own tools")
    wrong = total = 0
    for a, b, c in triples():
        got = bits(arith.fma(a, b, c))
        for i in range(len(a)):
            if not np.isfinite([a[i], b[i], c[i]]).all():
                continue
            exact = Fraction(float(a[i])) * Fraction(float(b[i])) + Fraction(float(c[i]))
            want = round_exactly(exact) if exact else None
            wrong += int(got[i]) != want if exact else bool(got[i] & 0x7FFFFFFF)
            total += 1
    report.add("fma against rational numbers", wrong == 0, f"{wrong} of {total} wrong")
    twice = sum(int((bits((a.astype(F64) * b + c).astype(F32)) != bits(arith.fma(a, b, c))).sum()) for a, b, c in triples())
    report.add("control: an f64 fma rounded twice differs", twice > 0, f"at {twice} triples")
    x = paint.uniform(39, np.arange(5000, dtype=U32))
    same = all(bits(reduce.sum_last(np.pad(x[:n], (0, -n % 1024)))) == bits(reduce.sum_last(x[:n])) for n in (1, 31, 33, 1000, 1025, 4097))
    report.add("sum: absent elements are as good as +0", same)
    a, b = np.array([2.0**127, -(2.0**126)], F32), np.array([2.0, 2.0], F32)
    got = float(reduce.dot(a, b, "bf16")), float(reduce.dot(a[::-1], b, "bf16"))
    report.add("bf16 kind: an fma where the product alone overflows", got == (2.0**127, np.inf))
    x = np.concatenate([paint.wide(41, np.arange(1 << 18, dtype=U32)), F32(512) * paint.uniform(42, np.arange(1 << 18, dtype=U32))])
    limited = np.clip(x, -448, 448)                                    # the library does not saturate
    same = np.array_equal(limited.astype(ml_dtypes.float8_e4m3fn).view(np.uint8), quant.e4m3(x))
    report.add("E4M3 against ml_dtypes", same, f"{len(x)} values")
    same = np.array_equal(x.astype(ml_dtypes.float4_e2m1fn).astype(F32), quant.e2m1_value(quant.e2m1(x)))
    report.add("E2M1 against ml_dtypes", same, f"{len(x)} values")
    cut = quant.e4m3(from_bits(bits(x) & U32(0xFFF00000)))
    report.add("control: E4M3 by cutting differs", not np.array_equal(cut, quant.e4m3(x)))
