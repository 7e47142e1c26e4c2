"""Deterministic sampling: an image of a batch has the bits that it has when it is rendered alone."""

from comfy_api.latest import io

from ._rows import MODEL_LEVELS, deterministic_model

CATEGORY = "JetBlock/deterministic"


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
                io.Combo.Input(
                    "level",
                    options=list(MODEL_LEVELS),
                    default="batch_invariant",
                    tooltip="batch_invariant: ComfyUI's own kernels, an image at a time; same bits on the same machine "
                    "and versions. portable: JetBlock's operators on the CPU; same bits on every machine.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The same model, its images computed apart.")],
        )

    @classmethod
    def execute(cls, model: io.Model.Type, level: str) -> io.NodeOutput:
        """Wraps the model."""
        return io.NodeOutput(deterministic_model(model, level))


NODES: list[type[io.ComfyNode]] = [JetBlockDeterministicModel]
