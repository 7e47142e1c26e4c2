"""A pack of somebody else, which builds on JetBlock: it imports `jetblock.interfaces` and nothing else of it."""

from typing import Any

import torch
from comfy_api.latest import ComfyExtension, io

from jetblock import interfaces

LanguageModel = io.Custom("JETBLOCK_MODEL")
CATEGORY = "orchestra"


class OrchestraSampler(io.ComfyNode):
    """Lets JetBlock's optimizer prepare a model for sampling."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OrchestraSampler",
            category=CATEGORY,
            inputs=[io.Model.Input("model"), io.Combo.Input("level", options=["low", "medium", "high", "extreme"])],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any, level: Any) -> io.NodeOutput:
        return io.NodeOutput(interfaces.optimize(model, level))


class OrchestraContext(io.ComfyNode):
    """Keeps a language model's context, and a conditioning, in fewer bits."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OrchestraContext",
            category=CATEGORY,
            inputs=[LanguageModel.Input("model"), io.Conditioning.Input("conditioning")],
            outputs=[LanguageModel.Output(), io.Conditioning.Output(), io.Float.Output(display_name="share")],
        )

    @classmethod
    def execute(cls, model: Any, conditioning: list[Any]) -> io.NodeOutput:
        kept = [(interfaces.quantize(tokens), extra) for tokens, extra in conditioning]
        before = sum(tokens.nbytes for tokens, _ in conditioning)
        share = sum(tokens.nbytes for tokens, _ in kept) / before
        values = [[tokens.dequantize(), extra] for tokens, extra in kept]
        return io.NodeOutput(interfaces.quantize_context(model), values, share)


class OrchestraRouter(io.ComfyNode):
    """Chooses one of ten digits by a text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OrchestraRouter",
            category=CATEGORY,
            inputs=[io.String.Input("text")],
            outputs=[io.Int.Output(display_name="choice"), io.Float.Output(display_name="weight")],
        )

    @classmethod
    def execute(cls, text: str) -> io.NodeOutput:
        counts = [float(text.lower().count(letter)) for letter in "aeioubcdfg"]
        choices, weights = interfaces.route(torch.tensor([counts]), 1)
        return io.NodeOutput(int(choices[0, 0]), float(weights[0, 0]))


class OrchestraChecksum(io.ComfyNode):
    """Hashes latents, and compares them with a manifest."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OrchestraChecksum",
            category=CATEGORY,
            inputs=[io.Latent.Input("latent"), io.String.Input("expected", default="", optional=True)],
            outputs=[io.String.Output(display_name="manifest"), io.Boolean.Output(display_name="same")],
        )

    @classmethod
    def execute(cls, latent: dict[str, Any], expected: str = "") -> io.NodeOutput:
        own = interfaces.checksums({"latent": latent["samples"]}, latent.get("batch_index"))
        return io.NodeOutput(own, bool(interfaces.compare(expected, own)) if expected else True)


class OrchestraExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [OrchestraSampler, OrchestraContext, OrchestraRouter, OrchestraChecksum]


async def comfy_entrypoint() -> OrchestraExtension:
    return OrchestraExtension()
