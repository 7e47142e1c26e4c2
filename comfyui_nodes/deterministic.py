"""Deterministic sampling: an image of a batch has the bits that it has when it is rendered alone."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from comfy_api.latest import io

from jetblock.diffusion.samplers import SAMPLERS

from . import _guards
from ._rows import LEVELS, deterministic_model, ordinary_model
from ._sampling import ImageNoise, ImageSampler, sample_images, sigmas_of

CATEGORY = "JetBlock/deterministic"
LEVEL_TOOLTIP = (
    "batch_invariant: ComfyUI's own kernels on one image at a time; the same bits on the same machine and versions. "
    "portable: JetBlock's operators on the CPU; the same bits on every machine."
)
MICRO_BATCH = io.Int.Input(
    "micro_batch",
    default=1,
    min=1,
    max=64,
    optional=True,
    tooltip="Rows that batch_invariant computes in each call, always this many. More can be faster; the number is part "
    "of the bits.",
)
SEED = io.Int.Input(
    "seed",
    default=0,
    min=0,
    max=2**64 - 1,
    control_after_generate=True,
    tooltip="Image i of a batch belongs to this seed and the number i, in every batch.",
)
FIRST_IMAGE = io.Int.Input(
    "first_image",
    default=0,
    min=0,
    max=2**31,
    optional=True,
    tooltip="Number of the batch's first image: 3 renders image 3 of a larger batch alone.",
)
SAMPLER_NAME = io.Combo.Input(
    "sampler_name",
    options=list(SAMPLERS),
    default="euler",
    tooltip="How to walk from noise to image. All compute in f32, elements and images apart.",
)
ETA = io.Float.Input(
    "eta",
    default=1.0,
    min=0.0,
    max=10.0,
    step=0.01,
    optional=True,
    tooltip="Noise that ancestral and SDE samplers make anew in each step; 0 makes none.",
)
S_NOISE = io.Float.Input(
    "s_noise", default=1.0, min=0.0, max=10.0, step=0.01, optional=True, tooltip="Scale of that noise."
)


class JetBlockNoise(io.ComfyNode):
    """Noise that belongs to an image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="JetBlockNoise",
            display_name="JetBlock Noise",
            category=CATEGORY,
            description="Noise that an image has in every batch, at every place in it and in every size.",
            inputs=[SEED, FIRST_IMAGE],
            outputs=[io.Noise.Output(display_name="noise", tooltip="For SamplerCustomAdvanced and JetBlock Sampler.")],
        )

    @classmethod
    def execute(cls, seed: int, first_image: int = 0) -> io.NodeOutput:
        """Makes the noise."""
        return io.NodeOutput(ImageNoise(seed, first_image))


class JetBlockSampler(io.ComfyNode):
    """A sampler whose noise belongs to an image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="JetBlockSampler",
            display_name="JetBlock Sampler",
            category=CATEGORY,
            description="A sampler that treats each image of a batch as if it were alone, its added noise included.",
            inputs=[
                SAMPLER_NAME,
                io.Noise.Input(
                    "noise",
                    optional=True,
                    tooltip="The JetBlock Noise of the same run, which knows the images' numbers. Without it they are "
                    "counted from 0 and the run's seed is taken.",
                ),
                ETA,
                S_NOISE,
            ],
            outputs=[io.Sampler.Output(display_name="sampler", tooltip="For SamplerCustom and SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, sampler_name: str, noise: Any = None, eta: float = 1.0, s_noise: float = 1.0) -> io.NodeOutput:
        """Makes the sampler."""
        if noise is not None and not isinstance(noise, ImageNoise):
            raise TypeError(f"noise is {type(noise).__name__}, expected what JetBlock Noise gives")
        return io.NodeOutput(ImageSampler(sampler_name, eta, s_noise, noise))


class JetBlockDeterministicModel(io.ComfyNode):
    """A model that computes each image for itself."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="JetBlockDeterministicModel",
            display_name="JetBlock Deterministic Model",
            category=CATEGORY,
            description="The model's part of deterministic sampling: batch size, position in the batch and free memory "
            "no longer change what the model computes for an image.",
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model, with its LoRAs and patches."),
                io.Combo.Input("level", options=list(LEVELS), default="batch_invariant", tooltip=LEVEL_TOOLTIP),
                MICRO_BATCH,
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The same model, its images computed apart.")],
        )

    @classmethod
    def execute(cls, model: io.Model.Type, level: str, micro_batch: int = 1) -> io.NodeOutput:
        """Wraps the model."""
        return io.NodeOutput(deterministic_model(model, level, micro_batch))


class JetBlockDeterministicSampler(io.ComfyNode):
    """Model, noise and sampler in one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="JetBlockDeterministicSampler",
            display_name="JetBlock Deterministic Sampler",
            category=CATEGORY,
            description="Samples so that image i of a batch has the bits it has when rendered alone: at any batch "
            "size, position, latent size and amount of free memory.",
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model, with its LoRAs and patches."),
                SEED,
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Steps from noise to image."),
                io.Float.Input(
                    "cfg",
                    default=8.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="How much more the positive conditioning counts than the negative; 1 drops the latter.",
                ),
                SAMPLER_NAME,
                io.Combo.Input(
                    "scheduler",
                    options=comfy.samplers.SCHEDULER_NAMES,
                    default="simple",
                    tooltip="ComfyUI's choice of the noise levels between which the steps go.",
                ),
                io.Conditioning.Input("positive", tooltip="What the image should show."),
                io.Conditioning.Input("negative", tooltip="What it should not show."),
                io.Latent.Input(
                    "latent_image", tooltip="Latent to start from, empty or of an image, with or without mask."
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Below 1 the latent's image is kept in part: only the last steps of a longer run are made.",
                ),
                io.Combo.Input("level", options=list(LEVELS), default="batch_invariant", tooltip=LEVEL_TOOLTIP),
                FIRST_IMAGE,
                ETA,
                S_NOISE,
                MICRO_BATCH,
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The sampled latents, in the order of the batch.")
            ],
        )

    @classmethod
    def execute(
        cls,
        model: io.Model.Type,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        positive: io.Conditioning.Type,
        negative: io.Conditioning.Type,
        latent_image: dict[str, Any],
        denoise: float,
        level: str,
        first_image: int = 0,
        eta: float = 1.0,
        s_noise: float = 1.0,
        micro_batch: int = 1,
    ) -> io.NodeOutput:
        """Samples."""
        noise = ImageNoise(seed, first_image)
        sampler = ImageSampler(sampler_name, eta, s_noise, noise)
        model = deterministic_model(model, level, micro_batch)
        sigmas = sigmas_of(model, scheduler, steps, denoise)
        return io.NodeOutput(sample_images(model, noise, sampler, sigmas, cfg, (positive, negative), latent_image))


class JetBlockModeSwitch(io.ComfyNode):
    """Speed or determinism, by one switch."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="JetBlockModeSwitch",
            display_name="JetBlock Mode Switch",
            category=CATEGORY,
            description="Lets a model compute as ComfyUI does or deterministically, and says what stands in the way.",
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model, with its LoRAs and patches."),
                io.Combo.Input(
                    "mode",
                    options=["speed", *LEVELS],
                    default="batch_invariant",
                    tooltip="speed: as ComfyUI computes. " + LEVEL_TOOLTIP,
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model in this mode."),
                io.String.Output(display_name="report", tooltip="The mode, and each setting that breaks its promise."),
            ],
        )

    @classmethod
    def execute(cls, model: io.Model.Type, mode: str) -> io.NodeOutput:
        """Switches."""
        if mode == "speed":
            return io.NodeOutput(
                ordinary_model(model), "speed: an image's bits depend on its batch and on free memory."
            )
        switched = deterministic_model(model, mode)
        promise = {"batch_invariant": "on this machine, with these versions", "portable": "on every machine"}[mode]
        found = _guards.breaches(switched, switched.model_options, mode)
        lines = [f"{'refused' if breach.certain else 'warning'}: {breach}" for breach in found]
        lines.insert(0, f"{mode}: an image has the same bits in every batch, {promise}.")
        return io.NodeOutput(switched, "\n".join(lines))


NODES: list[type[io.ComfyNode]] = [
    JetBlockDeterministicSampler,
    JetBlockDeterministicModel,
    JetBlockNoise,
    JetBlockSampler,
    JetBlockModeSwitch,
]
