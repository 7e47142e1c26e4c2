"""Mamba-2 mixers."""

from typing import Any

import torch
from torch import nn

from jetblock import ops
from jetblock._errors import ArgumentError
from jetblock.hf._padding import back, real_first
from jetblock.hf._swap import become, restore_module


class DeterministicMamba2Mixer(nn.Module):
    """A Mamba-2 mixer whose prompts, pieces of prompts and single tokens have the same bits (NUMERICS.md, section 7).

    It takes the place of `Mamba2Mixer` and `NemotronHMamba2Mixer` and reads their weights. Convolution, recurrence
    and gated norm are in f32 whatever the model's dtype, the state is f32, and the recurrence runs token by token, so
    there is no chunk to cut differently. Steps are limited by `time_step_limit` alone, in prompts and decoding alike;
    transformers 5.23 also raises those of NemotronH prompts to `time_step_min`, which is meant for initialisation.

    A row with padding is computed from its real tokens alone; what stands at padding is 0.
    """

    # What a mixer of transformers has.
    in_proj: nn.Module
    out_proj: nn.Module
    conv1d: nn.Conv1d
    norm: nn.Module
    A_log: torch.Tensor
    D: torch.Tensor
    dt_bias: torch.Tensor
    layer_idx: int
    num_heads: int
    head_dim: int
    n_groups: int
    ssm_state_size: int
    conv_kernel_size: int
    intermediate_size: int
    conv_dim: int

    def forward(
        self,
        hidden_states: torch.Tensor,
        cache_params: Any = None,
        attention_mask: torch.Tensor | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """`[B, T, D]` to the same.

        Args:
            hidden_states: Normalised, `[B, T, D]`.
            cache_params: A cache of transformers, which is advanced.
            attention_mask: Which tokens are real, `[B, T]`; all where not given.
        """
        projected = self.in_proj(hidden_states)
        gate, inputs, dt = projected.split([self.intermediate_size, self.conv_dim, self.num_heads], dim=-1)
        window, state = self._before(inputs, cache_params)
        if attention_mask is None or bool(attention_mask.all()):
            y, state = self._scan(inputs, dt, window, state)
            new = inputs
        else:
            y, new, state = self._scan_real(inputs, dt, window, state, attention_mask.bool())
        if cache_params is not None:
            # The cache keeps the last K of what it had and of what is new.
            columns = new.transpose(1, 2)
            cache_params.update_conv_state(columns, self.layer_idx, conv_kernel_size=self.conv_kernel_size)
            if state is not cache_params.get_recurrent_state(self.layer_idx):
                cache_params.update_recurrent_state(state, layer_idx=self.layer_idx)
        eps = float(self.norm.variance_epsilon)  # type: ignore[arg-type]
        normed = ops.rms_norm_gated(y, gate.float(), self.norm.weight, groups=self.n_groups, eps=eps)
        result: torch.Tensor = self.out_proj(normed.to(hidden_states.dtype))
        return result

    def _before(self, inputs: torch.Tensor, cache: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The last K inputs `[B, K, C]`, oldest first, and the state `[B, H, P, N]`, None where there is none yet."""
        window = state = None
        if cache is not None:
            if cache.is_recording_past(self.layer_idx):
                raise ArgumentError(
                    "a Mamba-2 cache that records its past cannot be rolled back, expected one that does not"
                )
            window = cache.get_conv_state(self.layer_idx)
            state = cache.get_recurrent_state(self.layer_idx)
        if state is not None and state.dtype != torch.float32:
            raise ArgumentError(f"the cache holds a state of {state.dtype}, expected torch.float32")
        if window is None:
            return inputs.new_zeros(len(inputs), self.conv_kernel_size, self.conv_dim), state
        return window.transpose(1, 2), state

    def _scan(
        self, inputs: torch.Tensor, dt: torch.Tensor, window: torch.Tensor, state: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Convolution and recurrence: `[B, T, H P]` in f32 and the state, which a single token advances in place."""
        batch, tokens, _ = inputs.shape
        convolved, _ = ops.causal_conv1d(
            inputs.float(), self.conv1d.weight.squeeze(1), self.conv1d.bias, initial_state=window[:, 1:]
        )
        bc = self.n_groups * self.ssm_state_size
        # PyTorch puts them in order faster than the operator does.
        x, b, c = (part.contiguous() for part in convolved.split([self.intermediate_size, bc, bc], dim=-1))
        x = x.unflatten(-1, (self.num_heads, self.head_dim))
        b, c = (array.unflatten(-1, (self.n_groups, self.ssm_state_size)) for array in (b, c))
        a, limit = ops.decay_rates(self.A_log), time_step_limit(self)
        if tokens == 1 and state is not None:
            first = (x[:, 0], state, dt[:, 0], a, b[:, 0], c[:, 0], self.D, self.dt_bias)
            y = ops.selective_state_update(*first, dt_limit=limit)
        else:
            y, state = ops.selective_scan(
                x, dt.float(), a, b, c, self.D, self.dt_bias, initial_state=state, dt_limit=limit
            )
        return y.reshape(batch, tokens, -1), state

    def _scan_real(
        self,
        inputs: torch.Tensor,
        dt: torch.Tensor,
        window: torch.Tensor,
        state: torch.Tensor | None,
        mask: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Each row's real tokens as a sequence of their own: together up to where the first row ends, and so on."""
        batch, tokens, _ = inputs.shape
        y = torch.zeros(batch, tokens, self.intermediate_size)
        if state is None:
            state = torch.zeros(batch, self.num_heads, self.ssm_state_size, self.head_dim).transpose(-1, -2)
        windows, states = window.clone(), state.clone()
        inputs, dt, counts = real_first(mask, inputs), real_first(mask, dt), mask.sum(1)
        start = 0
        for end in counts[counts > 0].unique().tolist():
            rows = counts >= end
            new = inputs[rows, start:end]
            y[rows, start:end], states[rows] = self._scan(new, dt[rows, start:end], windows[rows], states[rows])
            windows[rows] = torch.cat([windows[rows], new], dim=1)[:, -self.conv_kernel_size :]
            start = end
        return back(mask, y), windows, states


class Mamba2LayerWrapper:
    """Gives one layer of a live model a deterministic mixer, and takes it back.

    Weights stay where they are; only the mixer's `forward` is another.

    Args:
        layer: A layer of Mamba2 or NemotronH with a Mamba-2 mixer, or the mixer itself.
    """

    def __init__(self, layer: nn.Module) -> None:
        mixer = layer if is_mamba2_mixer(layer) else getattr(layer, "mixer", None)
        if not isinstance(mixer, nn.Module) or not is_mamba2_mixer(mixer):
            raise ArgumentError(
                f"the layer is a {type(layer).__name__}, expected one with a Mamba-2 mixer of transformers"
            )
        become(mixer, DeterministicMamba2Mixer)
        self.mixer = mixer

    def restore(self) -> None:
        """Makes the mixer what it was."""
        restore_module(self.mixer)


def is_mamba2_mixer(module: nn.Module) -> bool:
    """Whether a module is a mixer whose every step is known."""
    named = type(module).__name__ in ("Mamba2Mixer", "NemotronHMamba2Mixer")
    return named and getattr(module, "activation", None) in ("silu", "swish")


def time_step_limit(module: nn.Module) -> tuple[float, float]:
    """Least and greatest time step, from the configuration."""
    of: Any = getattr(module, "config", module)
    low, high = of.time_step_limit
    return float(low), float(high)
