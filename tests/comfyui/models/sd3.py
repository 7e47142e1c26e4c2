"""A Stable Diffusion 3 of 1.2 million parameters: ComfyUI's MMDiT with two joint blocks of width 128."""

import copy
import math
from collections.abc import Callable

import comfy.latent_formats
import comfy.model_management
import comfy.ops
import torch
from comfy.ldm.modules.diffusionmodules.mmdit import MMDiT
from digits import CLASSES, WIDTH, Digits, conditioning

CHANNELS = 16
HIDDEN = 128
GRID = 32
"""Positions a side that are known: latents up to 64 x 64."""


def new(generator: torch.Generator) -> MMDiT:
    context = {"target": "torch.nn.Linear", "params": {"in_features": WIDTH, "out_features": HIDDEN}}
    net = MMDiT(
        input_size=None,
        patch_size=2,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        depth=HIDDEN // 64,
        adm_in_channels=WIDTH,
        context_embedder_config=context,
        num_patches=GRID * GRID,
        pos_embed_max_size=GRID,
        qk_norm="rms",
        dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )
    fill(net, generator)
    with torch.no_grad():
        net.pos_embed.copy_(position_table())
        net.final_layer.linear.weight.mul_(0.05)
    return net


def fill(net: torch.nn.Module, generator: torch.Generator) -> None:
    """Gives every parameter a value: ComfyUI's layers leave their memory as they found it."""
    norms = {id(p) for m in net.modules() if "norm" in type(m).__name__.lower() for p in m.parameters(recurse=False)}
    with torch.no_grad():
        for name, parameter in sorted(net.named_parameters()):
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / math.sqrt(parameter[0].numel()))
            else:
                parameter.fill_(1.0 if id(parameter) in norms and name.endswith(("weight", "scale")) else 0.0)


def position_table() -> torch.Tensor:
    """Sines and cosines of row and column, `[1, GRID * GRID, HIDDEN]`."""
    quarter = HIDDEN // 4
    frequency = torch.exp(-math.log(1e4) * torch.arange(quarter) / quarter)
    angle = torch.arange(GRID, dtype=torch.float32)[:, None] * frequency
    one = torch.cat([angle.sin(), angle.cos()], 1)
    rows, columns = one[:, None].expand(GRID, GRID, -1), one[None].expand(GRID, GRID, -1)
    return torch.cat([rows, columns], 2).reshape(1, GRID * GRID, HIDDEN)


def predict(
    net: MMDiT, mixed: torch.Tensor, time: torch.Tensor, tokens: torch.Tensor, pooled: torch.Tensor
) -> torch.Tensor:
    return net(mixed, time * 1000, pooled, tokens)


def train(
    net: torch.nn.Module,
    predict: Callable[..., torch.Tensor],
    latent_format: comfy.latent_formats.LatentFormat,
    steps: int,
    batch: int,
    generator: torch.Generator,
    save: Callable[[torch.nn.Module], None],
) -> None:
    """Rectified flow: of `(1 - t) latent + t noise` the network predicts `noise - latent`. Saves averaged weights."""
    comfy.model_management.in_training = True
    data = Digits(CHANNELS, latent_format.scale_factor, latent_format.shift_factor)
    tokens, pooled = (torch.cat(parts) for parts in zip(*map(conditioning, [*range(CLASSES), -1]), strict=True))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0)
    average = copy.deepcopy(net)
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 100) * (1.02 - step / steps)
        latent, label = data.batch(batch, generator)
        label = torch.where(torch.rand(batch, generator=generator) < 0.1, CLASSES, label)
        time = torch.sigmoid(torch.randn(batch, generator=generator))
        noise = torch.randn(latent.shape, generator=generator)
        mixed = torch.lerp(latent, noise, time[:, None, None, None])
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
            loss = (predict(net, mixed, time, tokens[label], pooled[label]) - (noise - latent)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), net.parameters(), strict=True):
                slow.lerp_(fast, max(1 / (step + 1), 1 / 300))
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}: loss {sum(losses[-100:]) / 100:.4f}", flush=True)
            save(average)


def keep(tensor: torch.Tensor) -> torch.Tensor:
    """What backward needs, copied, since the blocks add in place; weights stay."""
    base = tensor._base  # noqa: SLF001 (the only way to know a view of a weight)
    is_weight = tensor.is_leaf or (base is not None and base.is_leaf)
    return tensor if is_weight else tensor.clone()
