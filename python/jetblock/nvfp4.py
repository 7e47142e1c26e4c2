"""NVFP4 of tensors: 4 bits an element, an E4M3 scale for 16 along the last dimension (NUMERICS.md, section 2.1).

A block's codes are made from that block alone, so no element depends on the batch that it comes in.
"""

import torch

from jetblock._errors import ArgumentError

BLOCK = 16
# Values of the codes 0 to 15.
E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])


def quantize(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes, two in a byte with the even element in the low half, and the E4M3 scales of blocks.

    Args:
        x: `[.., K]`, K a multiple of 16.

    Returns:
        uint8 `[.., K / 2]` and uint8 `[.., K / 16]`.

    >>> codes, scales = quantize(torch.tensor([6.0, -3.0] + [0.0] * 14))
    >>> [f"{int(byte):02x}" for byte in codes[:2]], scales.view(torch.float8_e4m3fn).float().tolist()
    (['d7', '00'], [1.0])
    """
    if x.shape[-1] % BLOCK:
        raise ArgumentError(f"nvfp4: the last dimension has {x.shape[-1]} elements, expected a multiple of {BLOCK}")
    blocks = x.float().unflatten(-1, (-1, BLOCK))
    r = blocks.abs().amax(-1) / 6
    scales = torch.where(r == 0, 1.0, r).clamp(2.0**-9, 448.0).to(torch.float8_e4m3fn)
    # Either NaN has one code.
    scales = torch.where(r.isnan(), 0x7F, scales.view(torch.uint8))
    ratio = blocks / scales.view(torch.float8_e4m3fn).float()[..., None]
    size = ratio.abs()
    # Ties go to the even code.
    code = (size > 0.25).to(torch.uint8) + (size >= 0.75) + (size > 1.25) + (size >= 1.75)
    code = code + (size > 2.5) + (size >= 3.5) + (size > 5.0) + 8 * (ratio < 0).to(torch.uint8)
    code = code.to(torch.uint8).flatten(-2)
    return code[..., ::2] | code[..., 1::2] << 4, scales


def dequantize(codes: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The values of the codes, exact in f32 and bf16."""
    nibbles = torch.stack([codes & 15, codes >> 4], dim=-1).flatten(-2)
    values = E2M1[nibbles.long()].unflatten(-1, (-1, BLOCK))
    return (values * scales.view(torch.float8_e4m3fn).float()[..., None]).flatten(-2).to(dtype)
