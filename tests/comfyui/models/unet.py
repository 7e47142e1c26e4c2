"""A Stable Diffusion 1.5 of one level: what ComfyUI's detector takes for it, with random weights, for bits alone."""

import comfy.ops
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from sd3 import fill

CHANNELS = 4


def new(generator: torch.Generator) -> UNetModel:
    """320 channels, text of width 768 and 8 heads are how the detector knows it; the rest is as small as can be."""
    net = UNetModel(
        image_size=32,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        model_channels=320,
        num_res_blocks=[1],
        channel_mult=[1],
        transformer_depth=[1],
        transformer_depth_output=[1, 1],
        transformer_depth_middle=1,
        context_dim=768,
        num_heads=8,
        num_head_channels=-1,
        use_spatial_transformer=True,
        legacy=False,
        use_linear_in_transformer=False,
        adm_in_channels=None,
        dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )
    fill(net, generator)
    with torch.no_grad():
        # Answers of the size of the noise, so that walks stay where numbers are ordinary.
        net.out[2].weight.mul_(0.5)
    return net
