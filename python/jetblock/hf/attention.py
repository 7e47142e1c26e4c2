"""Attention over blocks of keys, as an attention implementation of transformers.

`FixedSplitAttention(256).name` is registered with `AttentionInterface`; `model.set_attn_implementation(name)` chooses
it for one model.
"""

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import causal_mask_function

from jetblock import ops
from jetblock._errors import ArgumentError
from jetblock.hf._padding import back, real_first


class FixedSplitAttention:
    """Causal attention with grouped queries over blocks of `split` keys at absolute positions (NUMERICS.md, section 8).

    A row with padding is computed from its real tokens alone: it has the bits it has without padding.

    Args:
        split: Keys in a block, 64, 128 or 256.
        precision: `model` or `float32`, as in `JetBlockConfig`.
    """

    def __init__(self, split: int = 256, precision: str = "model") -> None:
        if split not in (64, 128, 256):
            raise ArgumentError(f"attention_split is {split!r}, expected 64 or 128 or 256")
        if precision not in ("model", "float32"):
            raise ArgumentError(f"attention_precision is {precision!r}, expected 'model' or 'float32'")
        self.split = split
        self.precision = precision

    @property
    def name(self) -> str:
        """What transformers knows it by."""
        return f"jetblock_split_{self.split}" + ("_float32" if self.precision == "float32" else "")

    def register(self) -> str:
        """Adds it to transformers' lists under its name, which it returns. No model changes by that."""
        AttentionInterface.register(self.name, self)
        AttentionMaskInterface.register(self.name, key_mask)
        return self.name

    def __call__(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        """Called by a model's attention layers.

        Args:
            module: The layer.
            query: `[B, H, T, K]`.
            key: `[B, HK, S, K]`.
            value: As key.
            attention_mask: What `key_mask` made, `[B, S]` or fewer keys, or None where every key is real.
            scaling: Of the scores; `1 / sqrt(K)` where not given.
            dropout: 0.
            **kwargs: What else a layer says; what would change the result is refused.

        Returns:
            `[B, T, H, K]` and no weights.
        """
        _check(module, attention_mask, dropout, kwargs, key.shape[2])
        width = query.shape[-1]
        if scaling is not None and abs(scaling * width**0.5 - 1) > 1e-6:
            query = query * (scaling * width**0.5)
        # PyTorch puts them in order faster than the operator does.
        query, key, value = (array.transpose(1, 2).contiguous() for array in (query, key, value))
        if self.precision == "float32":
            dtype = query.dtype
            query, key, value = (array.float() for array in (query, key, value))
            return self._attend(query, key, value, attention_mask).to(dtype), None
        return self._attend(query, key, value, attention_mask), None

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        if mask is None:
            return ops.attention(query, key, value, split=self.split)
        keys = mask.shape[1]
        key, value = key[:, :keys], value[:, :keys]
        if bool(mask.all()):
            return ops.attention(query, key, value, split=self.split)
        asking = mask[:, keys - query.shape[1] :]
        past = mask.sum(1) - asking.sum(1)
        query, key, value = real_first(asking, query), real_first(mask, key), real_first(mask, value)
        out = torch.zeros_like(query)
        # Rows with equally many keys before their queries run together: what a shorter one lacks stands behind what it
        # has, where no query looks.
        for length in past[asking.any(1)].unique().tolist():
            rows = past == length
            queries = int(asking[rows].sum(1).max())
            own = (query[rows, :queries], *(array[rows, : length + queries] for array in (key, value)))
            out[rows, :queries] = ops.attention(*own, split=self.split)
        return back(asking, out)


def _check(
    module: torch.nn.Module, mask: torch.Tensor | None, dropout: float, kwargs: dict[str, Any], keys: int
) -> None:
    """Whatever the operator does not do is an error, not another result."""
    causal = kwargs.get("is_causal")
    if not (getattr(module, "is_causal", True) if causal is None else causal):
        raise ArgumentError("jetblock attention: the layer is not causal, expected a causal one")
    if dropout and module.training:
        raise ArgumentError(f"jetblock attention: dropout is {dropout}, expected 0: call model.eval()")
    if mask is not None and (mask.ndim != 2 or mask.dtype != torch.bool):
        raise ArgumentError(
            f"jetblock attention: attention_mask has shape {list(mask.shape)}, expected [B, S] as a tokenizer makes it"
        )
    window = kwargs.get("sliding_window")
    if window is not None and keys > window:
        raise ArgumentError(f"jetblock attention: {keys} keys exceed the sliding window of {window}")
    for name in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise ArgumentError(f"jetblock attention: the layer has {name}, expected none")


def key_mask(
    *,
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | torch.Tensor = 0,
    kv_offset: int = 0,
    mask_function: Any = causal_mask_function,
    attention_mask: torch.Tensor | None = None,
    local_size: int | None = None,
    **_: Any,
) -> torch.Tensor | None:
    """Which keys are real, `[B, S]` up to the last query; None where all are.

    Called by transformers' `create_causal_mask`. A cache of fixed length has keys behind the last query: they are cut.
    """
    if local_size == 0:
        # Qwen 2 MoE without windows makes a mask for a window of no keys, and uses it in no layer.
        return torch.zeros(batch_size, kv_length, dtype=torch.bool)
    if mask_function is not causal_mask_function:
        raise ArgumentError(
            "jetblock attention: the mask is not the plain causal one (packed sequences, a window or blocks), expected"
            " one sequence a row"
        )
    end = int(q_offset) + q_length - kv_offset
    if attention_mask is None:
        return None if end == kv_length else torch.ones(batch_size, end, dtype=torch.bool)
    real = attention_mask[:, -kv_length:].bool()[:, :end]
    if real.shape[1] < end:
        real = torch.nn.functional.pad(real, (0, end - real.shape[1]), value=True)
    return None if end == kv_length and bool(real.all()) else real
