"""Section 5: elementary functions."""

import math
import struct

import numpy as np

from .arith import F32, F64, I32, U32, bits, canonical, const, f32, fma, from_bits, magnitude, maximum, neg, with_sign


def _table(text):
    return [const(word) for word in text.split()]


def poly(x, coefficients):
    y = coefficients[0]
    for c in coefficients[1:]:
        y = fma(y, x, c)
    return y


def _function(body):
    """What holds for every function of one argument: NaN in, 7FC00000 out, and any NaN produced is that one."""

    def call(x):
        x = f32(x)
        return np.where(np.isnan(x), const("7FC00000"), canonical(body(x)))

    call.__name__ = body.__name__
    call.__doc__ = body.__doc__
    return call


# 5.2

LOG2_E, NLN2_HI, NLN2_LO, ROUND = const("3FB8AA3B"), const("BF317218"), const("3102E308"), const("4B400000")
EXP = _table("3AB527A9 3C091CBE 3D2AAC57 3E2AAA49 3EFFFFFE")
EXP2 = _table("3920BD4E 3AAF84A4 3C1D96E9 3D6357BD 3E75FDEE 3F317218")
ONE = F32(1)


def _exp2_scale(p, t):
    return from_bits(bits(p) + (bits(t) << U32(23)))


def _exp_sum(x, low=None):
    t = fma(x, LOG2_E, ROUND)
    n = t - ROUND
    r = fma(n, NLN2_HI, x)
    r = fma(n, NLN2_LO, r)
    if low is not None:
        r = r + low
    p = poly(r, EXP)
    p = fma(p, r, ONE)
    p = fma(p, r, ONE)
    y = _exp2_scale(p, t)
    y = np.where(x > const("42B17217"), F32(np.inf), y)
    return np.where(x < const("C2AEAC4F"), F32(0), y)


@_function
def exp(x):
    return _exp_sum(x)


@_function
def exp2(x):
    t = x + ROUND
    r = x - (t - ROUND)
    p = poly(r, EXP2)
    p = fma(p, r, ONE)
    y = _exp2_scale(p, t)
    y = np.where(x >= F32(128), F32(np.inf), y)
    return np.where(x < F32(-126), F32(0), y)


# 5.3

LN2 = const("3F317218")
LOG = _table("BD38B9F1 3DD65F5C BE06CBA4 3E1442A3 BE2A774A 3E4CB4B7 BE800022 3EAAAAD2 BF000000")


def _exponent_part(b):
    return (b - U32(0x3F400000)) & U32(0xFF800000)


def _signed_exponent(k):
    return (k.astype(U32).view(I32) >> I32(23)).astype(F32)


def _log_sum(m, n):
    s = m * m
    return fma(n, LN2, fma(poly(m, LOG), s, m))


@_function
def log(x):
    small = x < const("00800000")
    v = np.where(small, x * F32(2.0**23), x)
    k = np.atleast_1d(_exponent_part(bits(v))).reshape(x.shape)
    m = from_bits(bits(v) - k) - ONE
    n = _signed_exponent(np.atleast_1d(k)).reshape(x.shape) + np.where(small, F32(-23), F32(0))
    y = _log_sum(m, n)
    y = np.where(x == F32(np.inf), F32(np.inf), y)
    y = np.where(x < 0, F32(np.nan), y)
    return np.where(x == 0, F32(-np.inf), y)


def _log1p_inside(x):
    u = x + ONE
    k = _exponent_part(bits(u))
    v = from_bits(bits(x) - k)
    f = from_bits(U32(0x40800000) - k)
    m = v + fma(f, F32(0.25), F32(-1))
    return _log_sum(m, _signed_exponent(np.atleast_1d(k)).reshape(x.shape))


@_function
def log1p(x):
    y = _log1p_inside(x)
    y = np.where(x == F32(np.inf), F32(np.inf), y)
    y = np.where(x < -1, F32(np.nan), y)
    y = np.where(x == -1, F32(-np.inf), y)
    return np.where(x == 0, x, y)


@_function
def softplus(x):
    return np.where(x > 20, x, _log1p_inside(exp(x)))


# 5.4


@_function
def sigmoid(x):
    return ONE / (ONE + exp(neg(x)))


@_function
def silu(x):
    return x / (ONE + exp(neg(x)))


@_function
def relu2(x):
    r = maximum(x, F32(0))
    return r * r


@_function
def rsqrt(x):
    return ONE / np.sqrt(x)


# 5.5

TANH = _table("BBC143BB 3CAA61E1 BD5C4D5D 3E0884DF BEAAAA9F")
C1H, C1L, C3H, C3L = _table("3FCC422A B342BC9B 3D922279 3124D8B5")


@_function
def tanh(x):
    a = magnitude(x)
    s = a * a
    near = fma(poly(s, TANH), a * s, a)
    far = ONE - F32(2) / (exp(a + a) + ONE)
    return with_sign(np.where(a < const("3F19999A"), near, far), x)


@_function
def gelu_tanh(x):
    x = np.where(x < -14, F32(-14), x)
    z = np.where(x > 14, F32(14), x)
    q = z * z
    ql = fma(z, z, neg(q))
    t = C3H * q
    tl = fma(C3H, q, neg(t))
    tl = fma(C3H, ql, tl)
    tl = fma(C3L, q, tl)
    s = C1H + t
    b = s - C1H
    sl = (C1H - (s - b)) + (t - b)
    sl = sl + (tl + C1L)
    y = neg(z)
    w = y * s
    wl = fma(y, s, neg(w))
    wl = fma(y, sl, wl)
    return x / (ONE + _exp_sum(w, wl))


# 5.6

ERF_NEAR = _table("38A7C722 BA530936 3BAA2554 BCDC0090 3DE716B2 BEC093A0 3E0375D4")
ERF_FAR = _table("37477199 B9ACB335 3B707A08 BCC32097 3DD9B5B0 3F22969F 3E03BF0F")
GELU_NEAR = _table("38CE33ED BA9A1078 3C235897 BD882BDB 3ECC4229")
GELU_FAR = _table("389BA3F9 B8B5D8D9 BA8F160C B99FA63E 3BE59A73 BA1D16ED BD535837 3E0BD1B7 BE1FD5A9 3C5AB62B 3F59C0C4")


@_function
def erf(x):
    a = magnitude(x)
    near = fma(poly(a * a, ERF_NEAR), a, a)
    t = np.where(a < 4, a, F32(4))
    far = ONE - exp(neg(fma(poly(t, ERF_FAR), t, t)))
    return with_sign(np.where(a < F32(0.9375), near, far), x)


@_function
def gelu_erf(x):
    a = magnitude(x)
    near = x * fma(x, poly(x * x, GELU_NEAR), F32(0.5))
    z = np.where(a < 14, a, F32(14))
    h = z * F32(-0.5)
    w = h * z
    e = _exp_sum(w, fma(h, z, neg(w)))
    q = (z - F32(3)) / (z + F32(3))
    g = ((z * e) * poly(q, GELU_FAR)) / fma(z, F32(2), ONE)
    far = np.where(x < 0, neg(g), x - g)
    return np.where(a < F32(0.75), near, far)


# 5.7, one value at a time in Python's own binary64


def _double(pattern):
    return struct.unpack(">d", bytes.fromhex(pattern))[0]


F = [1.0 / math.factorial(n) for n in range(19)]
A = [2.0 / (2 * k + 1) for k in range(12)]
LN2_64, LN2_HI_64, LN2_LO_64 = _double("3FE62E42FEFA39EF"), _double("3FE62E42FEF00000"), _double("3DD473DE6AF278ED")
LOG2_E_64, SQRT2_64 = _double("3FF71547652B82FE"), _double("3FF6A09E667F3BCD")
PI_4, PI_2S = _double("3FE921FB54442D18"), _double("37F921FB54442D18")
ROUND64 = 6755399441055744.0
T = int(
    "A2F9836E4E441529 FC2757D1F534DDC0 DB6295993C439041 FE5163ABDEBBC561 B7246E3A424DD2E0 06492EEA09D1921C"
    "FE1DEB1CB129A73E E88235F52EBB4484 E99C7026B45F7E41 3991D639835339F4 9C845F8BBDF9283B 1FF897FFDE05980F"
    "EF2F118B5A0A6D1F 6D367ECF27CB09B7 4F463F669E5FEA2D 7527BAC7EBE5F17B 3D0739F78A5292EA 6BFB5FB11F8D5D08".replace(" ", ""),
    16,
)
M128 = (1 << 128) - 1


def _reduce64(x):
    if x < PI_4:
        return 0, x
    pattern = struct.unpack("<q", struct.pack("<d", x))[0]
    e = (pattern >> 52) - 1075
    m = pattern & ((1 << 52) - 1) | 1 << 52
    g = (T << (e + 126) >> 1152) & M128
    p = m * g & M128
    quadrant = (p + (1 << 125) >> 126) & 3
    d = p << 2 & M128
    if d >> 127:
        d -= 1 << 128
    return quadrant, float(d) * PI_2S


def _sin_series(r):
    z = r * r
    q = F[17]
    for n in (15, 13, 11, 9, 7, 5, 3):
        q = F[n] - q * z
    return r - (r * z) * q


def _cos_series(r):
    z = r * r
    q = F[18]
    for n in (16, 14, 12, 10, 8, 6, 4):
        q = F[n] - q * z
    return (1 - 0.5 * z) + (z * z) * q


def _quarter(k, r):
    """The four cases on arrays."""
    k = k & 3
    y = np.where((k & 1) == 0, _sin_series(r), _cos_series(r))
    return np.where(k >= 2, -y, y)


TWO_PI = _double("401921FB54442D18")


def _sin_cos64(x, shift):
    wide = np.asarray(x, F64).ravel()
    k, r = np.zeros(wide.size, np.int64), np.abs(wide)
    finite = np.isfinite(r)
    for i in np.nonzero(finite & (r >= PI_4))[0]:
        k[i], r[i] = _reduce64(float(r[i]))
    y = _quarter(k + shift, r)
    if shift == 0:
        y = np.where(np.signbit(wide), -y, y)
    return np.where(finite, y, np.nan).reshape(np.shape(x))


def sin64(x):
    return _sin_cos64(x, 0)


def cos64(x):
    return _sin_cos64(x, 1)


def sin(x):
    return canonical(sin64(f32(x)).astype(F32))


def cos(x):
    return canonical(cos64(f32(x)).astype(F32))


def _exp_series(r):
    q = F[14]
    for n in range(13, -1, -1):
        q = q * r + F[n]
    return q


def _scale(p, n):
    n = int(n)
    h = n // 2
    return (p * math.ldexp(1.0, h)) * math.ldexp(1.0, n - h)


def _split(x):
    e0 = 0
    if x < 2.0**-1022:
        x, e0 = x * 2.0**54, 54
    m, n = math.frexp(x)
    m, n = m * 2, n - 1
    if m >= SQRT2_64:
        m, n = m * 0.5, n + 1
    n -= e0
    s = (m - 1) / (m + 1)
    z = s * s
    q = A[11]
    for k in range(10, -1, -1):
        q = q * z + A[k]
    return float(n), s * q


def exp64(x):
    if math.isnan(x):
        return x
    x = min(max(x, -800.0), 800.0)
    n = (x * LOG2_E_64 + ROUND64) - ROUND64
    return _scale(_exp_series((x - n * LN2_HI_64) - n * LN2_LO_64), n)


def log64(x):
    if math.isnan(x) or x < 0:
        return math.nan
    if x == 0:
        return -math.inf
    if x == math.inf:
        return x
    n, series = _split(x)
    return n * LN2_HI_64 + (n * LN2_LO_64 + series)


def _power(x, y):
    n, series = _split(x)
    t = min(max(y * (n + series * LOG2_E_64), -1200.0), 1200.0)
    k = (t + ROUND64) - ROUND64
    return _scale(_exp_series((t - k) * LN2_64), k)


def pow64(x, y):
    if y == 0 or x == 1:
        return 1.0
    if math.isnan(x) or math.isnan(y):
        return math.nan
    a = abs(x)
    if a == 1:
        size = 1.0
    elif math.isinf(y) or a == 0 or math.isinf(a):
        size = math.inf if (a > 1) == (y > 0) else 0.0
    else:
        size = _power(a, y)
    if math.copysign(1.0, x) > 0:
        return size
    integer = math.isinf(y) or y == math.floor(y)
    if integer and abs(y) < 2.0**53 and int(y) % 2:
        return -size
    if integer or a == 0 or math.isinf(a):
        return size
    return math.nan


def pow(x, y):
    x, y = np.broadcast_arrays(f32(x), f32(y))
    out = np.array([pow64(float(a), float(b)) for a, b in zip(x.ravel(), y.ravel())], F64)
    return canonical(out.astype(F32).reshape(x.shape))
