"""Nodes that only the tests have. ComfyUI loads this folder as a pack of its own."""

from typing import Any
from unittest import mock

from comfy_api.latest import ComfyExtension, io
from digits import CLASSES, WIDTH, conditioning

KEPT: dict[str, Any] = {}
"""What `TestKeep` nodes were given in the last run, by their label."""

GIVEN: dict[str, Any] = {}
"""What `TestGive` nodes put out, by their label."""


class TestConditioning(io.ComfyNode):
    """Conditioning for the tiny models, without a text encoder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestConditioning",
            category="test",
            inputs=[
                io.Int.Input("label", default=0, min=-1, max=CLASSES - 1, tooltip="The digit; -1 is none."),
                io.Int.Input("width", default=WIDTH, optional=True, tooltip="What the model takes."),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, label: int, width: int = WIDTH) -> io.NodeOutput:
        tokens, pooled = conditioning(label, width)
        return io.NodeOutput([[tokens, {"pooled_output": pooled}]])


class TestCosmosConditioning(io.ComfyNode):
    """The same for the tiny Cosmos."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestCosmosConditioning",
            category="test",
            inputs=[io.Int.Input("label", default=0, min=-1, max=CLASSES - 1, tooltip="The digit; -1 is none.")],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, label: int) -> io.NodeOutput:
        import cosmos

        return io.NodeOutput([[cosmos.conditioning(label), {}]])


class TestFlux(io.ComfyNode):
    """Load Diffusion Model for the tiny Flux. ComfyUI 0.3.75 takes every Flux for one of 24 heads; newer ones count."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="TestFlux", category="test", inputs=[], outputs=[io.Model.Output()])

    @classmethod
    def execute(cls) -> io.NodeOutput:
        import flux
        import nodes
        from comfy import model_detection

        detect = model_detection.detect_unet_config

        def count(*arguments: Any, **options: Any) -> dict[str, Any]:
            return detect(*arguments, **options) | {"num_heads": flux.PARAMETERS["num_heads"]}

        with mock.patch.object(model_detection, "detect_unet_config", count):
            return io.NodeOutput(*nodes.UNETLoader().load_unet("tiny_flux.safetensors", "default"))


class TestKeep(io.ComfyNode):
    """Keeps a value of any type for the test that ran the graph."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestKeep",
            category="test",
            is_output_node=True,
            inputs=[io.AnyType.Input("value", tooltip="Anything."), io.String.Input("label", tooltip="Its name.")],
            outputs=[],
        )

    @classmethod
    def execute(cls, value: Any, label: str) -> io.NodeOutput:
        KEPT[label] = value
        return io.NodeOutput()


class TestGive(io.ComfyNode):
    """Puts out a value of the test."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestGive",
            category="test",
            inputs=[io.String.Input("label", tooltip="Its name.")],
            outputs=[io.AnyType.Output()],
        )

    @classmethod
    def execute(cls, label: str) -> io.NodeOutput:
        return io.NodeOutput(GIVEN[label])


class TestCheckpoint(io.ComfyNode):
    """The tiny SD3 where a workflow wants a checkpoint."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestCheckpoint",
            category="test",
            inputs=[io.String.Input("ckpt_name", tooltip="Any.")],
            outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output()],
        )

    @classmethod
    def execute(cls, ckpt_name: str) -> io.NodeOutput:
        import nodes

        [model] = nodes.UNETLoader().load_unet("tiny_sd3.safetensors", "default")
        [vae] = nodes.VAELoader().load_vae("tiny_ae.safetensors")
        return io.NodeOutput(model, ckpt_name, vae)


class TestTextEncode(io.ComfyNode):
    """A text as the conditioning of a digit; keeps the texts of the last run under `encoded`."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestTextEncode",
            category="test",
            inputs=[io.Clip.Input("clip", tooltip="Any."), io.String.Input("text", tooltip="Any.")],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, clip: object, text: str) -> io.NodeOutput:
        del clip
        KEPT.setdefault("encoded", []).append(text)
        return TestConditioning.execute(sum(text.encode()) % CLASSES)


class TestExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [TestConditioning, TestCosmosConditioning, TestFlux, TestGive, TestKeep, TestCheckpoint, TestTextEncode]


async def comfy_entrypoint() -> TestExtension:
    return TestExtension()
