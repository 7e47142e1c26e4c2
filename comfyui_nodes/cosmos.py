"""Speed for NVIDIA's Cosmos video models: frames follow their neighbours, steps those before."""

from comfy_api.latest import io

from jetblock.diffusion.skipping import SkipSettings

from ._frames import check_cosmos, frame_skipping_model, frames_of
from ._levels import optimized
from ._skip import skipping_model

CATEGORY = "JetBlock/cosmos"
LEVELS = {
    "low": "attention pinned to PyTorch's, exact",
    "medium": "low, and 40% of the steps skipped",
    "high": "medium, and in every other computed step the frames between every second one follow their neighbours",
}


class JetBlockCosmosTemporalSkipper(io.ComfyNode):
    """A Cosmos model that computes key frames alone in some steps."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="JetBlockCosmosTemporalSkipper",
            display_name="JetBlock Cosmos Temporal Skipper",
            category=CATEGORY,
            description="In some steps computes only key frames of a Cosmos video; the frames between them change "
            "as their neighbours in time do.",
            inputs=[
                io.Model.Input("model", tooltip="A Cosmos or Cosmos Predict2 model."),
                io.Int.Input(
                    "stride",
                    default=2,
                    min=2,
                    max=16,
                    tooltip="Distance of key frames, in frames of the latent. The last frame is always one.",
                ),
                io.Int.Input(
                    "full_every",
                    default=2,
                    min=2,
                    max=8,
                    tooltip="One of so many steps computes all frames; the first two and the last always do.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model, for any sampler.")],
        )

    @classmethod
    def execute(cls, model: io.Model.Type, stride: int, full_every: int) -> io.NodeOutput:
        """Patches the model."""
        return io.NodeOutput(frame_skipping_model(model, stride, full_every))


class JetBlockCosmosOptimizer(io.ComfyNode):
    """A Cosmos model at a level of speed."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="JetBlockCosmosOptimizer",
            display_name="JetBlock Cosmos Optimizer",
            category=CATEGORY,
            description="Makes a Cosmos video model faster by a level, from exact to skipping both steps and frames.",
            inputs=[
                io.Model.Input("model", tooltip="A Cosmos or Cosmos Predict2 model."),
                io.Combo.Input(
                    "level",
                    options=list(LEVELS),
                    default="medium",
                    tooltip="; ".join(f"{name}: {means}" for name, means in LEVELS.items()) + ".",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model at this level."),
                io.String.Output(display_name="text", tooltip="What the level does."),
            ],
        )

    @classmethod
    def execute(cls, model: io.Model.Type, level: str) -> io.NodeOutput:
        """Patches the model."""
        check_cosmos(model)
        faster = optimized(model, "low", 0)
        if level != "low":
            faster = skipping_model(faster, SkipSettings())
        if level == "high":
            faster = frame_skipping_model(faster, 2, 2)
        return io.NodeOutput(faster, f"{level}: {LEVELS[level]}")


class JetBlockCosmosReport(io.ComfyNode):
    """What the temporal skipper saved."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="JetBlockCosmosReport",
            display_name="JetBlock Cosmos Report",
            category=CATEGORY,
            description="Tells how many frames followed their neighbours instead of being computed.",
            inputs=[
                io.Model.Input("model", tooltip="What the temporal skipper put out and the sampler used."),
                io.Latent.Input("samples", tooltip="What the sampler put out; it is passed on."),
            ],
            outputs=[
                io.Latent.Output(display_name="samples", tooltip="The same samples."),
                io.String.Output(display_name="text", tooltip="Frames saved, in words."),
                io.Int.Output(display_name="computed", tooltip="Frames computed, over all steps."),
                io.Int.Output(display_name="skipped", tooltip="Frames that followed their neighbours."),
            ],
        )

    @classmethod
    def execute(cls, model: io.Model.Type, samples: io.Latent.Type) -> io.NodeOutput:
        """Reads what the patch has noted."""
        frames = frames_of(model)
        if frames is None:
            raise ValueError("this model skips no frames: connect the output of JetBlock Cosmos Temporal Skipper")
        return io.NodeOutput(samples, frames.text(), frames.computed, frames.skipped)


NODES: list[type[io.ComfyNode]] = [JetBlockCosmosOptimizer, JetBlockCosmosTemporalSkipper, JetBlockCosmosReport]
