"""Runs an ONNX graph by PyTorch's own operators: enough of them for a published U-Net."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch.nn import functional

Operator = Callable[..., Any]


def split(x: torch.Tensor, sizes: torch.Tensor | None = None, *, axis: int = 0, num_outputs: int = 0) -> Any:
    parts = sizes.tolist() if sizes is not None else math.ceil(x.shape[axis] / num_outputs)
    return torch.split(x, parts, axis)


def reshape(x: torch.Tensor, shape: torch.Tensor, *, allowzero: int = 0) -> torch.Tensor:
    sizes = shape.tolist()
    if not allowzero:
        sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
    return x.reshape(sizes)


def shape(x: torch.Tensor, *, start: int = 0, end: int | None = None) -> torch.Tensor:
    return torch.tensor(x.shape[start:end])


def squeeze(x: torch.Tensor, axes: torch.Tensor | None = None) -> torch.Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(axes.tolist()))


def unsqueeze(x: torch.Tensor, axes: torch.Tensor) -> torch.Tensor:
    for axis in sorted(axes.tolist()):
        x = x.unsqueeze(axis)
    return x


def gemm(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, **attributes: float) -> torch.Tensor:
    assert (attributes.get("transA", 0), attributes.get("transB", 0)) == (0, 1)
    assert attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0
    return functional.linear(a, b, c)


def conv(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, **attributes: Any) -> torch.Tensor:
    pads = attributes.get("pads", [0] * 2 * (x.ndim - 2))
    half = len(pads) // 2
    assert pads[:half] == pads[half:]
    convolve = {3: functional.conv1d, 4: functional.conv2d}[x.ndim]
    return convolve(
        x,
        weight,
        bias,
        stride=attributes.get("strides", 1),
        padding=pads[:half],
        dilation=attributes.get("dilations", 1),
        groups=attributes.get("group", 1),
    )


def instance_norm(x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, *, epsilon: float) -> torch.Tensor:
    return functional.group_norm(x, x.shape[1], scale, bias, epsilon)


def average_pool(x: torch.Tensor, *, kernel_shape: list[int], strides: list[int], **_: Any) -> torch.Tensor:
    return functional.avg_pool2d(x, kernel_shape, strides)


def resize(x: torch.Tensor, _roi: None, scales: torch.Tensor, *, mode: str, **_: Any) -> torch.Tensor:
    assert mode == "nearest"
    return functional.interpolate(x, scale_factor=tuple(scales.tolist()[2:]), mode="nearest")


OPERATORS: dict[str, Operator] = {
    "Add": torch.add,
    "AveragePool": average_pool,
    "Clip": lambda x, low=None, high=None: torch.clamp(x, low, high),
    "Concat": lambda *parts, axis: torch.cat(parts, axis),
    "Conv": conv,
    "Cos": torch.cos,
    "Div": torch.div,
    "Einsum": lambda *operands, equation: torch.einsum(equation, *operands),
    "Gemm": gemm,
    "InstanceNormalization": instance_norm,
    "Log": torch.log,
    "Mul": torch.mul,
    "Pow": lambda x, exponent: torch.pow(x, exponent.item()),
    "Reciprocal": torch.reciprocal,
    "Reshape": reshape,
    "Resize": resize,
    "Shape": shape,
    "Sigmoid": torch.sigmoid,
    "Sin": torch.sin,
    "Softmax": lambda x, axis=-1: torch.softmax(x, axis),
    "Split": split,
    "Sqrt": torch.sqrt,
    "Squeeze": squeeze,
    "Sub": torch.sub,
    "Unsqueeze": unsqueeze,
}


class Graph:
    """A model file, ready to be called with tensors by name."""

    def __init__(self, path: Path) -> None:
        graph = onnx.load(path).graph
        self.outputs = [output.name for output in graph.output]
        self.constants = {
            entry.name: torch.from_numpy(numpy_helper.to_array(entry).copy()) for entry in graph.initializer
        }
        # Weights are parameters, as in a module: what packs them may keep them.
        for name, value in self.constants.items():
            if value.is_floating_point() and value.ndim > 1:
                self.constants[name] = torch.nn.Parameter(value, requires_grad=False)
        self.nodes = [
            (
                OPERATORS[node.op_type],
                list(node.input),
                list(node.output),
                {attribute.name: _plain(attribute) for attribute in node.attribute},
            )
            for node in graph.node
        ]

    def __call__(self, **inputs: torch.Tensor) -> torch.Tensor:
        values: dict[str, Any] = {**self.constants, **inputs, "": None}
        for operator, names, outputs, attributes in self.nodes:
            result = operator(*(values[name] for name in names), **attributes)
            values.update(zip(outputs, result if isinstance(result, (tuple, list)) else [result], strict=True))
        [output] = self.outputs
        return values[output]


def _plain(attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    return value if isinstance(value, (int, float)) else list(value)
