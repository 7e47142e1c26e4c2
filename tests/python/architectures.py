"""Small models of the architectures people run, with random weights, for the tests of deterministic mode."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
import transformers

TEXT, WIDTH, TOKENS = 97, 64, 19

Output = torch.Tensor
Inputs = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Architecture:
    """A model, inputs of which the first dimension is the batch, and the output that is compared."""

    build: Callable[[], torch.nn.Module]
    inputs: Callable[[int], Inputs]
    run: Callable[[Any, Inputs], Output]


def _ids(rows: int) -> Inputs:
    return {"input_ids": torch.randint(0, TEXT - 2, (rows, TOKENS))}


def _logits(model: Any, inputs: Inputs) -> Output:
    return model(**inputs).logits


def _sample(model: Any, inputs: Inputs) -> Output:
    return model(**inputs).sample


def _unet() -> torch.nn.Module:
    return diffusers.UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )


def _latents(rows: int) -> Inputs:
    return {
        "sample": torch.randn(rows, 4, 16, 16),
        "timestep": torch.randint(0, 1000, (rows,)),
        "encoder_hidden_states": torch.randn(rows, 7, 32),
    }


def _sd3() -> torch.nn.Module:
    return diffusers.SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=64,
        pooled_projection_dim=32,
        out_channels=4,
        pos_embed_max_size=16,
    )


def _sd3_inputs(rows: int) -> Inputs:
    return {
        "hidden_states": torch.randn(rows, 4, 16, 16),
        "encoder_hidden_states": torch.randn(rows, 7, 32),
        "pooled_projections": torch.randn(rows, 32),
        "timestep": torch.randint(0, 1000, (rows,)),
    }


def _pixart() -> torch.nn.Module:
    return diffusers.PixArtTransformer2DModel(
        sample_size=16,
        num_layers=2,
        patch_size=2,
        num_attention_heads=4,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
        cross_attention_dim=64,
        caption_channels=32,
        use_additional_conditions=False,
    )


def _pixart_inputs(rows: int) -> Inputs:
    lengths = torch.randint(3, 8, (rows, 1))
    return {
        "hidden_states": torch.randn(rows, 4, 16, 16),
        "encoder_hidden_states": torch.randn(rows, 7, 32),
        "timestep": torch.randint(0, 1000, (rows,)),
        # Prompts of different lengths in one batch.
        "encoder_attention_mask": (torch.arange(7) < lengths).long(),
    }


def _run_pixart(model: Any, inputs: Inputs) -> Output:
    return model(**inputs, added_cond_kwargs={"resolution": None, "aspect_ratio": None}).sample


def _vae() -> torch.nn.Module:
    return diffusers.AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
        latent_channels=4,
    )


def _llama() -> torch.nn.Module:
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=TEXT,
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    )


def _padded(rows: int) -> Inputs:
    lengths = torch.randint(5, TOKENS + 1, (rows, 1))
    # Padded on the left, as for generation.
    return {**_ids(rows), "attention_mask": (torch.arange(TOKENS) >= TOKENS - lengths).long()}


def _mamba2() -> torch.nn.Module:
    return transformers.Mamba2ForCausalLM(
        transformers.Mamba2Config(
            vocab_size=TEXT,
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_heads=8,
            head_dim=16,
            state_size=16,
            n_groups=2,
            chunk_size=8,
            expand=2,
        )
    )


def _nemotron_h() -> torch.nn.Module:
    return transformers.NemotronHForCausalLM(
        transformers.NemotronHConfig(
            vocab_size=TEXT,
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            layers_block_type=["mamba", "moe", "attention"],
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            mamba_num_heads=8,
            mamba_head_dim=16,
            ssm_state_size=16,
            n_groups=2,
            chunk_size=8,
            n_routed_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=32,
            moe_shared_expert_intermediate_size=32,
        )
    )


def _qwen_moe() -> torch.nn.Module:
    return transformers.Qwen3MoeForCausalLM(
        transformers.Qwen3MoeConfig(
            vocab_size=TEXT,
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=32,
            decoder_sparse_step=1,
        )
    )


def _clip() -> torch.nn.Module:
    return transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=TEXT,
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            bos_token_id=TEXT - 2,
            eos_token_id=TEXT - 1,
        )
    )


ARCHITECTURES = {
    "unet": Architecture(_unet, _latents, _sample),
    "sd3": Architecture(_sd3, _sd3_inputs, _sample),
    "pixart": Architecture(_pixart, _pixart_inputs, _run_pixart),
    "vae": Architecture(_vae, lambda rows: {"z": torch.randn(rows, 4, 8, 8)}, lambda m, i: m.decode(**i).sample),
    "llama": Architecture(_llama, _ids, _logits),
    "llama, padded": Architecture(_llama, _padded, _logits),
    "mamba2": Architecture(_mamba2, _ids, _logits),
    "nemotron_h": Architecture(_nemotron_h, _ids, _logits),
    "qwen_moe": Architecture(_qwen_moe, _ids, _logits),
    "clip": Architecture(_clip, _ids, lambda m, i: m(**i).last_hidden_state),
}
