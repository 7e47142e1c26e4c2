"""NVFP4 and FP8 of comfy-kitchen, the kernel library of ComfyUI, on the CPU: the bits of its eager functions, faster.

    from jetblock import kitchen
    kitchen.register()          # from now on comfy_kitchen.quantize_nvfp4(x, scale) is JetBlock's where x is on the CPU

What JetBlock does not compute goes to comfy-kitchen's eager functions: other devices and dtypes, FP8 E5M2, values that
are not finite, tensors with gaps, keywords of newer versions that are not at their defaults (NUMERICS.md, section 2.2).
"""

import inspect
import math
import sys
from typing import Any

import torch

from jetblock import _core

BACKEND = "jetblock"
FUNCTIONS = ("quantize_nvfp4", "dequantize_nvfp4", "quantize_per_tensor_fp8", "dequantize_per_tensor_fp8")
FLOATS = frozenset({torch.float32, torch.float16, torch.bfloat16})
E4M3 = torch.float8_e4m3fn


def register() -> None:
    """Makes JetBlock a backend of comfy-kitchen, asked just before its eager one."""
    from comfy_kitchen.constraints import ExactDims, FunctionConstraints, ParamConstraint  # noqa: PLC0415
    from comfy_kitchen.registry import registry  # noqa: PLC0415

    def constraints(**parameters: Any) -> Any:
        return FunctionConstraints(params=parameters, default_devices=frozenset({"cpu"}))

    matrix = (ExactDims(2),)
    scale = ParamConstraint(dtypes=frozenset({torch.float32}))
    floats, codes = ParamConstraint(dtypes=FLOATS), ParamConstraint(dtypes=frozenset({E4M3}))
    registry.register(
        BACKEND,
        sys.modules[__name__],
        {
            "quantize_nvfp4": constraints(x=ParamConstraint(dtypes=FLOATS, shape_rules=matrix), per_tensor_scale=scale),
            "dequantize_nvfp4": constraints(
                qx=ParamConstraint(dtypes=frozenset({torch.uint8}), shape_rules=matrix),
                per_tensor_scale=scale,
                block_scales=codes,
                output_type=floats,
            ),
            "quantize_per_tensor_fp8": constraints(x=floats, scale=scale, output_type=codes),
            "dequantize_per_tensor_fp8": constraints(x=codes, scale=scale, output_type=floats),
        },
    )
    # There is a setter alone.
    order = [name for name in registry._priority if name != BACKEND]  # noqa: SLF001
    at = order.index("eager") if "eager" in order else len(order)
    registry.set_priority([*order[:at], BACKEND, *order[at:]])


def is_registered() -> bool:
    """Whether comfy-kitchen is loaded and has JetBlock as a backend."""
    module = sys.modules.get("comfy_kitchen.registry")
    return module is not None and bool(module.registry.is_available(BACKEND))


def quantize_nvfp4(
    x: torch.Tensor,
    per_tensor_scale: torch.Tensor,
    epsilon: float = 0.0,
    pad_16x: bool = False,  # noqa: FBT001, FBT002 (comfy-kitchen's order)
    hi_first: bool = True,  # noqa: FBT001, FBT002
    **more: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`x [R, C]` to codes `[R, C / 2]` and block scales in tiles, `[R up to 128, C / 16 up to 4]`."""
    name = "quantize_nvfp4"
    scale = _number(per_tensor_scale)
    if scale is not None and scale > 0 and epsilon == 0 and _are_defaults(name, more):
        rows, columns = x.shape
        padding = (0, -columns % 16, 0, -rows % 16) if pad_16x else (0, 0, 0, 0)
        padded = torch.nn.functional.pad(x, padding) if any(padding) else x.contiguous()
        rows, columns = padded.shape
        codes = torch.empty(rows, columns // 2, dtype=torch.uint8)
        scales = torch.zeros(rows + -rows % 128, columns // 16 + -(columns // 16) % 4, dtype=torch.uint8)
        if columns % 16 == 0 and _core.quantize_nvfp4(padded.detach(), scale, hi_first, codes, scales):
            return codes, scales.view(E4M3)
    arguments = (x, per_tensor_scale, epsilon, pad_16x, hi_first)
    codes, scales = _eager(name)(*arguments, **more)
    return codes, scales


def dequantize_nvfp4(
    qx: torch.Tensor,
    per_tensor_scale: torch.Tensor,
    block_scales: torch.Tensor,
    output_type: torch.dtype = torch.bfloat16,
    hi_first: bool = True,  # noqa: FBT001, FBT002
    **more: Any,
) -> torch.Tensor:
    """The matrix `[R, C]` of codes and block scales."""
    name = "dequantize_nvfp4"
    scale = _number(per_tensor_scale)
    rows, columns = qx.shape[0], 2 * qx.shape[1]
    size = (rows + -rows % 128) * (columns // 16 + -(columns // 16) % 4)
    if scale is not None and columns % 16 == 0 and block_scales.numel() == size and _are_defaults(name, more):
        out = torch.empty(rows, columns, dtype=output_type)
        scales = block_scales.view(torch.uint8)
        if _core.dequantize_nvfp4(qx, scale, scales, hi_first, out):
            return out
    result: torch.Tensor = _eager(name)(qx, per_tensor_scale, block_scales, output_type, hi_first, **more)
    return result


def quantize_per_tensor_fp8(
    x: torch.Tensor, scale: torch.Tensor, output_type: torch.dtype = E4M3, **more: Any
) -> torch.Tensor:
    """E4M3 of `x / scale`, any shape."""
    name = "quantize_per_tensor_fp8"
    factor = _number((1.0 / scale).to(x.dtype))
    if factor is not None and _is_plain(x, scale) and _are_defaults(name, more):
        out = torch.empty(x.shape, dtype=torch.uint8)
        if _core.quantize_e4m3(x.detach(), factor, out):
            return out.view(E4M3)
    result: torch.Tensor = _eager(name)(x, scale, output_type, **more)
    return result


def dequantize_per_tensor_fp8(
    x: torch.Tensor, scale: torch.Tensor, output_type: torch.dtype = torch.bfloat16, **more: Any
) -> torch.Tensor:
    """E4M3 codes times their scale, any shape."""
    name = "dequantize_per_tensor_fp8"
    factor = _number(scale.to(output_type))
    if factor is not None and _is_plain(x, scale) and _are_defaults(name, more):
        out = torch.empty(x.shape, dtype=output_type)
        if _core.dequantize_e4m3(x, factor, out):
            return out
    result: torch.Tensor = _eager(name)(x, scale, output_type, **more)
    return result


def _number(scale: torch.Tensor) -> float | None:
    """The value of a scale that is one finite number."""
    value = float(scale) if scale.numel() == 1 else math.nan
    return value if math.isfinite(value) else None


def _is_plain(x: torch.Tensor, scale: torch.Tensor) -> bool:
    """Whether the result is contiguous, as the eager function's then is, and has the shape of x."""
    return x.is_contiguous() and scale.ndim <= x.ndim


def _are_defaults(name: str, more: dict[str, Any]) -> bool:
    """Whether keywords that JetBlock does not know ask for nothing."""
    known = inspect.signature(_eager(name)).parameters
    return all(key in known and known[key].default == value for key, value in more.items())


def _eager(name: str) -> Any:
    from comfy_kitchen.backends import eager  # noqa: PLC0415

    return getattr(eager, name)
