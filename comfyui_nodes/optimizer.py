"""Levels of speed for a model, chosen by hand or by the model and the machine; and JetBlock's caches."""

import json
import time
from typing import Any

import comfy.samplers
from comfy_api.latest import io, ui

from jetblock import ops
from jetblock.handles import MODELS

from ._levels import LEVELS, optimized
from ._measure import Sampling, Variant, measure
from ._rows import KEY as DETERMINISTIC

CATEGORY = "JetBlock/speed"
SPARSE_TOKENS = 4096
"""From here on attention in two paths is faster than PyTorch's, on the machines measured."""
MANY_STEPS = 12


class JetBlockModelOptimizer(io.ComfyNode):
    """A model at a level of speed, with what the levels cost."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        samplers, schedulers = comfy.samplers.KSampler.SAMPLERS, comfy.samplers.KSampler.SCHEDULERS
        return io.Schema(
            node_id="JetBlockModelOptimizer",
            display_name="JetBlock Model Optimizer",
            category=CATEGORY,
            description="Makes a model faster by a level, from exact to experimental, and measures on request what "
            "each level saves and how far it is from the plain model.",
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model, with its LoRAs and patches."),
                io.Combo.Input(
                    "level",
                    options=list(LEVELS),
                    default="low",
                    tooltip="; ".join(f"{name}: {level.means}" for name, level in LEVELS.items()) + ". extreme is "
                    "experimental.",
                ),
                io.Int.Input(
                    "sparse_tokens",
                    default=SPARSE_TOKENS,
                    min=64,
                    max=1 << 20,
                    tooltip="high and extreme: tokens from which attention goes in two paths.",
                ),
                io.Boolean.Input(
                    "measure",
                    default=False,
                    tooltip="Samples with every level and reports time and error; wants the inputs below.",
                ),
                io.Int.Input("steps", default=20, min=1, max=1000, tooltip="For measuring: steps of the sampler."),
                io.Float.Input("cfg", default=4.0, min=0.0, max=100.0, step=0.1, tooltip="For measuring: guidance."),
                io.Combo.Input(
                    "sampler_name", options=samplers, default="euler", tooltip="For measuring: the sampler."
                ),
                io.Combo.Input(
                    "scheduler", options=schedulers, default="simple", tooltip="For measuring: its noise levels."
                ),
                io.Int.Input(
                    "measured_runs",
                    default=3,
                    min=1,
                    max=50,
                    tooltip="For measuring: runs of which the median is taken.",
                ),
                io.Conditioning.Input("positive", optional=True, tooltip="For measuring: what the picture shows."),
                io.Conditioning.Input("negative", optional=True, tooltip="For measuring: what it does not show."),
                io.Latent.Input("latent_image", optional=True, tooltip="For measuring: the empty latent."),
                io.Vae.Input("vae", optional=True, tooltip="For measuring: adds PSNR and SSIM."),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model at this level."),
                io.String.Output(display_name="text", tooltip="What the level does; where measured, a line per level."),
                io.String.Output(display_name="json", tooltip="The same as JSON."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: io.Model.Type,
        level: str,
        sparse_tokens: int,
        measure: bool,  # noqa: FBT001 (a switch in the page)
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        measured_runs: int,
        positive: io.Conditioning.Type | None = None,
        negative: io.Conditioning.Type | None = None,
        latent_image: io.Latent.Type | None = None,
        vae: io.Vae.Type | None = None,
    ) -> io.NodeOutput:
        """Patches the model, and measures if asked."""
        faster = optimized(model, level, sparse_tokens)
        if not measure:
            return io.NodeOutput(faster, f"{level}: {words(level)}", json.dumps({"level": level, "levels": []}))
        if positive is None or negative is None or latent_image is None:
            raise ValueError("measure is on and wants the inputs positive, negative and latent_image")
        sampling = Sampling(positive, negative, latent_image, 0, cfg, sampler_name, scheduler)
        text, table = measured(model, sampling, steps, sparse_tokens, measured_runs, vae)
        return io.NodeOutput(faster, f"{level}: {words(level)}\n{text}", json.dumps({"level": level, "levels": table}))


def words(level: str) -> str:
    """What a level does, with what the levels before it do."""
    names = list(LEVELS)
    return ", ".join(LEVELS[name].means for name in names[: names.index(level) + 1])


def measured(
    model: Any, sampling: Sampling, steps: int, sparse_tokens: int, runs: int, vae: Any
) -> tuple[str, list[dict[str, Any]]]:
    """Samples with the model and with every level of it, in turns."""
    variants = [Variant("plain", model, steps)]
    variants += [Variant(name, optimized(model, name, sparse_tokens), steps) for name in LEVELS]
    measure(variants, sampling, 1, runs, vae)
    lines = [variant.line(variants[0]) for variant in variants]
    return "\n".join(lines), [variant.table(variants[0]) for variant in variants]


class JetBlockAutoOptimizer(io.ComfyNode):
    """The level that suits model, machine and number of steps."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="JetBlockAutoOptimizer",
            display_name="JetBlock Auto Optimizer",
            category=CATEGORY,
            description="Chooses the level of JetBlock Model Optimizer for this model, machine and number of steps, "
            "and says why.",
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model, with its LoRAs and patches."),
                io.Latent.Input("latent_image", tooltip="What will be sampled; its size decides about attention."),
                io.Int.Input("steps", default=20, min=1, max=1000, tooltip="Steps of the sampler to come."),
                io.Combo.Input(
                    "priority",
                    options=["quality", "balanced", "speed"],
                    default="balanced",
                    tooltip="quality: nothing that changes the picture. speed: more risk.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model at the chosen level."),
                io.String.Output(display_name="level", tooltip="The chosen level."),
                io.String.Output(display_name="why", tooltip="The reasons."),
            ],
        )

    @classmethod
    def execute(cls, model: io.Model.Type, latent_image: io.Latent.Type, steps: int, priority: str) -> io.NodeOutput:
        """Looks, chooses and patches."""
        level, why = choose(model, latent_image["samples"].shape, steps, priority)
        return io.NodeOutput(optimized(model, level, SPARSE_TOKENS), level, why)


def choose(model: Any, shape: tuple[int, ...], steps: int, priority: str) -> tuple[str, str]:
    """The level and the reasons."""
    network = model.model.diffusion_model
    size = sum(parameter.numel() for parameter in network.parameters())
    facts = f"{type(network).__name__}, {size / 1e6:.1f} million parameters, {model.load_device.type}, {steps} steps"
    wrappers = model.wrappers.get("apply_model", {})
    # Transformers see patches of 2 x 2.
    tokens = 1
    for side in shape[2:]:
        tokens *= side
    tokens //= 4
    if priority == "quality":
        level, reason = "low", "quality asks for the exact model"
    elif steps < MANY_STEPS:
        level, reason = "low", f"with fewer than {MANY_STEPS} steps each one counts, so none is skipped"
    elif priority == "balanced":
        level, reason = "medium", "with that many steps, some can be continued from those before"
    elif DETERMINISTIC in wrappers:
        level, reason = "medium", "the model is deterministic, and two-path attention is not computed by the contract"
    elif tokens < SPARSE_TOKENS:
        level, reason = "medium", f"about {tokens} tokens, and two-path attention pays from {SPARSE_TOKENS}"
    else:
        level, reason = "high", f"about {tokens} tokens, of which attention need not see all exactly"
    return level, f"{level}: {reason} ({facts}). {words(level).capitalize()}."


class JetBlockCacheManager(io.ComfyNode):
    """What JetBlock keeps in memory."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="JetBlockCacheManager",
            display_name="JetBlock Cache Manager",
            category=CATEGORY,
            description="Shows, empties or bounds what JetBlock keeps in memory: weights in the form that its "
            "operators and 8-bit layers read, and the language models used last.",
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "action",
                    options=["statistics", "clear", "set limit"],
                    default="statistics",
                    tooltip="What to do before the statistics are taken.",
                ),
                io.Int.Input(
                    "limit_mib",
                    default=4096,
                    min=0,
                    max=1 << 24,
                    tooltip="For set limit: bytes that are kept at most, in MiB; 0 keeps nothing.",
                ),
                io.AnyType.Input("after", optional=True, tooltip="Anything: the node runs when it is there."),
            ],
            outputs=[
                io.AnyType.Output(display_name="after", tooltip="The same."),
                io.String.Output(display_name="text", tooltip="Statistics in words."),
                io.String.Output(display_name="json", tooltip="The same as JSON."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> int:
        """Never the same: what it shows changes by itself."""
        return time.monotonic_ns()

    @classmethod
    def execute(cls, action: str, limit_mib: int, after: Any = None) -> io.NodeOutput:
        """Acts, then looks."""
        freed, freed_models = ops.weight_cache_stats()["bytes"], 0
        if action == "clear":
            ops.clear_weight_cache()
            freed_models = MODELS.clear()
        elif action == "set limit":
            ops.set_weight_cache_limit(limit_mib << 20)
        stats: dict[str, Any] = dict(ops.weight_cache_stats())
        stats["freed"] = freed - stats["bytes"]
        text = (
            f"{stats['weights']} packed weights, {stats['bytes'] / 2**20:.1f} MiB of at most"
            f" {stats['limit'] / 2**20:.0f} MiB; {stats['packed']} packings so far"
        )
        if stats["freed"]:
            text += f"; {stats['freed'] / 2**20:.1f} MiB freed"
        language = MODELS.stats
        text += f"\n{language['models']} language models, {language['bytes'] / 2**20:.1f} MiB"
        stats["language_models"] = {**language, "freed": freed_models}
        return io.NodeOutput(after, text, json.dumps(stats), ui=ui.PreviewText(text))


NODES: list[type[io.ComfyNode]] = [JetBlockModelOptimizer, JetBlockAutoOptimizer, JetBlockCacheManager]
