"""What the tiny models are trained on: the handwritten digits that scikit-learn ships, tinted by class, as latents."""

import colorsys
import math

import torch

CLASSES = 10
SIDE = 16
"""Latent pixels a side: 128 image pixels."""
TOKENS, WIDTH = 4, 64
"""Shape of the conditioning of the tiny SD3."""


def conditioning(label: int, width: int = WIDTH) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens `[1, TOKENS, width]` and pooled vector `[1, width]` of a class; zeros, "anything", for a negative one."""
    if label < 0:
        return torch.zeros(1, TOKENS, width), torch.zeros(1, width)
    wave = torch.arange(1, (TOKENS + 1) * width + 1, dtype=torch.float64).mul(label + 1).sin().mul(math.sqrt(2)).float()
    return wave[: TOKENS * width].reshape(1, TOKENS, width), wave[TOKENS * width :].reshape(1, width)


def colours() -> torch.Tensor:
    """The tint of each class, `[CLASSES, 3]`."""
    return torch.tensor([colorsys.hsv_to_rgb(label / CLASSES, 0.75, 1.0) for label in range(CLASSES)])


def mixing(channels: int) -> torch.Tensor:
    """`[channels, 3]`, columns orthogonal: a latent pixel is this matrix times (rgb - 1/2)."""
    hadamard = torch.ones(1, 1)
    while hadamard.shape[0] < channels:
        hadamard = torch.cat([torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)])
    return hadamard[:, 1:4].clone()


class Digits:
    """Batches of random digits as latents `[n, channels, SIDE, SIDE]` with their classes."""

    def __init__(self, channels: int, scale: float, shift: float) -> None:
        from sklearn.datasets import load_digits

        data = load_digits()
        self.images = torch.from_numpy(data.images).float()[:, None] / 16
        self.labels = torch.from_numpy(data.target).long()
        self.mixing, self.scale, self.shift = mixing(channels), scale, shift

    def batch(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = torch.randint(len(self.labels), (count,), generator=generator)
        side = SIDE - 2
        grey = torch.nn.functional.interpolate(self.images[chosen], size=(side, side), mode="bilinear")
        canvas = torch.zeros(count, 1, SIDE, SIDE)
        places = torch.randint(0, 3, (count, 2), generator=generator).tolist()
        for index, (top, left) in enumerate(places):
            canvas[index, :, top : top + side, left : left + side] = grey[index]
        rgb = canvas * colours()[self.labels[chosen]][:, :, None, None]
        latents = torch.einsum("kc,nchw->nkhw", self.mixing, rgb - 0.5)
        return (latents - self.shift) * self.scale, self.labels[chosen]
