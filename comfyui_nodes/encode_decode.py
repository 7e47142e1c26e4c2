"""Before and after deterministic sampling: texts to conditionings, images to latents and back."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io

from . import _guards, _portable
from ._rows import LEVELS, computed_by
from .deterministic import CATEGORY, LEVEL_TOOLTIP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from comfy.sd import VAE

LEVEL = io.Combo.Input("level", options=list(LEVELS), default="batch_invariant", tooltip=LEVEL_TOOLTIP)
VAE_INPUT = io.Vae.Input("vae", tooltip="The autoencoder that turns images into latents and back.")


@contextmanager
def autoencoder(vae: VAE, level: str) -> Iterator[VAE]:
    """Where a VAE computes at a level."""
    _guards.refuse(_guards.of_the_process(vae.device, level), level)
    attention = _portable.in_autoencoder(vae.first_stage_model) if level == "portable" else nullcontext()
    with attention, computed_by(level):
        yield vae


class JetBlockDeterministicTextEncode(io.ComfyNode):
    """A text to a conditioning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="JetBlockDeterministicTextEncode",
            display_name="JetBlock Deterministic Text Encode",
            category=CATEGORY,
            description="Encodes a text as CLIP Text Encode does; at level portable with the same bits on every "
            "machine, so that an image sampled from it has them too.",
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder, with its LoRAs."),
                io.String.Input("text", multiline=True, dynamic_prompts=True, tooltip="What the image should show."),
                LEVEL,
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning", tooltip="For a sampler.")],
        )

    @classmethod
    def execute(cls, clip: io.Clip.Type, text: str, level: str) -> io.NodeOutput:
        """Encodes."""
        _guards.refuse(_guards.of_the_process(clip.patcher.load_device, level), level)
        if level == "portable":
            _portable.patch(clip.patcher)
        tokens = clip.tokenize(text)
        with computed_by(level):
            return io.NodeOutput(clip.encode_from_tokens_scheduled(tokens))


class JetBlockDeterministicEncode(io.ComfyNode):
    """Images to latents, one at a time."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="JetBlockDeterministicEncode",
            display_name="JetBlock Deterministic Encode",
            category=CATEGORY,
            description="Encodes images one at a time, so that an image has the same latent in every batch.",
            inputs=[io.Image.Input("pixels", tooltip="The images."), VAE_INPUT, LEVEL],
            outputs=[io.Latent.Output(display_name="latent", tooltip="Their latents, in the order of the batch.")],
        )

    @classmethod
    def execute(cls, pixels: torch.Tensor, vae: io.Vae.Type, level: str) -> io.NodeOutput:
        """Encodes."""
        images = pixels[..., :3].split(1)
        with autoencoder(vae, level):
            return io.NodeOutput({"samples": torch.cat([vae.encode(image.clone()) for image in images])})


class JetBlockDeterministicDecode(io.ComfyNode):
    """Latents to images, one at a time."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="JetBlockDeterministicDecode",
            display_name="JetBlock Deterministic Decode",
            category=CATEGORY,
            description="Decodes latents one at a time, so that an image has the same pixels in every batch.",
            inputs=[io.Latent.Input("samples", tooltip="The latents of images."), VAE_INPUT, LEVEL],
            outputs=[io.Image.Output(display_name="images", tooltip="The images, in the order of the batch.")],
        )

    @classmethod
    def execute(cls, samples: dict[str, Any], vae: io.Vae.Type, level: str) -> io.NodeOutput:
        """Decodes."""
        latents: torch.Tensor = samples["samples"]
        if latents.ndim != 4:
            raise ValueError(f"the latent has shape {list(latents.shape)}, expected those of images, [B, C, H, W]")
        with autoencoder(vae, level):
            return io.NodeOutput(torch.cat([vae.decode(latent.clone()) for latent in latents.split(1)]))


NODES: list[type[io.ComfyNode]] = [
    JetBlockDeterministicTextEncode,
    JetBlockDeterministicEncode,
    JetBlockDeterministicDecode,
]
