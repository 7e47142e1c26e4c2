"""sin, cos and pow in binary64, in which models compute the angles of positions: NUMERICS.md, section 5.7.

Tables of positions hold few values, often. So numbers are computed one by one, each once.
"""

import math
from collections.abc import Callable

import torch

F = [1.0 / math.factorial(n) for n in range(19)]
A = [2.0 / (2 * k + 1) for k in range(12)]
LN2, LOG2_E, SQRT2 = (float.fromhex(x) for x in ("0x1.62e42fefa39efp-1", "0x1.71547652b82fep0", "0x1.6a09e667f3bcdp0"))
PI_4, PI_2S = math.pi / 4, math.ldexp(math.pi / 2, -128)
ROUND = 1.5 * 2.0**52
TWO_OVER_PI = int(
    "A2F9836E4E441529FC2757D1F534DDC0DB6295993C439041FE5163ABDEBBC561B7246E3A424DD2E006492EEA09D1921C"
    "FE1DEB1CB129A73EE88235F52EBB4484E99C7026B45F7E413991D639835339F49C845F8BBDF9283B1FF897FFDE05980F"
    "EF2F118B5A0A6D1F6D367ECF27CB09B74F463F669E5FEA2D7527BAC7EBE5F17B3D0739F78A5292EA6BFB5FB11F8D5D08",
    16,
)
"""2/pi times 2^1152."""
MASK = (1 << 128) - 1


def of_each(function: Callable[[float], float], x: torch.Tensor) -> torch.Tensor:
    """A function of each element that does not look at its sign."""
    values, places = torch.unique(x.abs(), return_inverse=True)
    return torch.tensor([function(value) for value in values.tolist()], dtype=torch.float64)[places]


def sin(x: torch.Tensor) -> torch.Tensor:
    """`sin64` of each element."""
    y = of_each(lambda value: _quarter(value, 0), x)
    return torch.where(x.signbit(), -y, y)


def cos(x: torch.Tensor) -> torch.Tensor:
    """`cos64` of each element."""
    return of_each(lambda value: _quarter(value, 1), x)


def powers(base: float, exponents: torch.Tensor) -> torch.Tensor:
    """`power` of a finite base above 0, other than 1, to finite exponents."""
    values = [_power(base, y) if y else 1.0 for y in exponents.flatten().tolist()]
    return torch.tensor(values, dtype=torch.float64).reshape(exponents.shape)


def _quarter(x: float, shift: int) -> float:
    if not math.isfinite(x):
        return math.nan
    quadrant, r = _reduce(x)
    k = (quadrant + shift) & 3
    y = _cos_series(r) if k & 1 else _sin_series(r)
    return -y if k & 2 else y


def _reduce(x: float) -> tuple[int, float]:
    """The quadrant of an angle, and what is left of it."""
    if x < PI_4:
        return 0, x
    m, e = math.frexp(x)
    p = int(math.ldexp(m, 53)) * (TWO_OVER_PI << (e - 53 + 126) >> 1152 & MASK) & MASK
    d = p << 2 & MASK
    return p + (1 << 125) >> 126 & 3, float(d - (1 << 128) if d >> 127 else d) * PI_2S


def _sin_series(r: float) -> float:
    z = r * r
    q = F[17]
    for n in range(15, 2, -2):
        q = F[n] - q * z
    return r - (r * z) * q


def _cos_series(r: float) -> float:
    z = r * r
    q = F[18]
    for n in range(16, 3, -2):
        q = F[n] - q * z
    return (1 - 0.5 * z) + (z * z) * q


def _power(x: float, y: float) -> float:
    m, n = math.frexp(x)
    m, n = (m * 2, n - 1) if m * 2 < SQRT2 else (m, n)
    s = (m - 1) / (m + 1)
    q = A[11]
    for k in range(10, -1, -1):
        q = q * (s * s) + A[k]
    t = min(max(y * (n + (s * q) * LOG2_E), -1200.0), 1200.0)
    whole = (t + ROUND) - ROUND
    r, q = (t - whole) * LN2, F[14]
    for k in range(13, -1, -1):
        q = q * r + F[k]
    half = int(whole) // 2
    return (q * math.ldexp(1.0, half)) * math.ldexp(1.0, int(whole) - half)
