"""Small models of transformers with random weights, one of each family that JetBlock knows."""

from typing import Any

import torch
import transformers

VOCABULARY = 160
COMMON = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}
ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
LLAMA = {"hidden_size": 192, "intermediate_size": 320, "num_hidden_layers": 2, **ATTENTION, **COMMON}
NEMOTRON = {
    **COMMON,
    **ATTENTION,
    "hidden_size": 192,
    "intermediate_size": 320,
    "mamba_num_heads": 8,
    "mamba_head_dim": 16,
    "ssm_state_size": 16,
    "n_groups": 2,
    "chunk_size": 8,
    # What HF takes for the least time step of prompts, though not of single tokens.
    "time_step_min": 1e-30,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 96,
    "moe_shared_expert_intermediate_size": 128,
    "routed_scaling_factor": 2.5,
    "n_group": 1,
    "topk_group": 1,
}
STRETCHED = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
M, A, F, E = "linear_attention", "full_attention", "mlp", "moe"

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {**LLAMA, "rope_parameters": STRETCHED}),
    "mistral": ("MistralConfig", {**LLAMA, "sliding_window": None}),
    "mixtral": (
        "MixtralConfig",
        {**LLAMA, "intermediate_size": 96, "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None},
    ),
    "qwen2": ("Qwen2Config", LLAMA),
    "qwen3": ("Qwen3Config", LLAMA),
    "qwen2_moe": (
        "Qwen2MoeConfig",
        {
            **LLAMA,
            "num_experts": 8,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 96,
            "shared_expert_intermediate_size": 128,
            "mlp_only_layers": [1],
            "num_hidden_layers": 3,
        },
    ),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {**LLAMA, "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 96, "norm_topk_prob": True},
    ),
    "mamba2": (
        "Mamba2Config",
        {
            **COMMON,
            "hidden_size": 128,
            "num_hidden_layers": 2,
            "num_heads": 16,
            "head_dim": 16,
            "state_size": 16,
            "n_groups": 2,
            "chunk_size": 8,
        },
    ),
    "nemotron_h": ("NemotronHConfig", {**NEMOTRON, "layers_block_type": [M, F, A, M]}),
    "nemotron_h_moe": (
        "NemotronHConfig",
        {**NEMOTRON, "layers_block_type": [M, E, A, E], "n_group": 4, "topk_group": 2},
    ),
    "nemotron_h_latent": ("NemotronHConfig", {**NEMOTRON, "layers_block_type": [M, E, A, M], "moe_latent_size": 64}),
}


def make(name: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A model in `eval` mode whose layers all matter to its logits."""
    config_class, arguments = CONFIGS[name]
    config = getattr(transformers, config_class)(**{**arguments, **changes})
    model = transformers.AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, weight in [*model.named_parameters(), *model.named_buffers()]:
            if weight.ndim >= 2:
                scale = 1.0 if "embed" in key else weight.shape[-1] ** -0.5
                weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
            elif key.endswith(("norm.weight", "norm_f.weight")):
                weight.copy_(1 + 0.2 * torch.randn(weight.shape, generator=generator))
            elif "dt_bias" in key:
                weight.copy_(torch.randn(weight.shape, generator=generator) - 2)
            elif key.endswith("bias"):
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
    return model.eval().to(dtype)
