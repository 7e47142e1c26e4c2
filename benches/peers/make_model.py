"""make_model.py SHAPE FOLDER: a model with random weights (seed 1234, bf16) in one of the two shapes of the benchmark.

S is dense, 23 layers, 153 M parameters. L has experts, 1.4 G parameters and the 52 layers of Nemotron 3 Nano.
Needs torch and transformers.
"""

import sys

import torch
from transformers import NemotronHConfig, NemotronHForCausalLM

COMMON = dict(
    vocab_size=32768,
    max_position_embeddings=4096,
    tie_word_embeddings=False,
    mamba_head_dim=64,
    ssm_state_size=128,
    n_groups=8,
    conv_kernel=4,
    expand=2,
    chunk_size=128,
    num_key_value_heads=2,
)
SHAPES = {
    "S": dict(
        hybrid_override_pattern="M-M-M*-M-M-M*-M-M-M*-M-",
        hidden_size=768,
        intermediate_size=3072,
        num_attention_heads=12,
        head_dim=64,
        mamba_num_heads=24,
    ),
    "L": dict(
        hybrid_override_pattern="MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
        hidden_size=1024,
        intermediate_size=704,
        num_attention_heads=8,
        head_dim=128,
        mamba_num_heads=32,
        n_routed_experts=32,
        num_experts_per_tok=6,
        n_shared_experts=1,
        moe_intermediate_size=704,
        moe_shared_expert_intermediate_size=1408,
        routed_scaling_factor=2.5,
        norm_topk_prob=True,
        n_group=1,
        topk_group=1,
    ),
}

shape, folder = sys.argv[1:]
torch.manual_seed(1234)
model = NemotronHForCausalLM(NemotronHConfig(**COMMON, **SHAPES[shape])).to(torch.bfloat16)
generator = torch.Generator().manual_seed(99)
for name, buffer in model.named_buffers():
    # Zero in a new model: with it, the correction of the router's choice would not be exercised.
    if name.endswith("e_score_correction_bias"):
        buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.01)
model.save_pretrained(folder)
print(f"{shape}: {sum(p.numel() for p in model.parameters()):,} parameters in {folder}")
