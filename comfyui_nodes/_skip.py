"""Skipped steps inside ComfyUI: around the guider's prediction, which every architecture and sampler goes through.

Wrappers of `DIFFUSION_MODEL`, which other packs use for this, are not called by all of ComfyUI's models (SD3, for one).
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import comfy.model_sampling
import comfy.patcher_extension
import torch

from jetblock.diffusion.skipping import SkipSettings, StepSkipper

if TYPE_CHECKING:
    from collections.abc import Callable

    from comfy.model_patcher import ModelPatcher

KEY = "jetblock_skip"
"""Under which the wrappers are attached: a model patched twice skips as the last node says."""
FRAMES_KEY = "jetblock_frames"
"""The key of the wrappers in `_frames.py`."""
WRAPPED = (
    comfy.patcher_extension.WrappersMP.SAMPLER_SAMPLE,
    comfy.patcher_extension.WrappersMP.PREDICT_NOISE,
    comfy.patcher_extension.WrappersMP.CALC_COND_BATCH,
)
"""What is wrapped to compute a part of a step: a run, its predictions, the calls of the network."""
WITHOUT_NOISE = {
    f"sample_{name}"
    for name in (
        *("euler", "heun", "heunpp2", "dpm_2", "lms", "dpmpp_2m", "ipndm", "ipndm_v", "deis", "res_multistep"),
        *("gradient_estimation", "unipc", "unipc_bh2"),
    )
}
"""Sampler functions of ComfyUI that add no noise in their steps; others are taken to add some."""


@dataclass
class Skips:
    """What the last sampling of a patched model skipped."""

    settings: SkipSettings
    steps: int = 0
    computed: list[int] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)

    def text(self) -> str:
        """In words."""
        if not self.steps:
            return "This model has not sampled yet."
        if self.steps < self.settings.minimum_steps:
            return f"Nothing skipped: {self.steps} steps, and below {self.settings.minimum_steps} each one counts."
        images = [
            f"image {image}: {computed} calls computed, {skipped} saved"
            for image, (computed, skipped) in enumerate(zip(self.computed, self.skipped, strict=True))
        ]
        saved, total = sum(self.skipped), sum(self.skipped) + sum(self.computed)
        return "\n".join([f"{saved} of {total} calls of the model saved ({saved / max(total, 1):.0%}).", *images])

    def table(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def skipping_model(model: ModelPatcher, settings: SkipSettings) -> ModelPatcher:
    """A clone of the model that skips steps in every sampler."""
    skips = Skips(settings)
    clone = without_skips(model)

    def around_run(executor: Any, guider: Any, sigmas: torch.Tensor, *args: Any) -> Any:
        """A run's memory goes with the run's own options and ends with them."""
        extra_args, _, noise = args[:3]
        sampler = executor.class_obj
        name = getattr(getattr(sampler, "sampler_function", None), "__name__", "")
        if "cfg_pp" in name:
            raise RuntimeError(
                f"{name} needs the unconditional prediction of every step, so none can be skipped: take the sampler"
                " without cfg_pp, or disconnect JetBlock Fast Sampler"
            )
        adds_noise = name not in WITHOUT_NOISE or sampler.extra_options.get("s_churn", 0) > 0
        mixes = isinstance(guider.model_patcher.get_model_object("model_sampling"), comfy.model_sampling.CONST)
        run = _Run(StepSkipper(settings, sigmas.tolist(), noise.shape[0], adds_noise=adds_noise, mixes=mixes))
        extra_args["model_options"]["transformer_options"][KEY] = run
        try:
            return executor(guider, sigmas, *args)
        finally:
            skips.steps = len(sigmas) - 1
            skips.computed, skips.skipped = run.skipper.computed, run.skipper.skipped
            logging.getLogger(__name__).info("JetBlock: %s", skips.text().splitlines()[0])

    return attach(clone, KEY, skips, (around_run, around_prediction, around_conditionings))


def attach(model: ModelPatcher, key: str, told: object, wrappers: tuple[Callable[..., Any], ...]) -> ModelPatcher:
    """Puts wrappers of `WRAPPED` on the model, and what they tell beside it.

    Steps are skipped around skipped frames, in whatever order the nodes stand.
    """
    for kind, wrapper in zip(WRAPPED, wrappers, strict=True):
        model.add_wrapper_with_key(kind, key, wrapper)
    model.set_attachments(key, told)
    predictions = model.wrappers[comfy.patcher_extension.WrappersMP.PREDICT_NOISE]
    if FRAMES_KEY in predictions:
        predictions[FRAMES_KEY] = predictions.pop(FRAMES_KEY)
    return model


def detached(model: ModelPatcher, key: str) -> ModelPatcher:
    """A clone of the model without what `attach` puts on it."""
    clone = model.clone()
    for kind in WRAPPED:
        clone.remove_wrappers_with_key(kind, key)
    clone.remove_attachments(key)
    return clone


def without_skips(model: ModelPatcher) -> ModelPatcher:
    """A clone of the model that skips nothing."""
    return detached(model, KEY)


def skips_of(model: ModelPatcher) -> Skips | None:
    """What the model skipped last; nothing for a model without the patch."""
    return model.get_attachment(KEY)


@dataclass
class _Run:
    """One sampling run: its memory, and which images the call under way is for."""

    skipper: StepSkipper
    rows: list[int] | None = None


def around_prediction(
    executor: Callable[..., torch.Tensor],
    x: torch.Tensor,
    timestep: torch.Tensor,
    model_options: dict[str, Any] | None = None,
    seed: int | None = None,
) -> torch.Tensor:
    """Computes the prediction or continues the last ones, image by image."""
    options = model_options or {}
    run: _Run | None = options.get("transformer_options", {}).get(KEY)
    if run is None:  # not a sampler's call
        return executor(x, timestep, options, seed)

    def compute(rows: list[int]) -> torch.Tensor:
        if len(rows) == x.shape[0]:
            return executor(x, timestep, options, seed)
        run.rows = rows
        try:
            return executor(x, timestep, options, seed)[rows]
        finally:
            run.rows = None

    return run.skipper.predict(x, float(timestep.flatten()[0]), compute)


def around_conditionings(
    executor: Callable[..., list[torch.Tensor]],
    model: Any,
    conds: list[list[dict[str, Any]] | None],
    x: torch.Tensor,
    timestep: torch.Tensor,
    model_options: dict[str, Any],
) -> list[torch.Tensor]:
    """Gives the network the chosen images alone; in the others' places stands x, which nobody reads."""
    run: _Run | None = model_options.get("transformer_options", {}).get(KEY)
    rows = run.rows if run else None
    if rows is None:
        return executor(model, conds, x, timestep, model_options)
    images = x.shape[0]
    chosen = [None if cond is None else [of_rows(part, rows, images) for part in cond] for cond in conds]
    results = []
    for computed in executor(model, chosen, x[rows], timestep[rows], model_options):
        whole = x.clone()
        whole[rows] = computed.to(whole.dtype)
        results.append(whole)
    return results


def of_rows(cond: dict[str, Any], rows: list[int], images: int) -> dict[str, Any]:
    """A conditioning of all images, for some of them."""
    if cond.get("control") is not None:
        raise RuntimeError("mode adaptive computes images apart, which ControlNet cannot: take mode fixed")

    def pick(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.ndim > 0 and value.shape[0] == images:
            return value[rows]
        return [pick(item) for item in value] if isinstance(value, list) else value

    chosen = {name: pick(value) for name, value in cond.items() if name != "model_conds"}
    chosen["model_conds"] = {name: type(value)(pick(value.cond)) for name, value in cond["model_conds"].items()}
    return chosen
