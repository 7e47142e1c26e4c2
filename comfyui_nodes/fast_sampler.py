"""Sampling with fewer calls of the model."""

import json

from comfy_api.latest import io

from jetblock.diffusion.skipping import SkipSettings

from ._skip import skipping_model, skips_of

CATEGORY = "JetBlock/speed"


class JetBlockFastSampler(io.ComfyNode):
    """A model that computes some steps and continues the others."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="JetBlockFastSampler",
            display_name="JetBlock Fast Sampler",
            category=CATEGORY,
            description="Skips some of a sampler's calls of the model and continues their results from those before. "
            "For many steps; with fewer than about 12 it does nothing.",
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model, with its LoRAs and patches."),
                io.Float.Input(
                    "skip_ratio",
                    default=0.4,
                    min=0.0,
                    max=0.8,
                    step=0.05,
                    tooltip="Part of the steps that is skipped; in mode adaptive, the most that may be.",
                ),
                io.Combo.Input(
                    "mode",
                    options=["fixed", "adaptive"],
                    default="fixed",
                    tooltip="fixed: the same steps for every image, evenly spread. adaptive: each image skips while "
                    "the error foretold from its own last steps stays below the threshold.",
                ),
                io.Combo.Input(
                    "method",
                    options=["interpolate", "extrapolate", "hold"],
                    default="interpolate",
                    tooltip="How a skipped step continues the computed ones: along the line through the last two "
                    "(extrapolate), at the last one (hold, as fewer steps do), or half way between (interpolate).",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.1,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Mode adaptive only: relative error that may be foretold for a skipped step.",
                ),
                io.Int.Input(
                    "minimum_steps",
                    default=12,
                    min=4,
                    max=1000,
                    tooltip="With fewer steps than this nothing is skipped.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model, for any sampler.")],
        )

    @classmethod
    def execute(
        cls, model: io.Model.Type, skip_ratio: float, mode: str, method: str, threshold: float, minimum_steps: int
    ) -> io.NodeOutput:
        """Patches the model."""
        return io.NodeOutput(
            skipping_model(model, SkipSettings(skip_ratio, mode, method, threshold, minimum_steps))  # type: ignore[arg-type]
        )


class JetBlockSkipReport(io.ComfyNode):
    """What the Fast Sampler saved."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="JetBlockSkipReport",
            display_name="JetBlock Skip Report",
            category=CATEGORY,
            description="Tells how many calls of the model the Fast Sampler saved, image by image.",
            inputs=[
                io.Model.Input("model", tooltip="What JetBlock Fast Sampler put out and the sampler used."),
                io.Latent.Input("samples", tooltip="What the sampler put out; it is passed on."),
            ],
            outputs=[
                io.Latent.Output(display_name="samples", tooltip="The same samples."),
                io.String.Output(display_name="text", tooltip="Calls computed and saved, in words."),
                io.String.Output(display_name="json", tooltip="The same as JSON."),
            ],
        )

    @classmethod
    def execute(cls, model: io.Model.Type, samples: io.Latent.Type) -> io.NodeOutput:
        """Reads what the patch has noted."""
        skips = skips_of(model)
        if skips is None:
            raise ValueError("this model skips no steps: connect the output of JetBlock Fast Sampler")
        return io.NodeOutput(samples, skips.text(), json.dumps(skips.table()))


NODES: list[type[io.ComfyNode]] = [JetBlockFastSampler, JetBlockSkipReport]
