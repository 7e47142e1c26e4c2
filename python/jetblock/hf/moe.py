"""Mixtures of experts."""

import torch
from torch import nn

from jetblock import ops
from jetblock._errors import ArgumentError
from jetblock.hf._swap import kept


class DeterministicMoERouter(nn.Module):
    """Chooses a token's experts by its own logits; ties go to the lower expert, the chosen stand in ascending order.

    Logits are f32 whatever the model's dtype. It takes the place of `NemotronHTopkRouter` (sigmoid scores, groups) and
    of the routers of Qwen 2 MoE, Qwen 3 MoE and Mixtral (softmax): NUMERICS.md, section 9.
    """

    weight: nn.Parameter
    top_k: int
    # Nemotron's alone:
    e_score_correction_bias: torch.Tensor
    num_group: int
    topk_group: int
    norm_topk_prob: bool
    routed_scaling_factor: float

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`[.., D]` to logits `[R, E]`, weights `[R, k]` and experts `[R, k]`."""
        rows = hidden_states.reshape(-1, hidden_states.shape[-1]).float()
        logits = ops.linear(rows, self.weight)
        if hasattr(self, "e_score_correction_bias"):
            experts, weights = self._by_sigmoid(logits)
        else:
            experts, weights = self._by_softmax(logits)
        return logits, weights, experts

    def _by_sigmoid(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return ops.moe_router(
            logits,
            self.e_score_correction_bias,
            num_experts_per_tok=self.top_k,
            n_group=self.num_group,
            topk_group=self.topk_group,
            norm_topk_prob=self.norm_topk_prob,
            routed_scaling_factor=float(self.routed_scaling_factor),
        )

    def _by_softmax(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = ops.softmax(logits)
        if bool(scores.isnan().any()):
            raise ArgumentError("the router's logits have a NaN")
        # A stable sort keeps the lower of two equal experts first.
        order = scores.sort(dim=-1, descending=True, stable=True).indices
        experts = order[:, : self.top_k].sort(dim=-1).values
        weights = scores.gather(1, experts)
        # Mixtral's has no such setting and always divides.
        if getattr(self, "norm_topk_prob", True):
            total = torch.zeros_like(weights[:, :1])
            for column in weights.split(1, dim=-1):
                total = total + column
            weights = weights / total
        return experts, weights


class DeterministicExperts(nn.Module):
    """The chosen experts' answers, summed by ascending expert: `acc = fma(weight, answer, acc)`, in f32.

    It takes the place of the experts of NemotronH (two matrices), Qwen 2 MoE, Qwen 3 MoE and Mixtral (with a gate).
    """

    up_proj: nn.Parameter
    gate_up_proj: nn.Parameter  # where there is a gate, instead of up_proj
    down_proj: nn.Parameter
    act_fn: nn.Module

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """`hidden_states [R, D]`, experts and weights `[R, k]`, to `[R, D]`."""
        up, down = self._matrices()
        flat = top_k_index.flatten()
        slots = flat.argsort(stable=True)  # by expert, then by row
        counts = torch.bincount(flat, minlength=len(down)).tolist()
        rows = hidden_states[slots // top_k_index.shape[1]]
        answers = [
            self._answer(own, up[expert], down[expert]) for expert, own in enumerate(rows.split(counts)) if len(own)
        ]
        if not answers:
            return torch.zeros_like(hidden_states)
        y = torch.cat(answers)
        return ops.moe_combine(y, top_k_index, top_k_weights, num_experts=len(down))

    def _answer(self, x: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
        hidden = ops.linear(x, up)
        if hasattr(self, "gate_up_proj"):
            gate, value = hidden.chunk(2, dim=-1)
            return ops.linear(self.act_fn(gate) * value, down)
        return ops.linear(self.act_fn(hidden), down)

    def _matrices(self) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        """Each expert's matrices, the same tensors as long as the weights are: their packed forms are kept."""
        first = self.gate_up_proj if hasattr(self, "gate_up_proj") else self.up_proj
        both = (first, self.down_proj)
        state = [(id(weight), weight.data_ptr(), weight.dtype, weight.shape) for weight in both]
        values = kept(self)
        if values.get("state") != state:
            values.update(state=state, matrices=tuple(weight.detach().unbind(0) for weight in both))
        matrices: tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]] = values["matrices"]
        return matrices


class DeterministicSharedExpert(nn.Module):
    """A mixture's answer plus that of an expert for every token, times the sigmoid of a gate of its own.

    It takes the place of the mixture of Qwen 2 MoE, whose parts are drop-ins too.
    """

    gate: nn.Module
    experts: nn.Module
    shared_expert: nn.Module
    shared_expert_gate: nn.Module

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`[B, T, D]` to the same."""
        rows = hidden_states.flatten(0, -2)
        _, weights, experts = self.gate(rows)
        shared = ops.sigmoid(self.shared_expert_gate(rows)) * self.shared_expert(rows)
        answer: torch.Tensor = self.experts(rows, experts, weights) + shared
        return answer.view_as(hidden_states)


ROUTERS = ("NemotronHTopkRouter", "Qwen2MoeTopKRouter", "Qwen3MoeTopKRouter", "MixtralTopKRouter")
EXPERTS = ("NemotronHExperts", "Qwen2MoeExperts", "Qwen3MoeExperts", "MixtralExperts")
SHARED_EXPERTS = ("Qwen2MoeSparseMoeBlock",)
