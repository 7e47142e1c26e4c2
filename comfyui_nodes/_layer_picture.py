"""A model's stack of layers, drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

KINDS = {
    "M": ("mamba", "Mamba-2", "#4c9f70"),
    "*": ("attention", "attention", "#d1495b"),
    "-": ("mlp", "MLP", "#6c7a89"),
    "E": ("moe", "experts", "#3d6fb6"),
}
"""By letter: the profile's name of the part, the legend's, a colour."""
WIDTH, MARGIN, SQUARE, GAP = 768, 24, 40, 5
PER_ROW = (WIDTH - 2 * MARGIN + GAP) // (SQUARE + GAP)
LINE = 26
BACKGROUND, INK = "#16181d", "#e8e8e8"


def layer_pattern(profile: dict[str, Any]) -> str:
    """A letter for each thing that is computed, in order: in Llama's relatives, two for a layer."""
    kinds = {part["part"] for part in profile["parts"]}
    each = "".join(letter for letter in "*-E" if KINDS[letter][0] in kinds)
    return profile["pattern"] or each * profile["layers"]


def picture(name: str, profile: dict[str, Any]) -> torch.Tensor:
    """The layers of a profile as squares, with a legend of kinds: how many, and their share of the parameters.

    Returns:
        `[1, H, W, 3]` f32, as ComfyUI has images.
    """
    pattern = layer_pattern(profile)
    parts = {part["part"]: part for part in profile["parts"]}
    kinds = [letter for letter in KINDS if letter in pattern]
    rows = -(-len(pattern) // PER_ROW)
    height = 2 * MARGIN + 2 * LINE + rows * (SQUARE + GAP) + len(kinds) * LINE
    image = Image.new("RGB", (WIDTH, height), BACKGROUND)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=16)
    parameters = profile["total"]["parameters"]
    title = f"{name}: {profile['model_type']}, {profile['layers']} layers, {parameters:,} parameters"
    draw.text((MARGIN, MARGIN), title, fill=INK, font=font)
    top = MARGIN + LINE + LINE // 2
    for i, letter in enumerate(pattern):
        x, y = MARGIN + i % PER_ROW * (SQUARE + GAP), top + i // PER_ROW * (SQUARE + GAP)
        draw.rounded_rectangle((x, y, x + SQUARE, y + SQUARE), 6, fill=KINDS[letter][2])
        draw.text((x + SQUARE / 2, y + SQUARE / 2), letter, fill=INK, font=font, anchor="mm")
    y = top + rows * (SQUARE + GAP) + LINE // 2
    for letter in kinds:
        part, label, colour = KINDS[letter]
        share = parts[part]["parameters"] / parameters
        draw.rounded_rectangle((MARGIN, y, MARGIN + 16, y + 16), 3, fill=colour)
        text = f"{letter}  {label}: {pattern.count(letter)}, {share:.1%} of the parameters"
        draw.text((MARGIN + LINE, y), text, fill=INK, font=font)
        y += LINE
    return torch.from_numpy(np.asarray(image, np.float32) / 255)[None]
