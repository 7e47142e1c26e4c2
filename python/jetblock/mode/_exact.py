"""Operators that PyTorch may compute: each result is one rounding of a stated formula, or none at all.

`tests/python/test_exact.py` tries them: against NumPy, at every offset in a vector register, on one thread and on two.
Their bits depend on no other element, so no batch, thread count or instruction set can show. Only the payload of a NaN
is not promised: PyTorch keeps the processor's.

bf16 and f16 are computed in f32 and rounded once by each operator.

Not here, though one would think so: `sqrt`, which Intel's MKL rounds to a neighbour one time in six on AMD's
processors; `maximum`, `minimum`, `amax`, `amin` and `clamp` to tensors, whose zero has the sign that its place in a
vector register gives it.
"""

MOVES = frozenset(
    "aten." + name
    for name in """
    _assert_async _assert_scalar _assert_tensor_metadata _conj _local_scalar_dense _reshape_alias _reshape_copy
    _shape_as_tensor _to_copy _unsafe_index _unsafe_view adjoint alias alias_copy as_strided as_strided_ atleast_1d
    atleast_2d atleast_3d block_diag broadcast_tensors broadcast_to cat channel_shuffle chunk clone column_stack
    combinations complex concat concatenate constant_pad_nd contiguous copy copy_ detach detach_ diag diag_embed
    diagonal diagonal_copy diagonal_scatter dsplit dstack embedding empty empty_like empty_permuted empty_strided
    expand expand_as expand_copy eye fill fill_ flatten flip fliplr flipud full full_like gather hsplit hstack imag
    index index_copy index_copy_ index_fill index_fill_ index_select is_nonzero is_pinned is_same_size item lift
    lift_fresh lift_fresh_copy mH mT masked_fill masked_fill_ masked_scatter masked_scatter_ masked_select matrix_H
    meshgrid moveaxis movedim narrow narrow_copy new_empty new_empty_strided new_full new_ones new_zeros nonzero
    nonzero_numpy numpy_T one_hot ones ones_like permute permute_copy pixel_shuffle pixel_unshuffle real
    reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave replication_pad1d replication_pad2d
    replication_pad3d reshape reshape_as resize resize_ resize_as_ resolve_conj resolve_neg roll rot90 row_stack
    scalar_tensor select select_copy select_scatter set_ slice slice_copy slice_scatter split split_with_sizes
    split_with_sizes_copy split_copy squeeze squeeze_ squeeze_copy stack swapaxes swapdims sym_numel sym_size
    sym_storage_offset sym_stride t t_ t_copy take take_along_dim tensor_split tile to transpose transpose_
    transpose_copy tril tril_ tril_indices triu triu_ triu_indices type_as unbind unbind_copy unflatten unfold
    unfold_copy unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze unsqueeze_ unsqueeze_copy
    upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d view view_as view_as_complex view_as_real view_copy vsplit vstack where zero zero_
    zeros zeros_like
    """.split()  # noqa: SIM905 (a list would be as many lines)
)
"""Views, copies, indexing, conversions (to a narrower type: one rounding), constants. Of any dtype."""

ARITHMETIC = frozenset(
    "aten." + name
    for name in """
    __and__ __iand__ __ilshift__ __ior__ __irshift__ __ixor__ __lshift__ __or__ __rshift__ __xor__ _is_all_true
    _is_any_true _unique2 abs absolute add all allclose any argmax argmin bincount bitwise_and
    bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor bucketize ceil clamp clamp_max
    clamp_min clip copysign count_nonzero cummax cummin div divide eq equal fix floor frac ge greater
    greater_equal gt hardtanh heaviside isfinite isin isinf isnan isneginf isposinf le leaky_relu less less_equal
    logical_and logical_not logical_or logical_xor lt max max_pool1d max_pool2d max_pool2d_with_indices
    max_pool3d max_pool3d_with_indices adaptive_max_pool2d min mul multiply nan_to_num ne neg negative
    not_equal positive reciprocal relu relu6 round rsub searchsorted sgn sign signbit sub subtract threshold
    true_divide trunc unique_consecutive unique_dim
    """.split()  # noqa: SIM905 (a list would be as many lines)
)
"""One correctly rounded operation on an element, comparisons, choices, integers. Of real numbers."""

INTEGERS = frozenset({"aten.floor_divide", "aten.fmod", "aten.remainder"})
"""Of integers alone."""
