"""A Cosmos Predict2 of 15 million parameters: ComfyUI's MiniTrainDIT, ten blocks of width 192.

Two blocks are trained, on digits that move; the others, whose number ComfyUI fixes, add nothing.
"""

import sys
from contextlib import AbstractContextManager, nullcontext
from unittest import mock

import comfy.model_management
import comfy.ops
import torch
from comfy.ldm.cosmos.predict2 import MiniTrainDIT
from digits import CLASSES, Digits
from sd3 import fill, keep

CHANNELS, FRAMES, SIDE = 16, 5, 8
TOKENS, WIDTH = 4, 1024
TRAINED = 2


def conditioning(label: int) -> torch.Tensor:
    """Tokens `[1, TOKENS, WIDTH]` of a class; zeros for a negative one."""
    wave = torch.arange(1, TOKENS * WIDTH + 1, dtype=torch.float64).mul(label + 1).sin().mul(2**0.5).float()
    return (wave if label >= 0 else torch.zeros_like(wave)).reshape(1, TOKENS, WIDTH)


def new(generator: torch.Generator) -> MiniTrainDIT:
    net = MiniTrainDIT(
        max_img_h=240,
        max_img_w=240,
        max_frames=128,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        patch_spatial=2,
        patch_temporal=1,
        model_channels=192,
        crossattn_emb_channels=WIDTH,
        pos_emb_cls="rope3d",
        pos_emb_learnable=True,
        use_adaln_lora=True,
        rope_h_extrapolation_ratio=4.0,
        rope_w_extrapolation_ratio=4.0,
        rope_enable_fps_modulation=False,
        dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )
    fill(net, generator)
    with torch.no_grad():
        net.final_layer.linear.weight.mul_(0.05)
        for block in net.blocks:
            for layer in (block.self_attn.output_proj, block.cross_attn.output_proj, block.mlp.layer2):
                layer.weight.mul_(0.3 if block in net.blocks[:TRAINED] else 0.0)
    return net


def videos(data: Digits, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Digits that drift over the frames, `[count, CHANNELS, FRAMES, SIDE, SIDE]`."""
    latents, labels = data.batch(count, generator)
    small = torch.nn.functional.avg_pool2d(latents, latents.shape[-1] // SIDE)
    drift = torch.randint(-1, 2, (count, 2), generator=generator).tolist()
    frames = [
        torch.stack([one.roll((frame * dy, frame * dx), (1, 2)) for one, (dy, dx) in zip(small, drift, strict=True)])
        for frame in range(FRAMES)
    ]
    return torch.stack(frames, 2), labels


def differentiable_rope() -> AbstractContextManager[object]:
    """Newer versions of ComfyUI rotate by operators without a gradient; what those do on a CPU has one."""
    kitchen = getattr(sys.modules.get("comfy.quant_ops"), "ck", None)
    names = [name for name in ("apply_rope_split_half", "rms_rope_split_half") if hasattr(kitchen, name)]
    if not names:
        return nullcontext()
    from comfy_kitchen.backends import eager

    return mock.patch.multiple(kitchen, **{name: getattr(eager, name) for name in names})


def train(net: MiniTrainDIT, steps: int, generator: torch.Generator, batch: int = 4) -> list[float]:
    """Rectified flow, as for the SD3; returns the losses."""
    comfy.model_management.in_training = True
    data = Digits(CHANNELS, 1.0, 0.0)
    tokens = torch.cat([conditioning(label) for label in [*range(CLASSES), -1]])
    blocks, net.blocks = net.blocks, net.blocks[:TRAINED]
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0)
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 20) * (1.02 - step / steps)
        video, label = videos(data, batch, generator)
        label = torch.where(torch.rand(batch, generator=generator) < 0.1, CLASSES, label)
        time = torch.sigmoid(torch.randn(batch, generator=generator))
        noise = torch.randn(video.shape, generator=generator)
        mixed = torch.lerp(video, noise, time[:, None, None, None, None])
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved), differentiable_rope():
            loss = (net(mixed, time, tokens[label]) - (noise - video)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
    net.blocks = blocks
    comfy.model_management.in_training = False
    return losses
