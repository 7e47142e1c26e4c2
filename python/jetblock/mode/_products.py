"""Products of matrices, and what is made of them: linear layers, convolutions, attention."""

from collections.abc import Sequence

import torch

from jetblock import _core
from jetblock.mode._call import ON, check_floats, contract, is_kept, packed
from jetblock.mode._table import covers, refuse
from jetblock.ops._define import operand_kind

Number = int | float


def _product(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
    given: torch.Tensor | None = None,
) -> torch.Tensor:
    """`x [.., K] @ weight [N, K].T + bias [N]`, rounded to `dtype` at the end; `given` is what weight is a view of."""
    check_floats(x, weight, bias)
    given = weight if given is None else given
    n, k = weight.shape
    if not is_kept(given) and bias is None:
        return _batch(x.reshape(1, -1, k), weight.t()[None], dtype).view(*x.shape[:-1], n)
    out = torch.empty((*x.shape[:-1], n), dtype=dtype)
    kind = operand_kind(x, weight)
    matrix = packed(weight, kind, lambda weight: _core.PackedWeight(weight.contiguous(), kind), given)
    ON.run(_core.linear, x, matrix, bias, out)
    return out


def _batch(a: torch.Tensor, b: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`a [B, M, K] @ b [B, K, N]`, rounded to `dtype` at the end."""
    check_floats(a, b)
    out = torch.empty((a.shape[0], a.shape[1], b.shape[2]), dtype=dtype)
    if not b.transpose(1, 2).is_contiguous():
        b = b.contiguous()
    _core.matmul(a.contiguous(), b, operand_kind(a, b), out)
    return out


@covers("aten.linear.default")
def linear(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    if weight.dim() != 2:
        refuse(f"a weight of {weight.dim()} dimensions")
    return _product(input, weight, bias, input.dtype)


@covers("aten.mm.default")
def mm(self: torch.Tensor, mat2: torch.Tensor) -> torch.Tensor:
    return _product(self, mat2.t(), None, self.dtype, mat2)


@covers("aten.addmm.default")
def addmm(
    self: torch.Tensor, mat1: torch.Tensor, mat2: torch.Tensor, *, beta: Number = 1, alpha: Number = 1
) -> torch.Tensor:
    if beta == alpha == 1 and self.shape == mat2.shape[1:]:
        return _product(mat1, mat2.t(), self, mat1.dtype, mat2)
    return _scaled_sum(self, _product(mat1, mat2.t(), None, torch.float32, mat2), beta, alpha)


def _scaled_sum(addend: torch.Tensor, product: torch.Tensor, beta: Number, alpha: Number) -> torch.Tensor:
    """`beta * addend + alpha * product` in f32, where a factor of 1 does not multiply and a beta of 0 has no addend.

    In the memory of the product, which is the caller's no more.
    """
    check_floats(addend)
    if alpha != 1:
        product.mul_(alpha)
    if beta != 0:
        product.add_(addend.float() if beta == 1 else addend.float() * beta)
    return product.to(addend.dtype)


@covers("aten.mv.default")
def mv(self: torch.Tensor, vec: torch.Tensor) -> torch.Tensor:
    return _product(vec[None], self, None, self.dtype)[0]


@covers("aten.dot.default", "aten.vdot.default")
def dot(self: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    return _product(self[None], tensor[None], None, self.dtype)[0, 0]


@covers("aten.bmm.default")
def bmm(self: torch.Tensor, mat2: torch.Tensor) -> torch.Tensor:
    return _batch(self, mat2, self.dtype)


@covers("aten.baddbmm.default")
def baddbmm(
    self: torch.Tensor, batch1: torch.Tensor, batch2: torch.Tensor, *, beta: Number = 1, alpha: Number = 1
) -> torch.Tensor:
    return _scaled_sum(self, _batch(batch1, batch2, torch.float32), beta, alpha)


@covers("aten._grouped_mm.default")
def grouped_mm(
    self: torch.Tensor,
    mat2: torch.Tensor,
    offs: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Rows `offs[g - 1]` to `offs[g]` of `self [R, K]` by matrix g of `mat2 [G, K, N]`."""
    if self.dim() != 2 or mat2.dim() != 3 or offs is None or bias is not None:
        refuse("other shapes than [R, K] by [G, K, N], or a bias")
    out = torch.zeros((self.shape[0], mat2.shape[2]), dtype=out_dtype or self.dtype)
    start = 0
    for group, end in enumerate(offs.tolist()):
        if end > start:
            out[start:end] = _product(self[start:end], mat2[group].t(), None, out.dtype, mat2)
        start = end
    return out


def _named_padding(x: torch.Tensor, weight: torch.Tensor, padding: str, dilation: Sequence[int]) -> torch.Tensor:
    """`valid` is none; `same` is zeros around the input, the odd one at its end."""
    if padding == "valid":
        return x
    dims = weight.dim() - 2
    sides = []
    for axis in reversed(range(dims)):
        total = (dilation[axis] if len(dilation) > 1 else dilation[0]) * (weight.shape[2 + axis] - 1)
        sides += [total // 2, total - total // 2]
    return torch.nn.functional.pad(x, sides)


@covers(*(f"aten.conv{dims}d.{form}" for dims in (1, 2, 3) for form in ("default", "padding")))
def conv(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] | str = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> torch.Tensor:
    check_floats(input, weight, bias)
    if isinstance(padding, str):
        padded = _named_padding(input, weight, padding, dilation)
        return conv(padded, weight, bias, stride, (0,), dilation, groups)
    if input.dim() == weight.dim() - 1:
        return contract("conv", input[None], weight, bias, stride, padding, dilation, groups)[0]
    return contract("conv", input, weight, bias, stride, padding, dilation, groups)


@covers("aten.conv_transpose1d.default", "aten.conv_transpose2d.input", "aten.conv_transpose3d.input")
def conv_transpose(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    output_padding: Sequence[int] = (0,),
    groups: int = 1,
    dilation: Sequence[int] = (1,),
) -> torch.Tensor:
    check_floats(input, weight, bias)
    options = stride, padding, output_padding, groups, dilation
    if input.dim() == weight.dim() - 1:
        return contract("conv_transpose", input[None], weight, bias, *options)[0]
    return contract("conv_transpose", input, weight, bias, *options)


@covers("aten.convolution.default")
def convolution(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> torch.Tensor:
    if transposed:
        return conv_transpose(input, weight, bias, stride, padding, output_padding, groups, dilation)
    return conv(input, weight, bias, stride, padding, dilation, groups)


@covers("aten.scaled_dot_product_attention.default")
def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    if dropout_p:
        refuse(f"dropout_p={dropout_p}")
    check_floats(query, key, value)
    if not enable_gqa and query.dim() > 2 and query.shape[-3] != key.shape[-3]:
        raise ValueError(f"query has {query.shape[-3]} heads, key {key.shape[-3]}, expected the same or enable_gqa")
    batch = query.shape[:-3]
    q, k, v = (_rank4(tensor, batch) for tensor in (query, key, value))
    mask = None if attn_mask is None else _rank4(_one_of_equals(attn_mask), batch)
    y = contract("scaled_dot_product_attention", q, k, v, mask, is_causal, scale)
    return y.view(*query.shape[:-1], value.shape[-1])


def _one_of_equals(mask: torch.Tensor) -> torch.Tensor:
    """A mask that was expanded without a copy is not copied now either."""
    for axis, stride in enumerate(mask.stride()[:-1]):
        if stride == 0:
            mask = mask.narrow(axis, 0, 1)
    return mask


def _rank4(tensor: torch.Tensor, batch: torch.Size) -> torch.Tensor:
    """`[.., H, T, S]` with leading dimensions as one, each of 1 or as the batch."""
    if tensor.dim() < 4:
        return tensor.reshape(*[1] * (4 - tensor.dim()), *tensor.shape)
    lead = tensor.shape[:-3]
    if lead != batch and any(extent != 1 for extent in lead):
        tensor = tensor.expand(*batch, *tensor.shape[-3:])
    return tensor.flatten(0, -4)
