"""Language models looked into: what they are made of, that their bits hold, what fewer bits cost."""

from __future__ import annotations

from typing import Final, Literal

from comfy_api.latest import io, ui

from jetblock.quantized import KvFormat, Recipe, cost, quantize_kv, quantize_weights
from jetblock.recurrence import try_recurrence

from . import _language_models as models
from ._language_models import CATEGORY, LanguageModel
from ._layer_picture import layer_pattern, picture

MODEL_INPUT = "The language model."
TEXT = (
    "The harbour lay quiet under a thin mist. Two fishermen mended their nets and talked about the weather, while the "
    "first ferry of the day turned slowly towards the open sea."
)
KEEP: Final = "keep"
Keep = Literal["keep"]


class JetBlockHybridProfiler(io.ComfyNode):
    """Shows what a language model is made of."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="JetBlockHybridProfiler",
            display_name="JetBlock Hybrid Profiler",
            category=CATEGORY,
            description="Shows a language model's layers (Mamba-2, attention, MLP, experts), parameters, memory and "
            "how each part is computed, as text and as a picture.",
            is_output_node=True,
            inputs=[LanguageModel.Input("model", tooltip=MODEL_INPUT)],
            outputs=[
                io.String.Output(display_name="table", tooltip="Layers, parameters, memory and plan."),
                io.String.Output(
                    display_name="pattern", tooltip="A letter for each part: M Mamba-2, * attention, - MLP, E experts."
                ),
                io.Image.Output(display_name="picture", tooltip="The layers in colours, and what share each kind has."),
            ],
        )

    @classmethod
    def execute(cls, model: LanguageModel.Type) -> io.NodeOutput:
        """Profiles."""
        loaded = model.model()
        table, profile = loaded.profile_text(), loaded.profile()
        image = picture(model.name, profile)
        return io.NodeOutput(table, layer_pattern(profile), image, ui=ui.PreviewText(table))


class JetBlockMamba2Deterministic(io.ComfyNode):
    """Tries the Mamba-2 layers of a language model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="JetBlockMamba2Deterministic",
            display_name="JetBlock Mamba-2 Deterministic",
            category=CATEGORY,
            description="Proves on this machine that a hybrid model's bits do not depend on batch, cuts of the prompt, "
            "threads or instruction set, and measures how its time and memory grow with the text. There is nothing to "
            "switch on: JetBlock has no other Mamba-2.",
            is_output_node=True,
            inputs=[
                LanguageModel.Input("model", tooltip=MODEL_INPUT),
                io.Int.Input("runs", default=24, min=1, max=1000, tooltip="Schedules to compare with the first."),
                io.Int.Input(
                    "control_runs",
                    default=12,
                    min=0,
                    max=1000,
                    tooltip="The same with kernels written the usual way, which do differ; 0 leaves them out.",
                ),
            ],
            outputs=[
                LanguageModel.Output(display_name="model", tooltip="The same model; a failed proof stops the graph."),
                io.String.Output(display_name="report", tooltip="What was compared and measured."),
            ],
        )

    @classmethod
    def execute(cls, model: LanguageModel.Type, runs: int, control_runs: int) -> io.NodeOutput:
        """Tries them."""
        found = try_recurrence(model, runs, control_runs, models.stop_if_cancelled)
        if not found.proof:
            raise RuntimeError(str(found.proof))
        return io.NodeOutput(model, str(found), ui=ui.PreviewText(str(found)))


class JetBlockNVFP4Quantizer(io.ComfyNode):
    """Makes a language model smaller, and says what that costs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="JetBlockNVFP4Quantizer",
            display_name="JetBlock NVFP4 Quantizer",
            category=CATEGORY,
            description="Keys and values, or weights too, in NVFP4: 4 bits an element and a scale for each 16. Shows "
            "the bytes saved and how far the answers move.",
            inputs=[
                LanguageModel.Input("model", tooltip=MODEL_INPUT),
                io.Combo.Input(
                    "keys_and_values",
                    options=["nvfp4", "fp8", KEEP],
                    default="nvfp4",
                    tooltip="Form of the attention layers' cache: nvfp4 takes 28.125 % of bf16, fp8 half.",
                ),
                io.Combo.Input(
                    "weights",
                    options=[KEEP, "nano", "all", "experts"],
                    default=KEEP,
                    tooltip="keep, or which weights become NVFP4: nano as Nemotron 3 Nano was released, all but the "
                    "output table, or only routed experts. Writes a model folder into models/jetblock.",
                ),
                io.String.Input("text", multiline=True, default=TEXT, tooltip="Text on which the change is measured."),
            ],
            outputs=[
                LanguageModel.Output(display_name="model", tooltip="The smaller model."),
                io.String.Output(display_name="report", tooltip="Bytes before and after, and how far answers move."),
            ],
        )

    @classmethod
    def execute(
        cls, model: LanguageModel.Type, keys_and_values: KvFormat | Keep, weights: Recipe | Keep, text: str
    ) -> io.NodeOutput:
        """Quantizes and measures."""
        smaller = (
            model if weights == KEEP else quantize_weights(model, models.home(), weights, models.stop_if_cancelled)
        )
        smaller = smaller if keys_and_values == KEEP else quantize_kv(smaller, keys_and_values)
        models.stop_if_cancelled()
        report = str(cost(model, smaller, text))
        return io.NodeOutput(smaller, report, ui=ui.PreviewText(report))


NODES: list[type[io.ComfyNode]] = [JetBlockHybridProfiler, JetBlockMamba2Deterministic, JetBlockNVFP4Quantizer]
