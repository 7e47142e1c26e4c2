"""An autoencoder without training: ComfyUI's TAESD with weights that average 8 x 8 pixels and spread them again.

Three of its 64 channels carry red, green and blue through all layers; the residual blocks add nothing.
"""

import torch
from comfy.taesd.taesd import TAESD
from digits import mixing


def autoencoder(channels: int) -> TAESD:
    """The autoencoder of latents with this many channels; `mixing` says how they hold a colour."""
    model = TAESD(latent_channels=channels)
    matrix = mixing(channels)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.vae_scale.fill_(1.0)
        encoder, decoder = model.taesd_encoder, model.taesd_decoder
        convolutions = [layer for layer in encoder if isinstance(layer, torch.nn.Conv2d)]
        carry(convolutions[0])
        for layer in convolutions[1:-1]:
            for channel in range(3):
                layer.weight[channel, channel, 1:, 1:] = 0.25
        convolutions[-1].weight[:, :3, 1, 1] = matrix
        convolutions[-1].bias.copy_(-matrix.sum(1) / 2)
        convolutions = [layer for layer in decoder if isinstance(layer, torch.nn.Conv2d)]
        convolutions[0].weight[:3, :, 1, 1] = matrix.T / channels
        convolutions[0].bias[:3] = 0.5
        smooth = torch.tensor([0.25, 0.5, 0.25])
        for layer in convolutions[1:-1]:
            for channel in range(3):
                layer.weight[channel, channel] = smooth[:, None] * smooth
        carry(convolutions[-1])
    return model


def carry(layer: torch.nn.Conv2d) -> None:
    """Lets a convolution hand three channels on."""
    for channel in range(3):
        layer.weight[channel, channel, 1, 1] = 1.0
