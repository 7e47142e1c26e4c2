"""The nodes of the published JetBlock Optimizer 2.0 and 4.0 packs, and what of ours takes the place of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jetblock.diffusion.samplers import SAMPLERS

from ._exchange import MAIN, Constant, Given, Output, Replacement, is_link

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Meant = Callable[[Mapping[str, Any], Callable[[Any], str]], bool]

SKIP_MOST = 0.8
"""JetBlock Fast Sampler skips no larger part."""
SKIP_USUAL = 0.4
LEAST_THOUGHT = 256
"""Tokens that the published Cascade Mode gave to an answer without thought."""
SAMPLING = ("seed", "steps", "cfg", "sampler_name", "scheduler", "positive", "negative", "latent_image", "denoise")
ITS_MODEL = "model"
REPORT = "report"


@dataclass(frozen=True)
class Published:
    """A node as it was published."""

    sockets: tuple[str, ...]
    """Inputs that only links feed."""
    widgets: dict[str, Any]
    """The other inputs in the order in which workflows hold their values, with what they are at first."""
    outputs: tuple[str, ...]
    """Names of the outputs; no node of ours with the same id has the same ones."""
    becomes: Callable[[Given], Replacement]
    is_meant: Meant = lambda *_: True
    """Whether a node of this id with these inputs is the published one, where we have another of the id."""

    def replacement(self, given: Given) -> Replacement:
        """What takes its place."""
        given.inputs = {**self.widgets, **given.inputs}
        return self.becomes(given)


def has(name: str) -> Meant:
    """Nodes with an input that ours has not."""
    return lambda inputs, _: name in inputs


def lacks(name: str) -> Meant:
    """Nodes without an input that ours always has."""
    return lambda inputs, _: name not in inputs


def feeds(name: str, kind: str) -> Meant:
    """Nodes that get something of another kind than ours do."""
    return lambda inputs, kind_of: kind_of(inputs.get(name)) == kind


def one(class_type: str, slots: tuple[int | None, ...], *notes: str, **inputs: Any) -> Replacement:
    """One node; `slots` says which of its outputs stands for which old one."""
    outputs = tuple(None if slot is None else Output(MAIN, slot) for slot in slots)
    return Replacement({MAIN: (class_type, inputs)}, outputs, list(notes))


def told(*slots: int | None, note: str = "") -> Callable[[Given], Replacement]:
    """For a node that reported something: what JetBlock Compatibility reports."""
    notes = ["it reports on this ComfyUI", *filter(None, [note])]
    return lambda _: one("JetBlockCompatibility", slots, *notes, level="batch_invariant")


NO_PROCESS = "it set the whole process; put JetBlock Mode Switch between loader and sampler"
mode_told = told(0, note=NO_PROCESS)


def model_optimizer(given: Given) -> Replacement:
    """The level, and the exact one where no steps were to be skipped."""
    level = given["optimization_level"] if given.value("use_temporal_skip") else "low"
    return one("JetBlockModelOptimizer", (0, 1), model=given["model"], level=level)


def smart_optimizer(given: Given) -> Replacement:
    """The level that was asked for; the exact one where a guess or safety was."""
    level = given.value("override_level")
    level = "low" if given.value("safe_mode") or level == "auto" else level
    return one("JetBlockModelOptimizer", (0, 1), f"level {level}", model=given["model"], level=level)


def auto_tuner(given: Given) -> Replacement:
    """The exact level."""
    note = "level low; nothing watches the temperature"
    return one("JetBlockModelOptimizer", (0, 1), note, model=given["model"], level="low")


def fast(given: Given, skip_ratio: Any, *notes: str) -> Replacement:
    """KSampler on a model that skips steps."""
    nodes = {
        MAIN: ("KSampler", {"model": Output(ITS_MODEL), **given.take(*SAMPLING)}),
        ITS_MODEL: ("JetBlockFastSampler", {"model": given["model"], "skip_ratio": skip_ratio}),
        REPORT: ("JetBlockSkipReport", {"model": Output(ITS_MODEL), "samples": Output(MAIN)}),
    }
    return Replacement(nodes, (Output(MAIN), Output(REPORT, 1)), list(notes))


def sampler(given: Given) -> Replacement:
    """The published one skipped no step, whatever its skip_ratio."""
    skip_ratio, notes = given["skip_ratio"], ["steps are skipped now; skip_ratio 0 gives the picture of before"]
    if not is_link(skip_ratio) and skip_ratio > SKIP_MOST:
        notes.append(f"skip_ratio {skip_ratio} is {SKIP_MOST}, the most")
        skip_ratio = SKIP_MOST
    return fast(given, skip_ratio, *notes)


def interpolation_sampler(given: Given) -> Replacement:
    """Key frames were the steps that are computed. The published one gave its latent back as it was."""
    skip_ratio = min(round(1 - given.value("key_frame_ratio"), 2), SKIP_MOST)
    return fast(given, skip_ratio, f"key_frame_ratio is skip_ratio {skip_ratio}")


def cache_manager(given: Given) -> Replacement:
    """Gigabytes are MiB."""
    action = {"stats": "statistics", "optimize": "set limit", "clear": "clear"}[given.value("action")]
    limit = round(given.value("cache_size_gb") * 1024)
    return one("JetBlockCacheManager", (1,), action=action, limit_mib=limit)


def benchmark(given: Given) -> Replacement:
    """It knew no conditionings, without which no diffusion model runs; ComfyUI says that they are missing."""
    size = int(given.value("resolution"))
    latent = {"width": size, "height": size, "batch_size": given["batch_size"]}
    inputs = {"model": given["model"], "reference": given["model"], "measured_runs": given["iterations"]}
    nodes = {
        MAIN: ("JetBlockBenchmark", {**inputs, "latent_image": Output("latent")}),
        "latent": ("EmptyLatentImage", latent),
    }
    note = "it needs a positive and a negative conditioning, and as reference the model without patches"
    return Replacement(nodes, (Output(MAIN),), [note])


def deterministic_sampler(given: Given) -> Replacement:
    """With the validator where checksum or report are used; another pack's sampler on a deterministic model."""
    inputs, level = given.take(*SAMPLING), {"level": "batch_invariant"}
    validator = ("JetBlockChecksumValidator", {"latent": Output(MAIN)})
    outputs = (Output(MAIN), Output(REPORT), Output(REPORT, 2))
    name = inputs["sampler_name"]
    if is_link(name) or name in SAMPLERS:
        note = "a seed gives another image, as its noise belongs to the image"
        main = ("JetBlockDeterministicSampler", {"model": given["model"], **inputs, **level})
        return Replacement({MAIN: main, REPORT: validator}, outputs, [note])
    nodes = {
        MAIN: ("KSampler", {"model": Output(ITS_MODEL), **inputs}),
        ITS_MODEL: ("JetBlockDeterministicModel", {"model": given["model"], **level}),
        REPORT: validator,
    }
    note = f"{name} is none of JetBlock Deterministic Sampler's samplers, so noise depends on the place in the batch"
    return Replacement(nodes, outputs, [note])


def checksum_validator(given: Given) -> Replacement:
    """Passes its latent on; compares with a manifest, which a checksum of before is not."""
    expected, notes = given["expected_checksum"], []
    if is_link(expected) and given.class_of(expected) in DETERMINISTIC_SAMPLERS:
        kept = expected
    else:
        kept = None
        notes += ["expected_checksum is of another digest and dropped"] if expected else []
    latent = given["latent"]
    nodes = {MAIN: ("JetBlockChecksumValidator", {"latent": latent, "expected": kept})}
    return Replacement(nodes, (latent if is_link(latent) else None, Output(MAIN, 1), Output(MAIN, 2)), notes)


def checker(_: Given) -> Replacement:
    """Its advice was a level and a part of steps to skip: ours is what the nodes have at first."""
    advice = (Constant("low"), Constant(SKIP_USUAL), Constant(value=True), Constant(value=True))
    nodes = {MAIN: ("JetBlockCompatibility", {"level": "batch_invariant"})}
    return Replacement(nodes, (Output(MAIN), *advice), ["it reports on this ComfyUI, and gives one advice to all"])


def mode_switch(given: Given) -> Replacement:
    """For the model, not for the process."""
    mode = "speed" if given.value("determinism_level") == "speed" else "batch_invariant"
    return one("JetBlockModeSwitch", (0, 1, 1), f"mode {mode}", model=given["model"], mode=mode)


def mamba2(given: Given) -> Replacement:
    """A diffusion model has no Mamba-2 layers; what is left is that it computes each image for itself."""
    return one("JetBlockModeSwitch", (0, 1), model=given["model"], mode="batch_invariant")


def profiler(given: Given) -> Replacement:
    """Of a diffusion model, what breaks its promise."""
    return one("JetBlockCompatibility", (0, 0), level="batch_invariant", model=given["model"])


def cascade_mode(given: Given) -> Replacement:
    """Words and a number that it puts out for other nodes."""
    mode, query = given.value("mode"), given.inputs.get("query")
    if mode == "auto":
        mode = "think" if query else "no_think"
    budget = given.value("max_thinking_tokens") if mode == "think" else LEAST_THOUGHT
    outputs = (mode, budget, f"{mode}, at most {budget} tokens of thought")
    note = f"mode {mode}; for a language model use JetBlock Cascade Mode"
    return Replacement({}, tuple(map(Constant, outputs)), [note])


MODEL = ("model",)
SAMPLER = (*MODEL, "positive", "negative", "latent_image")
FAST_WIDGETS = {"seed": 0, "steps": 20, "cfg": 8.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
EXACT_WIDGETS = {**FAST_WIDGETS, "seed": 42, "cfg": 7.0}
SEED = {"seed": 42}

PUBLISHED: dict[str, Published] = {
    # 2.0
    "JetBlockModelOptimizer": Published(
        MODEL,
        {"optimization_level": "low", "use_temporal_skip": True, "cache_patterns": True},
        ("optimized_model", "stats"),
        model_optimizer,
        has("optimization_level"),
    ),
    "JetBlockSampler": Published(
        SAMPLER, {**FAST_WIDGETS, "skip_ratio": 0.8}, ("samples", "performance_stats"), sampler, has("positive")
    ),
    "JetBlockCacheManager": Published(
        (), {"action": "clear", "cache_size_gb": 8.0}, ("cache_info",), cache_manager, has("cache_size_gb")
    ),
    "JetBlockBenchmark": Published(
        MODEL,
        {"batch_size": 1, "resolution": "512", "iterations": 10},
        ("benchmark_results",),
        benchmark,
        has("iterations"),
    ),
    "JetBlockAutoOptimizer": Published(
        (), {"enable": True, "profile_mode": False}, ("status",), mode_told, has("profile_mode")
    ),
    "JetBlockDeterministicSampler": Published(
        SAMPLER, EXACT_WIDGETS, ("samples", "checksum", "determinism_report"), deterministic_sampler, lacks("level")
    ),
    "JetBlockChecksumValidator": Published(
        ("latent",),
        {"expected_checksum": ""},
        ("latent", "matches", "validation_report"),
        checksum_validator,
        has("expected_checksum"),
    ),
    "JetBlockModeSwitch": Published((), {"mode": "speed", **SEED}, ("status",), mode_told, has("seed")),
    "JetBlockCompatibilityChecker": Published(
        (),
        {"analyze_current": True, "auto_adjust": True, "workflow_json": ""},
        ("compatibility_report", "optimization_level", "skip_ratio", "use_temporal_skip", "use_pattern_cache"),
        checker,
    ),
    "JetBlockSmartOptimizer": Published(
        MODEL,
        {"auto_detect": True, "override_level": "auto", "safe_mode": False},
        ("optimized_model", "optimization_report"),
        smart_optimizer,
    ),
    "JetBlockWorkflowProfiler": Published(
        (), {"profile_depth": "quick", "show_recommendations": True}, ("profiling_report",), told(0)
    ),
    "JetBlockSafetySwitch": Published(
        (), {"enable_optimizations": True, "reset_cache": False, "verbose_logging": False}, ("status",), mode_told
    ),
    "CosmosGPUMonitor": Published(
        (),
        {"update_interval": 1.0, "show_graph": True},
        ("stats", "temperature", "power", "memory_used", "health_status"),
        told(0, None, None, None, 0),
    ),
    "CosmosPredictiveLoader": Published(
        (),
        {"current_node": "", "enable_preloading": True, "max_preload_gb": 8.0},
        ("predictions", "preloaded_models"),
        told(0, 0, note="ComfyUI loads models itself"),
    ),
    "CosmosWorkflowLearner": Published(
        (),
        {"node_type": "", "execution_time": 0.0, "model_used": "", "save_patterns": True},
        ("learning_report",),
        told(0),
    ),
    "CosmosInterpolationSampler": Published(
        SAMPLER,
        {**FAST_WIDGETS, "interpolation_strength": 0.7, "key_frame_ratio": 0.3},
        ("samples", "interpolation_stats"),
        interpolation_sampler,
    ),
    "CosmosDashboard": Published((), {"refresh": True}, ("dashboard",), told(0)),
    "CosmosAutoTuner": Published(
        MODEL,
        {"target_temperature": 75.0, "aggressive_mode": False},
        ("tuned_model", "tuning_report"),
        auto_tuner,
    ),
    # 4.0
    "JetBlockNemotronOptimizer": Published(
        MODEL,
        {
            "determinism_level": "speed",
            "enable_mamba2_determinism": True,
            "enable_moe_determinism": True,
            "enable_attention_optimization": True,
            **SEED,
        },
        ("optimized_model", "architecture_report", "optimization_report"),
        mode_switch,
        has("determinism_level"),
    ),
    "JetBlockHybridProfiler": Published(
        MODEL, {}, ("architecture_summary", "detailed_report"), profiler, feeds("model", "MODEL")
    ),
    "JetBlockMamba2Deterministic": Published(
        MODEL,
        {"force_torch_forward": True, "use_fp32_ssm_states": True, "validate_determinism": False},
        ("model", "status"),
        mamba2,
        has("force_torch_forward"),
    ),
    "JetBlockCascadeMode": Published(
        (),
        {"mode": "auto", "query": "", "max_thinking_tokens": 8192},
        ("selected_mode", "thinking_budget", "analysis"),
        cascade_mode,
        has("mode"),
    ),
    "JetBlockV4DeterministicSampler": Published(
        SAMPLER,
        {**EXACT_WIDGETS, "determinism_level": "strict"},
        ("samples", "checksum", "report"),
        deterministic_sampler,
    ),
    "JetBlockV4ModeSwitch": Published((), {"mode": "speed", **SEED}, ("status",), mode_told),
    "JetBlockUniversalDeterminism": Published(
        MODEL, {"determinism_level": "speed", **SEED}, ("model", "status"), mode_switch
    ),
}
DETERMINISTIC_SAMPLERS = ("JetBlockDeterministicSampler", "JetBlockV4DeterministicSampler")
