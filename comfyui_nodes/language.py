"""Language models in a graph: choose one, set how it thinks and computes, let it write."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.utils
from comfy_api.latest import io, ui

from jetblock.tuning import fastest_guesses

from . import _language_models as models
from ._language_models import CATEGORY, LanguageModel

AS_SET = "as the model is set"
THINKING = ("on", "off", "medium")
MODES: dict[str, dict[str, Any]] = {
    "portable": {"operands": None, "kv": None, "speculate": 0},
    "speed": {"operands": None, "kv": None, "speculate": 8, "threads": None},
    "small_memory": {"operands": None, "kv": "nvfp4", "speculate": 0},
    "exact_f32": {"operands": "f32", "kv": "f32", "speculate": 0},
}
"""Settings of a handle, by the name of the mode."""
MODEL_INPUT = "The language model."
PROMPT = "Describe a harbour at dawn in one sentence."


class JetBlockNemotronLoader(io.ComfyNode):
    """Chooses a language model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="JetBlockNemotronLoader",
            display_name="JetBlock Nemotron Loader",
            category=CATEGORY,
            description="A language model (Nemotron-H, Nemotron 3, Llama and its relatives) from models/jetblock or "
            "models/LLM: a folder as Hugging Face has it, or a GGUF file.",
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=models.names(),
                    default=models.BUNDLED,
                    tooltip="A model folder or GGUF file in models/jetblock or models/LLM, or the very small "
                    "model that comes with JetBlock.",
                ),
                io.Int.Input(
                    "threads",
                    default=0,
                    min=0,
                    max=1024,
                    optional=True,
                    tooltip="Processor threads it computes with; 0 is all. Changes no bit of what it writes.",
                ),
            ],
            outputs=[
                LanguageModel.Output(
                    display_name="model", tooltip="The model, by its name: loaded when a node uses it, and then kept."
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, model_name: str, threads: int = 0) -> Any:
        """The files: changed ones are another model."""
        return (models.handle(model_name).files(), threads)

    @classmethod
    def execute(cls, model_name: str, threads: int = 0) -> io.NodeOutput:
        """Finds it."""
        handle = replace(models.handle(model_name), threads=threads or None)
        handle.files()
        return io.NodeOutput(handle)


class JetBlockNemotronGenerate(io.ComfyNode):
    """Lets a language model write."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="JetBlockNemotronGenerate",
            display_name="JetBlock Nemotron Generate",
            category=CATEGORY,
            description="Lets a language model answer. Model, words, settings and seed decide each token, on every "
            "machine and at any thread count.",
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                LanguageModel.Input("model", tooltip=MODEL_INPUT),
                io.String.Input("prompt", multiline=True, default=PROMPT, tooltip="What is said to the model."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=True,
                    tooltip="Key of JetBlock's random generator, the same on every device.",
                ),
                io.Int.Input("max_tokens", default=256, min=1, max=2**20, tooltip="Where it ends at the latest."),
                io.Combo.Input(
                    "thinking",
                    options=[AS_SET, *THINKING],
                    default=AS_SET,
                    tooltip="Whether the model thinks first, by its template's switch; a model without one refuses.",
                ),
                io.Int.Input(
                    "thinking_budget",
                    default=-1,
                    min=-1,
                    max=2**20,
                    tooltip="Tokens of thought, after which it has to answer; -1: as the model is set.",
                ),
                io.Float.Input(
                    "temperature",
                    default=-1.0,
                    min=-1.0,
                    max=10.0,
                    step=0.05,
                    tooltip="Divides the logits; 0 takes the most likely token, -1 what the model comes with.",
                ),
                io.Float.Input(
                    "top_p",
                    default=-1.0,
                    min=-1.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Keeps the most likely tokens up to this probability; -1: what the model comes with.",
                ),
                io.String.Input(
                    "system",
                    multiline=True,
                    default="",
                    optional=True,
                    tooltip="What the model is told before the prompt.",
                ),
                io.Combo.Input(
                    "form",
                    options=["chat", "text"],
                    default="chat",
                    optional=True,
                    tooltip="chat: the prompt is a message, by the model's template. text: the model continues it.",
                ),
                io.Boolean.Input(
                    "receipt",
                    default=False,
                    optional=True,
                    tooltip="Also puts out a receipt: the request and digests of all logits, for jetblock verify.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="text", tooltip="The answer."),
                io.String.Output(display_name="thinking", tooltip="What it thought before, if it did."),
                io.String.Output(display_name="receipt", tooltip="The receipt as JSON; empty where not asked for."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: LanguageModel.Type,
        prompt: str,
        seed: int,
        max_tokens: int,
        thinking: str,
        thinking_budget: int,
        temperature: float,
        top_p: float,
        system: str = "",
        form: str = "chat",
        receipt: bool = False,  # noqa: FBT001, FBT002 (ComfyUI calls by name)
    ) -> io.NodeOutput:
        """Generates, with progress by token, until it ends or the user cancels."""
        options: dict[str, Any] = {"seed": seed, "max_tokens": max_tokens, "receipt": "logits" if receipt else None}
        if thinking != AS_SET:
            options["think"] = thinking
        given = {"thinking_budget": thinking_budget, "temperature": temperature, "top_p": top_p}
        options |= {name: value for name, value in given.items() if value >= 0}
        if form == "text" and system:
            raise ValueError("system is for form chat: a text has no messages")
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": prompt})
        progress, shown = comfy.utils.ProgressBar(max_tokens), models.Shown(cls.hidden.unique_id)
        stream = model.stream(prompt if form == "text" else messages, options)
        for delta in stream:
            progress.update(1)
            shown.add(delta.reasoning + delta.content)
            models.stop_if_cancelled()
        shown.show()
        result = stream.result
        progress.update_absolute(max_tokens)
        proof = result.receipt.text if result.receipt else ""
        return io.NodeOutput(result.content, result.reasoning, proof, ui=ui.PreviewText(result.content))


class JetBlockCascadeMode(io.ComfyNode):
    """Sets how a language model thinks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="JetBlockCascadeMode",
            display_name="JetBlock Cascade Mode",
            category=CATEGORY,
            description="Sets whether a language model thinks before it answers, and for how many tokens.",
            inputs=[
                LanguageModel.Input("model", tooltip=MODEL_INPUT),
                io.Combo.Input(
                    "thinking",
                    options=list(THINKING),
                    default="on",
                    tooltip="on, off, or medium where the model's template has it.",
                ),
                io.Int.Input(
                    "thinking_budget",
                    default=-1,
                    min=-1,
                    max=2**20,
                    tooltip="Tokens of thought, then the block is closed at the next newline; -1: no budget.",
                ),
                io.Int.Input(
                    "thinking_grace",
                    default=-1,
                    min=-1,
                    max=2**20,
                    optional=True,
                    tooltip="So many tokens later it is closed wherever it is; -1: a tenth of the budget.",
                ),
                io.String.Input(
                    "thinking_close",
                    default="",
                    optional=True,
                    tooltip="Words that end a thought which is cut; empty: a blank line.",
                ),
            ],
            outputs=[LanguageModel.Output(display_name="model", tooltip="The same model, so set.")],
        )

    @classmethod
    def execute(
        cls,
        model: LanguageModel.Type,
        thinking: str,
        thinking_budget: int,
        thinking_grace: int = -1,
        thinking_close: str = "",
    ) -> io.NodeOutput:
        """Sets it; what the model cannot do is said when it writes."""
        if thinking_budget < 0 and (thinking_grace >= 0 or thinking_close):
            raise ValueError("thinking_grace and thinking_close need a thinking_budget")
        return io.NodeOutput(
            replace(
                model,
                think=thinking,
                thinking_budget=None if thinking_budget < 0 else thinking_budget,
                thinking_grace=None if thinking_grace < 0 else thinking_grace,
                thinking_close=thinking_close or None,
            )
        )


class JetBlockV3ModeSwitch(io.ComfyNode):
    """Sets what a language model is to be good at."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="JetBlockV3ModeSwitch",
            display_name="JetBlock V3 Mode Switch",
            category=CATEGORY,
            description="One switch for a language model: as its checkpoint says, faster, smaller or more exact. Every "
            "mode is deterministic.",
            inputs=[
                LanguageModel.Input("model", tooltip=MODEL_INPUT),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default="portable",
                    tooltip="portable: as the checkpoint says. speed: guesses ahead on all threads, same text. "
                    "small_memory: keys and values in 4 bits, other text. exact_f32: everything in f32, other text, "
                    "slowest.",
                ),
            ],
            outputs=[
                LanguageModel.Output(display_name="model", tooltip="The model in this mode."),
                io.String.Output(display_name="level", tooltip="The level of reproducibility that it computes at."),
            ],
        )

    @classmethod
    def execute(cls, model: LanguageModel.Type, mode: str) -> io.NodeOutput:
        """Sets it."""
        return io.NodeOutput(replace(model, **MODES[mode]), "portable")


class JetBlockNemotronOptimizer(io.ComfyNode):
    """Finds the settings that are fastest and change nothing."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="JetBlockNemotronOptimizer",
            display_name="JetBlock Nemotron Optimizer",
            category=CATEGORY,
            description="Lets the model answer a prompt with different numbers of guessed tokens, checks that each "
            "gives the same tokens, and keeps the fastest.",
            inputs=[
                LanguageModel.Input("model", tooltip=MODEL_INPUT),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default=PROMPT,
                    tooltip="What is like the work to come: guesses pay where text repeats.",
                ),
                io.Int.Input(
                    "max_tokens", default=64, min=8, max=4096, tooltip="Tokens of each trial; there are a dozen trials."
                ),
            ],
            outputs=[
                LanguageModel.Output(display_name="model", tooltip="The model with the fastest setting."),
                io.String.Output(
                    display_name="report", tooltip="What each setting took, and whether tokens are equal."
                ),
            ],
        )

    @classmethod
    def execute(cls, model: LanguageModel.Type, prompt: str, max_tokens: int) -> io.NodeOutput:
        """Measures."""
        chosen, report = fastest_guesses(model, prompt, max_tokens, models.stop_if_cancelled)
        return io.NodeOutput(chosen, report, ui=ui.PreviewText(report))


NODES: list[type[io.ComfyNode]] = [
    JetBlockNemotronLoader,
    JetBlockNemotronGenerate,
    JetBlockCascadeMode,
    JetBlockV3ModeSwitch,
    JetBlockNemotronOptimizer,
]
