"""Keys and values in 4 bits, as a cache of transformers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache
from transformers.cache_utils import BaseQuantizedLayer, DynamicLayer

from jetblock import nvfp4
from jetblock._errors import ArgumentError


class NVFP4Quantizer(DynamicCache):
    """A cache whose keys and values are NVFP4: 4 bits an element, an E4M3 scale for 16 along the head.

    (NUMERICS.md, section 2.1.)

    A token's codes are made from that token alone, so it does not matter in which calls tokens come. A layer is decoded
    when it is read, one at a time. Pass it as `past_key_values`; states of Mamba-2 layers are f32 as ever.

    Args:
        config: The model's, `model.config`.
    """

    def __init__(self, config: Any = None) -> None:
        super().__init__(config=config)
        if config is None:
            self.layer_class_to_replicate = NVFP4CacheLayer
        quantize_layers(self)

    quantize = staticmethod(nvfp4.quantize)
    dequantize = staticmethod(nvfp4.dequantize)

    def memory(self) -> dict[str, int | float]:
        """`tokens` of the attention layers and the `bytes` that their keys and values take.

        `bf16_bytes` is what they would take in bf16, `share` the one over the other, 0.28125.
        """
        layers = [layer for layer in self.layers if isinstance(layer, NVFP4CacheLayer)]
        stored = sum(tensor.nbytes for layer in layers for tensor in layer.stored())
        # A block of 16 takes 9 bytes.
        bf16 = stored * 32 // 9
        tokens = max((layer.get_seq_length() for layer in layers), default=0)
        return {"tokens": tokens, "bytes": stored, "bf16_bytes": bf16, "share": stored / bf16 if bf16 else 0.0}


Quantized = tuple[torch.Tensor, torch.Tensor]


class NVFP4CacheLayer(BaseQuantizedLayer):  # type: ignore[no-untyped-call]
    """Keys and values of one attention layer, as codes and scales `[B, HK, S, ..]`."""

    _quantized_keys: Quantized | None
    _quantized_values: Quantized | None

    def stored(self) -> tuple[torch.Tensor, ...]:
        """Codes and scales of the keys, then of the values."""
        return (*(self._quantized_keys or ()), *(self._quantized_values or ()))

    def _quantize(self, tensor: torch.Tensor) -> Quantized:
        return NVFP4Quantizer.quantize(tensor)

    def _dequantize(self, q_tensor: Quantized) -> torch.Tensor:
        return NVFP4Quantizer.dequantize(*q_tensor, self.dtype)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keeps new keys and values `[B, HK, T, K]`; returns what all kept ones decode to, the new ones too."""
        keys, values = self._quantize(key_states), self._quantize(value_states)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values = _join(self._quantized_keys, keys), _join(self._quantized_values, values)
        self._quantized_keys, self._quantized_values = keys, values
        self.cumulative_length = keys[0].shape[-2]
        return self._dequantize(keys), self._dequantize(values)

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        if self._quantized_keys and self._quantized_values:
            (keys, key_scales), (values, value_scales) = self._quantized_keys, self._quantized_values
            self._quantized_keys = change(keys), change(key_scales)
            self._quantized_values = change(values), change(value_scales)
            self.cumulative_length = self._quantized_keys[0].shape[-2]

    def crop(self, tokens_to_remove: int) -> None:
        """Removes the last tokens; their number is negative, as transformers gives it."""
        if tokens_to_remove > 0:
            raise ArgumentError(f"crop({tokens_to_remove}): expected the negative number of tokens to remove")
        if tokens_to_remove:
            self._map(lambda tensor: tensor[..., :tokens_to_remove, :])

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Takes the rows of chosen beams."""
        self._map(lambda tensor: tensor.index_select(0, beam_idx))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats each row."""
        self._map(lambda tensor: tensor.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps some rows."""
        self._map(lambda tensor: tensor[indices])

    def offload(self) -> None:
        """The codes are on the CPU already."""

    def prefetch(self) -> None:
        """As `offload`."""


def _join(old: Quantized | None, new: Quantized) -> Quantized:
    """One after the other along the tokens."""
    return new if old is None else (torch.cat([old[0], new[0]], dim=-2), torch.cat([old[1], new[1]], dim=-2))


def quantize_layers(cache: Any) -> None:
    """Makes the attention layers of an empty cache NVFP4."""
    for i, layer in enumerate(cache.layers):
        if isinstance(layer, NVFP4CacheLayer) or not isinstance(layer, DynamicLayer):
            continue
        if type(layer) is not DynamicLayer:
            raise ArgumentError(f"nvfp4: layer {i} of the cache is a {type(layer).__name__}, expected plain attention")
        if layer.get_seq_length():
            raise ArgumentError(f"nvfp4: layer {i} of the cache holds tokens in another form, expected an empty cache")
        cache.layers[i] = NVFP4CacheLayer()  # type: ignore[no-untyped-call]


class QuantizedKVModel(nn.Module):
    """A base model whose keys and values are NVFP4 in every call, also where the caller wants no cache back."""

    config: Any

    def forward(self, *args: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
        """The model's own, with a cache that quantizes."""
        if past_key_values is None:
            past_key_values = NVFP4Quantizer(config=self.config)
        elif type(past_key_values) is DynamicCache:
            quantize_layers(past_key_values)
            if not past_key_values.layers:
                past_key_values.layer_class_to_replicate = NVFP4CacheLayer
        elif not isinstance(past_key_values, NVFP4Quantizer):
            name = type(past_key_values).__name__
            raise ArgumentError(f"nvfp4: past_key_values is a {name}, expected a DynamicCache or NVFP4Quantizer")
        return super().forward(*args, past_key_values=past_key_values, **kwargs)
