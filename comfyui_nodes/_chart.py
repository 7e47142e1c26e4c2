"""Measured variants as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from ._measure import Variant

WIDTH, MARGIN, BAR, LINE = 960, 28, 30, 26
BACKGROUND, INK, FAINT = "#16181d", "#e8e8e8", "#9aa0a6"
COLOURS = ("#6c7a89", "#4c9f70", "#3d6fb6", "#d1495b", "#b08a3e")


def chart(title: str, variants: list[Variant]) -> torch.Tensor:
    """A bar for each variant's time, with its calls, and below it how far it is from the first.

    Returns:
        `[1, H, W, 3]` f32, as ComfyUI has images.
    """
    row = LINE + BAR + LINE + LINE // 2
    image = Image.new("RGB", (WIDTH, 2 * MARGIN + 2 * LINE + row * len(variants)), BACKGROUND)
    draw = ImageDraw.Draw(image)
    large, small = ImageFont.load_default(size=20), ImageFont.load_default(size=16)
    draw.text((MARGIN, MARGIN), title, fill=INK, font=large)
    draw.text((MARGIN, MARGIN + LINE), "median time of a sampling; shorter is faster", fill=FAINT, font=small)
    slowest = max(variant.median for variant in variants)
    reference = variants[0]
    for i, variant in enumerate(variants):
        top = MARGIN + 2 * LINE + LINE // 2 + i * row
        draw.text((MARGIN, top), variant.name, fill=INK, font=small)
        length = (WIDTH - 2 * MARGIN - 220) * variant.median / slowest
        bar = (MARGIN, top + LINE, MARGIN + max(length, 6), top + LINE + BAR)
        draw.rounded_rectangle(bar, 5, fill=COLOURS[i % len(COLOURS)])
        time = f"{variant.median:.0f} ms   {reference.median / variant.median:.2f}x   {variant.calls} calls"
        draw.text((bar[2] + 10, top + LINE + 6), time, fill=INK, font=small)
        told = variant.line(reference).split("; ", 1)[1] if i else "reference"
        draw.text((MARGIN, top + LINE + BAR + 3), told, fill=FAINT, font=small)
    return torch.from_numpy(np.asarray(image, np.float32) / 255)[None]
