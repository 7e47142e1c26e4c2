#!/usr/bin/env python3
"""Derives every constant of `src/math` and fails if the source has others. Needs mpmath.

A polynomial is fitted to minimise the largest weighted error (Lawson's iteration on a Chebyshev grid, 60 digits).
Its coefficients are then rounded to binary32 one at a time, lowest power first, and the remaining ones fitted again, so
that each absorbs what the earlier roundings left.
"""

import re
import struct
import sys
from pathlib import Path

from mpmath import (
    cos, erf, erfc, exp, expm1, factorial, floor, log, log1p, lu_solve, matrix, mp, mpf, nstr, pi, sqrt, tanh,
)

mp.dps = 60

# Every bit pattern shown.
derived = set()


def f32(v):
    """The binary32 value nearest to v (the f64 step in between is harmless away from ties), and its bits."""
    bits = struct.unpack("<I", struct.pack("<f", float(v)))[0]
    return mpf(struct.unpack("<f", struct.pack("<I", bits))[0]), bits


def f64_bits(v):
    return struct.unpack("<Q", struct.pack("<d", float(v)))[0]


def show(name, v):
    value, bits = f32(v)
    derived.add(bits)
    print(f"{name:<28} 0x{bits:08X}  {nstr(value, 12)}")
    return value


def show64(name, v):
    derived.add(f64_bits(v))
    print(f"{name:<28} 0x{f64_bits(v):016X}  {nstr(mpf(float(v)), 20)}")


def grid(lo, hi, count=240):
    mid, half = (hi + lo) / 2, (hi - lo) / 2
    return [mid + half * cos(pi * (2 * i + 1) / (2 * count)) for i in range(count)]


def lawson(xs, target, weight, powers, rounds=40):
    """Coefficients c minimising max |weight * (target - sum c_k x^p_k)| on xs."""
    n = len(powers)
    rows = [[w * x**p for p in powers] for x, w in zip(xs, weight)]
    rhs = [w * t for w, t in zip(weight, target)]
    lam = [mpf(1)] * len(xs)
    c = None
    for _ in range(rounds):
        a = matrix(n, n)
        b = matrix(n, 1)
        for row, y, l in zip(rows, rhs, lam):
            for i in range(n):
                li = l * row[i]
                b[i] += li * y
                for j in range(i, n):
                    a[i, j] += li * row[j]
        for i in range(n):
            for j in range(i):
                a[i, j] = a[j, i]
        c = lu_solve(a, b)
        errors = [abs(y - sum(c[k] * row[k] for k in range(n))) for row, y in zip(rows, rhs)]
        mean = sum(errors) / len(errors)
        lam = [l * (e + mean / 50) for l, e in zip(lam, errors)]
        total = sum(lam)
        lam = [l / total for l in lam]
    return [c[k] for k in range(n)]


def fit(name, f, lo, hi, powers, weight):
    """Prints the coefficients of sum c_k x^p_k ~ f on [lo, hi], rounded one after the other."""
    xs = grid(mpf(lo), mpf(hi))
    target = [f(x) for x in xs]
    w = [weight(x) for x in xs]
    left, powers_left, done = list(target), list(powers), []
    while powers_left:
        c, _ = f32(lawson(xs, left, w, powers_left)[0])
        p = powers_left.pop(0)
        left = [t - c * x**p for t, x in zip(left, xs)]
        done.append((p, c))
    print(f"\n{name}: on [{nstr(mpf(lo), 8)}, {nstr(mpf(hi), 8)}]")
    for p, c in done:
        show(f"  c{p}", c)
    worst = max(abs(wi * e) for wi, e in zip(w, left))
    print(f"  largest weighted error 2^{nstr(log(worst, 2), 5)}")


def split(name, v):
    hi = show(f"{name}_HI", v)
    show(f"{name}_LO", v - hi)


LN2 = log(mpf(2))


def main():
    print("shared")
    show("LOG2_E", 1 / LN2)
    split("LN2", LN2)
    show("ROUND = 1.5 * 2^23", mpf(3) * 2**22)
    half = LN2 / 2 * (1 + mpf(2) ** -20)
    fit("exp", lambda r: (expm1(r) - r) / r**2, -half, half, range(5), lambda r: r**2 / exp(r))
    fit("exp2", lambda r: expm1(r * LN2) / r, -0.5, 0.5, range(6), lambda r: abs(r) / exp(r * LN2))
    fit("log1p", lambda m: (log1p(m) - m) / m**2, -0.25, 0.5, range(9), lambda m: abs(m**2 / log1p(m)))
    fit("tanh", lambda x: (tanh(x) / x - 1) / x**2, mpf("0.001"), mpf("0.6"), [0, 2, 4, 6, 8],
        lambda x: x**3 / tanh(x))
    fit("erf near", lambda x: erf(x) / x - 1, mpf("0.001"), mpf("0.9375"), range(0, 13, 2), lambda x: x / erf(x))
    fit("erf far", lambda t: -log(erfc(t)) / t - 1, mpf("0.9375"), 4, range(7),
        lambda t: t * erfc(t) / erf(t))
    fit("gelu_erf near", lambda x: erf(x / sqrt(2)) / (2 * x), mpf("0.001"), mpf("0.75"), range(0, 9, 2),
        lambda x: x / (erfc(x / sqrt(2)) / 2))
    a, k = 2, 3

    def mills(q):
        z = k * (1 + q) / (1 - q)
        return (1 + a * z) * exp(z * z / 2) * erfc(z / sqrt(2)) / 2

    z_top = mpf("13.25")
    fit("gelu_erf far", mills, -1, (z_top - k) / (z_top + k), range(11), lambda q: 1 / mills(q))

    print("\ngelu_tanh")
    split("  GELU_C1", 2 * sqrt(2 / pi))
    split("  GELU_C3", 2 * sqrt(2 / pi) * mpf("0.044715"))

    print("\nbinary64: Taylor and atanh series, each the nearest binary64")
    show64("LN2", LN2)
    split64_hi = mpf(int(floor(LN2 * 2**33))) / 2**33
    show64("LN2_HI", split64_hi)
    show64("LN2_LO", LN2 - split64_hi)
    show64("LOG2_E", 1 / LN2)
    show64("PI / 2", pi / 2)
    show64("PI / 4", pi / 4)
    show64("SQRT 2", sqrt(mpf(2)))
    for n in range(3, 19):
        show64(f"1 / {n}!", 1 / factorial(n))
    for n in range(3, 24, 2):
        show64(f"2 / {n}", mpf(2) / n)

    print("\n2 / pi, fraction bits, most significant word first")
    words = 18
    mp.prec = 64 * words + 80
    digits = int(floor(2 / mp.pi * mpf(2) ** (64 * words)))
    for i in reversed(range(words)):
        word = digits >> (64 * i) & (2**64 - 1)
        derived.add(word)
        print(f"    0x{word:016X},")


def missing_from_source():
    """Derived patterns that no file of src/math has; the sign of a constant may be folded into it."""
    source = "".join(path.read_text() for path in Path(__file__).parent.glob("src/math/*.rs"))
    present = {int(word.replace("_", ""), 16) for word in re.findall(r"0x([0-9A-Fa-f_]+)", source)}
    return sorted(v for v in derived if not {v, v ^ 1 << 31} & present)


if __name__ == "__main__":
    main()
    missing = missing_from_source()
    if missing:
        sys.exit("not in src/math: " + ", ".join(f"{v:X}" for v in missing))
