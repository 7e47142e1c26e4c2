"""Rotary position embeddings."""

import torch
from torch import nn

from jetblock import ops
from jetblock.hf._swap import kept


class BatchInvariantRotaryEmbedding(nn.Module):
    """Cosines and sines of every position, from a table that a position's neighbours do not change.

    Angles are products in binary64 and the functions those of NUMERICS.md section 5.7. The frequencies are
    NUMERICS.md's where the model's are plain, else the model's own. It takes the place of a `..RotaryEmbedding`.
    """

    inv_freq: torch.Tensor
    attention_scaling: float

    @torch.no_grad()
    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`position_ids [B, T]` to cosines and sines `[B, T, R]` in x's dtype."""
        cos, sin = self._table(int(position_ids.max()) + 1 if position_ids.numel() else 0)
        return cos[position_ids].to(x.dtype), sin[position_ids].to(x.dtype)

    def _table(self, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
        """`[P, R]` twice, P at least `positions`."""
        frequencies = self.inv_freq.detach().double().tolist()
        values = kept(self)
        if values.get("frequencies") != frequencies or len(values["table"][0]) < positions:
            values.update(
                frequencies=frequencies, table=self._compute(frequencies, 1 << max(positions, 256).bit_length())
            )
        table: tuple[torch.Tensor, torch.Tensor] = values["table"]
        return table

    def _compute(self, frequencies: list[float], positions: int) -> tuple[torch.Tensor, torch.Tensor]:
        # A pair (1, 0), turned, is its cosine and sine.
        half = len(frequencies)
        pairs = torch.cat([torch.ones(1, positions, 1, half), torch.zeros(1, positions, 1, half)], dim=-1)
        if rope_type(self) == "default":
            config: object = self.config
            turned = ops.rope(pairs, theta=float(config.rope_parameters["rope_theta"]))  # type: ignore[attr-defined]
        else:
            turned = ops.rope(pairs, inverse_frequencies=frequencies)
        cos, sin = turned[0, :, 0].split(half, dim=-1)
        cos, sin = cos * self.attention_scaling, sin * self.attention_scaling
        return torch.cat([cos, cos], dim=-1), torch.cat([sin, sin], dim=-1)


def rope_type(module: nn.Module) -> str:
    """The kind of rotary embedding, in Hugging Face's words."""
    return str(getattr(module, "rope_type", None))


def is_rotary_embedding(module: nn.Module) -> bool:
    """Whether a module's frequencies are the same in every call: `dynamic` ones look at the longest sequence."""
    known = hasattr(module, "inv_freq") and hasattr(module, "attention_scaling") and hasattr(module, "config")
    return known and rope_type(module) in ("default", "linear", "llama3", "yarn")
