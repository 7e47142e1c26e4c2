"""Key frames inside ComfyUI: a Cosmos network that is given some frames of a video, at their own places in time."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import comfy.model_base
import torch

from jetblock.diffusion.frames import FrameSkipper, key_frames

from ._skip import FRAMES_KEY, attach, detached

if TYPE_CHECKING:
    from collections.abc import Callable

    from comfy.model_patcher import ModelPatcher

COSMOS = (comfy.model_base.CosmosVideo, comfy.model_base.CosmosPredict2)
POSITIONS = ("pos_embedder", "extra_pos_embedder")
"""Parts of the networks that know of time."""


@dataclass
class Frames:
    """What the last sampling of a patched model computed."""

    stride: int
    full_every: int
    computed: int = 0
    skipped: int = 0

    def text(self) -> str:
        """In words."""
        total = self.computed + self.skipped
        if not total:
            return "This model has not sampled yet."
        if not self.skipped:
            return "No frame skipped: the video is too short for this stride, or the steps are too few."
        return f"{self.skipped} of {total} frames followed their neighbours ({self.skipped / total:.0%})."


def check_cosmos(model: ModelPatcher) -> None:
    """Refuses other architectures."""
    if not isinstance(model.model, COSMOS):
        raise ValueError(  # noqa: TRY004 (of the graph, not of the program)
            f"this model is {type(model.model).__name__}, expected Cosmos or Cosmos Predict2"
        )


def frames_of(model: ModelPatcher) -> Frames | None:
    """What the model skipped last; nothing for a model without the patch."""
    return model.get_attachment(FRAMES_KEY)


def frame_skipping_model(model: ModelPatcher, stride: int, full_every: int) -> ModelPatcher:
    """A clone of a Cosmos model that computes key frames alone in some steps."""
    check_cosmos(model)
    key_frames(1, stride)
    FrameSkipper(stride, full_every, [])
    clone = without_frame_skips(model)
    network = clone.model.diffusion_model
    if network.patch_temporal != 1:
        raise ValueError(f"this network joins {network.patch_temporal} frames into one, expected 1")
    told = Frames(stride, full_every)
    places = [Places(getattr(network, name)) for name in POSITIONS if getattr(network, name, None) is not None]
    for name, place in zip(POSITIONS, places, strict=False):
        clone.add_object_patch(f"diffusion_model.{name}.generate_embeddings", place)

    def around_run(executor: Any, guider: Any, sigmas: torch.Tensor, *args: Any) -> Any:
        extra_args, _, noise = args[:3]
        if noise.ndim != 5:
            raise RuntimeError(f"the latent is {list(noise.shape)}, expected a video [B, C, T, H, W]")
        run = _Run(FrameSkipper(stride, full_every, sigmas.tolist()), places)
        extra_args["model_options"]["transformer_options"][FRAMES_KEY] = run
        try:
            return executor(guider, sigmas, *args)
        finally:
            told.computed, told.skipped = run.skipper.computed, run.skipper.skipped
            logging.getLogger(__name__).info("JetBlock: %s", told.text())

    return attach(clone, FRAMES_KEY, told, (around_run, around_prediction, around_conditionings))


def without_frame_skips(model: ModelPatcher) -> ModelPatcher:
    """A clone of the model that computes all frames."""
    clone = detached(model, FRAMES_KEY)
    for name in [name for name, patch in clone.object_patches.items() if isinstance(patch, Places)]:
        del clone.object_patches[name]
    return clone


class Places:
    """Embeddings of positions as they are in the whole video, for the frames that are computed."""

    def __init__(self, embedder: Any) -> None:
        own = embedder.generate_embeddings
        self.generate: Callable[..., torch.Tensor] = own.generate if isinstance(own, Places) else own
        self.frames: list[int] | None = None
        self.whole = 0

    def __call__(self, shape: torch.Size, *args: Any, **kwargs: Any) -> torch.Tensor:
        """For `[B, T, H, W, D]`: rotary `[T H W, ..]`, or learned `[B, T, H, W, D]`."""
        if self.frames is None:
            return self.generate(shape, *args, **kwargs)
        embeddings = self.generate(torch.Size((shape[0], self.whole, *shape[2:])), *args, **kwargs)
        if embeddings.ndim == len(shape) and embeddings.shape[1] == self.whole:
            return embeddings[:, self.frames]
        by_frame = embeddings.reshape(self.whole, -1, *embeddings.shape[1:])
        return by_frame[self.frames].reshape(-1, *embeddings.shape[1:])


@dataclass
class _Run:
    """One sampling run: its memory, and the frames that the call under way is for."""

    skipper: FrameSkipper
    places: list[Places]
    frames: list[int] | None = None


def around_prediction(
    executor: Callable[..., torch.Tensor],
    x: torch.Tensor,
    timestep: torch.Tensor,
    model_options: dict[str, Any] | None = None,
    seed: int | None = None,
) -> torch.Tensor:
    """Computes all frames or key frames."""
    options = model_options or {}
    run: _Run | None = options.get("transformer_options", {}).get(FRAMES_KEY)
    if run is None:
        return executor(x, timestep, options, seed)

    def compute(frames: list[int]) -> torch.Tensor:
        if len(frames) == x.shape[2]:
            return executor(x, timestep, options, seed)
        run.frames = frames
        for place in run.places:
            place.frames, place.whole = frames, x.shape[2]
        try:
            return executor(x, timestep, options, seed)[:, :, frames]
        finally:
            run.frames = None
            for place in run.places:
                place.frames = None

    return run.skipper.predict(x, float(timestep.flatten()[0]), compute)


def around_conditionings(
    executor: Callable[..., list[torch.Tensor]],
    model: Any,
    conds: list[list[dict[str, Any]] | None],
    x: torch.Tensor,
    timestep: torch.Tensor,
    model_options: dict[str, Any],
) -> list[torch.Tensor]:
    """Gives the network the chosen frames alone; in the others' places stands x, which nobody reads."""
    run: _Run | None = model_options.get("transformer_options", {}).get(FRAMES_KEY)
    frames = run.frames if run else None
    if frames is None:
        return executor(model, conds, x, timestep, model_options)
    whole = x.shape[2]
    chosen = [None if cond is None else [of_frames(part, frames, whole) for part in cond] for cond in conds]
    results = []
    for computed in executor(model, chosen, x[:, :, frames], timestep, model_options):
        filled = x.clone()
        filled[:, :, frames] = computed.to(filled.dtype)
        results.append(filled)
    return results


def of_frames(cond: dict[str, Any], frames: list[int], whole: int) -> dict[str, Any]:
    """A conditioning of a whole video, for some of its frames."""
    for name in ("mask", "area", "control"):
        if cond.get(name) is not None:
            raise RuntimeError(f"a conditioning with {name} cannot be cut into frames: disconnect the temporal skipper")

    def pick(value: Any) -> Any:
        is_video = isinstance(value, torch.Tensor) and value.ndim == 5 and value.shape[2] == whole
        return value[:, :, frames] if is_video else value

    conditions = {name: type(value)(pick(value.cond)) for name, value in cond["model_conds"].items()}
    return {**cond, "model_conds": conditions}
