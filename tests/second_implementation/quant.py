"""Section 2: E4M3, E2M1 and NVFP4 blocks, by looking for the nearest of all values."""

import numpy as np

from .arith import F32, F64, canonical, f32, maximum, minimum


def _values(exponents, fractions, bias):
    """The values of the non-negative codes, ascending."""
    codes = [(e, m / fractions) for e in range(exponents) for m in range(fractions)]
    return np.array([(m if e == 0 else 1 + m) * 2.0 ** (max(e, 1) - bias) for e, m in codes])


E4M3 = _values(16, 8, 7)[:127]
E2M1 = _values(4, 2, 1)


def _nearest(x, values):
    """The code of the value nearest to |x|, ties to the even code, infinity to the last. The middles are exact in binary64."""
    a = np.abs(f32(x).astype(F64))
    middles = (values[1:] + values[:-1]) / 2
    below = np.searchsorted(middles, a, side="left")                   # a middle itself counts down
    above = np.searchsorted(middles, a, side="right")                  # and here up
    return np.where(below % 2 == 0, below, above).astype(np.uint8)


def e4m3(x):
    x = f32(x)
    code = _nearest(x, E4M3) | np.where(np.signbit(x), 0x80, 0).astype(np.uint8)
    return np.where(np.isnan(x), np.uint8(0x7F), code)


def e4m3_value(code):
    code = np.asarray(code, np.uint8)
    a = np.append(E4M3, np.nan)[code & 0x7F]
    return canonical(np.where(code & 0x80, -a, a).astype(F32))


def e2m1(x):
    x = f32(x)
    code = _nearest(x, E2M1) | np.where(x < 0, 8, 0).astype(np.uint8)
    return np.where(np.isnan(x), np.uint8(0), code)


def e2m1_value(code):
    code = np.asarray(code, np.uint8)
    a = E2M1[code & 7]
    return np.where(code & 8, -a, a).astype(F32)


def amax(x):
    """The largest magnitude of the last axis; NaN if an element is."""
    x = np.abs(f32(x))
    return np.where(np.isnan(x).any(axis=-1), F32(np.nan), x.max(axis=-1))


def weight_scale(most):
    scale = F32(most) / F32(2688)
    return scale if scale != 0 else F32(1)


def _block(x, exact, divisor_of):
    exact = np.where(exact == 0, F32(1), exact)
    scale = e4m3(minimum(maximum(exact, F32(2.0**-9)), F32(448)))
    return scale, e2m1(x / divisor_of(e4m3_value(scale))[..., None])


def nvfp4_weights(x, tensor_scale):
    """Block scales [...] and codes [..., 16] of x [..., 16]."""
    return _block(x, amax(x) / (F32(6) * tensor_scale), lambda scale: scale * tensor_scale)


def nvfp4_kv(x):
    return _block(x, amax(x) / F32(6), lambda scale: scale)


def nvfp4_values(scale, codes):
    """Without the tensor scale; exact."""
    return canonical(e2m1_value(codes) * e4m3_value(scale)[..., None])


def unpack(pairs):
    """The values of codes that share bytes."""
    return e2m1_value(np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(*pairs.shape[:-1], -1))


def pack(codes):
    """Two codes a byte, the even one in the low half."""
    return codes[..., 0::2] | codes[..., 1::2] << 4


def kitchen_nvfp4(x, scale):
    """Section 2.2: block scales [R, C / 16] and codes [R, C] of finite x [R, C]; no part of the contract's operators."""
    blocks = f32(x).reshape(len(x), -1, 16)
    scales = e4m3(amax(blocks) / F32(6) / F32(scale))
    divisor = (F32(scale) * e4m3_value(scales))[..., None]
    codes = e2m1(np.abs(blocks / np.where(divisor == 0, F32(1), divisor))) | np.where(np.signbit(blocks), 8, 0).astype(np.uint8)
    codes = np.where(divisor == 0, np.uint8(0), codes).reshape(x.shape)
    return scales, codes


def kitchen_nvfp4_values(scales, codes, scale, rounded):
    t = rounded(rounded(F32(scale)) * e4m3_value(scales))
    return rounded(e2m1_value(codes).reshape(*scales.shape, 16) * t[..., None]).reshape(codes.shape)


def kitchen_e4m3(x, scale, rounded):
    return e4m3(rounded(f32(x) * rounded(F32(1) / F32(scale))))


def kitchen_e4m3_values(codes, scale, rounded):
    return rounded(e4m3_value(codes) * rounded(F32(scale)))


def kitchen_place(row, column, columns):
    """Byte of the scale of a row and a column of blocks, of so many columns."""
    tile = row // 128 * -(-columns // 4) + column // 4
    return 512 * tile + 16 * (row % 32) + 4 * (row % 128 // 32) + column % 4
