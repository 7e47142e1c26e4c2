"""Level portable in ComfyUI's architectures: nothing that they compute is left to PyTorch, and rows stay apart."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch

import jetblock

Inputs = dict[str, torch.Tensor]
JOINT = {
    "context_in_dim": 48,
    "hidden_size": 64,
    "mlp_ratio": 4.0,
    "num_heads": 2,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [8, 12, 12],
    "qkv_bias": True,
}
"""Sizes of the networks with joint and single blocks."""


def sdxl() -> tuple[torch.nn.Module, Inputs]:
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    network = UNetModel(
        image_size=32,
        in_channels=4,
        out_channels=4,
        model_channels=32,
        num_res_blocks=[1, 1],
        channel_mult=[1, 2],
        num_classes="sequential",
        adm_in_channels=64,
        num_head_channels=16,
        use_spatial_transformer=True,
        transformer_depth=[0, 1],
        transformer_depth_output=[0, 0, 1, 1],
        transformer_depth_middle=1,
        context_dim=48,
        use_linear_in_transformer=True,
        operations=comfy.ops.disable_weight_init,
    )
    return network, {"x": noise(4, 16, 16), "timesteps": times(), "context": noise(7, 48), "y": noise(64)}


def flux() -> tuple[torch.nn.Module, Inputs]:
    from comfy.ldm.flux.model import Flux, FluxParams

    network = Flux(
        in_channels=16,
        out_channels=16,
        vec_in_dim=24,
        **JOINT,
        theta=10_000,
        patch_size=2,
        guidance_embed=True,
        **newer(FluxParams, txt_ids_dims=[]),
        **layers(),
    )
    guidance = torch.tensor([3.5, 2.0])
    inputs = {"x": noise(16, 8, 12), "timestep": times(1), "context": noise(7, 48), "y": noise(24)}
    return network, {**inputs, "guidance": guidance}


def chroma() -> tuple[torch.nn.Module, Inputs]:
    from comfy.ldm.chroma.model import Chroma, ChromaParams

    network = Chroma(
        in_channels=64,
        out_channels=16,
        **JOINT,
        theta=10_000,
        patch_size=2,
        in_dim=64,
        out_dim=64,
        hidden_dim=32,
        n_layers=1,
        **newer(ChromaParams, txt_ids_dims=[], vec_in_dim=None),
        **layers(),
    )
    inputs = {"x": noise(16, 8, 12), "timestep": times(1), "context": noise(7, 48)}
    return network, {**inputs, "guidance": torch.zeros(2)}


def wan() -> tuple[torch.nn.Module, Inputs]:
    from comfy.ldm.wan.model import WanModel

    sizes = {"in_dim": 16, "dim": 64, "ffn_dim": 128, "freq_dim": 32, "text_dim": 48, "num_heads": 2, "num_layers": 1}
    inputs = {"x": noise(16, 3, 8, 8), "timestep": times(), "context": noise(7, 48)}
    return WanModel(**sizes, **layers()), inputs


def ltxv() -> tuple[torch.nn.Module, Inputs]:
    from comfy.ldm.lightricks.model import LTXVModel

    sizes = {"in_channels": 128, "cross_attention_dim": 64, "attention_head_dim": 32, "num_attention_heads": 2}
    inputs = {"x": noise(128, 3, 4, 4), "timestep": times(1), "context": noise(7, 48)}
    network = LTXVModel(**sizes, caption_channels=48, num_layers=1, **layers())
    return network, {**inputs, "attention_mask": torch.ones(2, 7, dtype=torch.long)}


def hunyuan_video() -> tuple[torch.nn.Module, Inputs]:
    from comfy.ldm.hunyuan_video.model import HunyuanVideo, HunyuanVideoParams

    network = HunyuanVideo(
        in_channels=16,
        out_channels=16,
        vec_in_dim=24,
        **JOINT,
        theta=256,
        patch_size=[1, 2, 2],
        guidance_embed=False,
        byt5=False,
        meanflow=False,
        use_cond_type_embedding=False,
        vision_in_dim=None,
        **newer(HunyuanVideoParams, meanflow_sum=False),
        **layers(),
    )
    return network, {"x": noise(16, 3, 4, 8), "timestep": times(1), "context": noise(7, 48), "y": noise(24)}


def lumina() -> tuple[torch.nn.Module, Inputs]:
    from comfy.ldm.lumina.model import NextDiT

    sizes = {"in_channels": 16, "dim": 64, "n_layers": 1, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 1}
    network = NextDiT(
        **sizes, qk_norm=True, cap_feat_dim=48, axes_dims=[8, 12, 12], axes_lens=[300, 64, 64], **layers()
    )
    return network, {"x": noise(16, 8, 8), "timesteps": times(1), "context": noise(7, 48), "num_tokens": 7}


def qwen_image() -> tuple[torch.nn.Module, Inputs]:
    from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel

    network = QwenImageTransformer2DModel(
        in_channels=64,
        out_channels=16,
        num_layers=1,
        attention_head_dim=32,
        num_attention_heads=2,
        joint_attention_dim=48,
        axes_dims_rope=(8, 12, 12),
        **layers(),
    )
    return network, {"x": noise(16, 1, 8, 8), "timestep": times(1), "context": noise(7, 48)}


def aura_flow() -> tuple[torch.nn.Module, Inputs]:
    from comfy.ldm.aura.mmdit import MMDiT

    sizes = {"dim": 64, "n_layers": 2, "n_double_layers": 1, "n_heads": 2, "global_conddim": 64, "cond_seq_dim": 48}
    network = MMDiT(**sizes, max_seq=64, **layers())
    return network, {"x": noise(4, 8, 8), "timestep": times(1), "context": noise(7, 48)}


def pixart() -> tuple[torch.nn.Module, Inputs]:
    from comfy.ldm.pixart.pixartms import PixArtMS

    sizes = {"hidden_size": 64, "depth": 1, "num_heads": 2, "caption_channels": 48, "model_max_length": 7}
    network = PixArtMS(**sizes, micro_condition=False, **layers())
    return network, {"x": noise(4, 48, 48), "timesteps": times(), "context": noise(7, 48)}


def omnigen2() -> tuple[torch.nn.Module, Inputs]:
    from comfy.ldm.omnigen.omnigen2 import OmniGen2Transformer2DModel

    sizes = {"hidden_size": 64, "num_layers": 1, "num_refiner_layers": 1, "num_attention_heads": 2, "num_kv_heads": 1}
    network = OmniGen2Transformer2DModel(**sizes, axes_dim_rope=(8, 12, 12), text_feat_dim=48, **layers())
    return network, {"x": noise(16, 8, 8), "timesteps": times(1), "context": noise(7, 48), "num_tokens": 7}


def cascade() -> tuple[torch.nn.Module, Inputs]:
    from comfy.ldm.cascade.stage_c import StageC

    sizes = {"c_r": 16, "c_cond": 48, "c_hidden": [32, 32], "nhead": [2, 2], "blocks": [[1, 1], [1, 1]]}
    clip = {"c_clip_text": 24, "c_clip_text_pooled": 24, "c_clip_img": 24}
    inputs = {"x": noise(16, 8, 8), "r": times(1), "clip_text": noise(7, 24), "clip_text_pooled": noise(1, 24)}
    return StageC(**sizes, **clip, **layers()), {**inputs, "clip_img": noise(1, 24)}


def t5() -> tuple[torch.nn.Module, Inputs]:
    from comfy.text_encoders.t5 import T5

    sizes = {"num_layers": 2, "d_model": 64, "d_kv": 32, "d_ff": 128, "num_heads": 2, "vocab_size": 100}
    kind = {"dense_act_fn": "gelu_pytorch_tanh", "is_gated_act": True, "model_type": "t5"}
    return first_of(T5({**sizes, **kind}, **layers())), tokens()


def qwen() -> tuple[torch.nn.Module, Inputs]:
    from comfy.text_encoders.llama import Qwen25_3B

    sizes = {"hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 100}
    return first_of(Qwen25_3B({**sizes, "num_attention_heads": 2, "num_key_value_heads": 1}, **layers())), tokens()


def autoencoder() -> tuple[torch.nn.Module, Inputs]:
    from comfy.ldm.models.autoencoder import AutoencoderKL

    sizes = {"z_channels": 4, "resolution": 32, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 2]}
    settings = {"double_z": True, "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}
    network = AutoencoderKL(embed_dim=4, ddconfig={**sizes, **settings})
    network.forward = network.decode
    return network, {"z": noise(4, 8, 6)}


def wan_autoencoder() -> tuple[torch.nn.Module, Inputs]:
    from comfy.ldm.wan.vae import WanVAE

    network = WanVAE(dim=16, z_dim=4, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[True])
    network.forward = network.decode
    return network, {"z": noise(4, 2, 8, 6)}


ARCHITECTURES: dict[str, Callable[[], tuple[torch.nn.Module, Inputs]]] = {
    make.__name__: make
    for make in (
        *(sdxl, flux, chroma, wan, ltxv, hunyuan_video, lumina, qwen_image, aura_flow, pixart, omnigen2, cascade),
        *(t5, qwen, autoencoder, wan_autoencoder),
    )
}


def newer(parameters: type, **values: Any) -> dict[str, Any]:
    """Of these values, those that the parameters of a network have; 0.3.75 lacks some."""
    known = {field.name for field in fields(parameters)}
    return {name: value for name, value in values.items() if name in known}


def layers() -> dict[str, Any]:
    """ComfyUI's layers."""
    import comfy.ops

    return {"device": "cpu", "dtype": torch.float32, "operations": comfy.ops.disable_weight_init}


def first_of(encoder: torch.nn.Module) -> torch.nn.Module:
    """A text encoder that gives its hidden states alone."""
    forward = encoder.forward
    encoder.forward = lambda **inputs: forward(**inputs)[0]
    return encoder


def tokens() -> Inputs:
    """Of two rows, the second with padding."""
    mask = torch.tensor([[1] * 9, [1] * 6 + [0] * 3])
    return {"input_ids": torch.arange(18).reshape(2, 9) * 5, "attention_mask": mask}


def noise(*size: int) -> torch.Tensor:
    """Of two rows."""
    return torch.randn(2, *size, generator=torch.Generator().manual_seed(sum(size)))


def times(scale: float = 999) -> torch.Tensor:
    """Of two rows."""
    return torch.tensor([0.75, 0.3]) * scale


@pytest.mark.usefixtures("comfyui")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_portable(name: str) -> None:
    from sd3 import fill

    network, inputs = ARCHITECTURES[name]()
    fill(network.eval(), torch.Generator().manual_seed(1))
    tensors = {key for key, value in inputs.items() if isinstance(value, torch.Tensor)}

    def compute(rows: slice) -> torch.Tensor:
        own = {key: value[rows].clone() if key in tensors else value for key, value in inputs.items()}
        with torch.inference_mode(), jetblock.deterministic() as report:
            result = network(**own)
        assert sum(row.calls for row in report.rows if row.status == "covered") > 20
        return result

    whole = compute(slice(None))
    assert torch.isfinite(whole).all()
    assert not torch.equal(whole[0], whole[1])
    for row in range(2):
        assert torch.equal(compute(slice(row, row + 1)), whole[row : row + 1])
