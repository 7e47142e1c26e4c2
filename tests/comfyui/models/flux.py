"""A Flux of 1.2 million parameters: ComfyUI's, a double block and two single ones of width 128, without guidance."""

from dataclasses import fields

import comfy.ops
import torch
from comfy.ldm.flux.model import Flux, FluxParams
from digits import WIDTH
from sd3 import fill

CHANNELS, HIDDEN = 16, 128
PARAMETERS = {
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "vec_in_dim": WIDTH,
    "context_in_dim": WIDTH,
    "hidden_size": HIDDEN,
    "mlp_ratio": 4.0,
    "num_heads": 1,
    "depth": 1,
    "depth_single_blocks": 2,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": False,
    "txt_ids_dims": [],  # newer than 0.3.75
}


def new(generator: torch.Generator) -> Flux:
    known = {field.name for field in fields(FluxParams)}
    parameters = {name: value for name, value in PARAMETERS.items() if name in known}
    net = Flux(dtype=torch.float32, operations=comfy.ops.disable_weight_init, **parameters)
    fill(net, generator)
    with torch.no_grad():
        net.final_layer.linear.weight.mul_(0.05)
    return net


def predict(
    net: Flux, mixed: torch.Tensor, time: torch.Tensor, tokens: torch.Tensor, pooled: torch.Tensor
) -> torch.Tensor:
    return net(mixed, time, tokens, pooled)
