"""Samplings of several models in turns: how long, how many calls of the network, how far from a reference."""

from __future__ import annotations

import platform
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.patcher_extension
import comfy.sample
import comfy.utils
import torch

from jetblock.diffusion.metrics import Similarity, similarity

if TYPE_CHECKING:
    from collections.abc import Callable

    from comfy.model_patcher import ModelPatcher
    from comfy.sd import VAE

KEY = "jetblock_count"


@dataclass(frozen=True)
class Sampling:
    """What is sampled."""

    positive: Any
    negative: Any
    latent: dict[str, Any]
    seed: int
    cfg: float
    sampler_name: str
    scheduler: str


@dataclass
class Variant:
    """One way to sample, and what was measured of it.

    Attributes:
        name: For people.
        model: The model, with its patches.
        steps: Of the sampler.
        milliseconds: Of each measured run.
        calls: Calls of the network in a run, each for a conditioning of an image.
        images: What it shows, `[B, H, W, C]`, where there is a VAE.
        relative_error: Of the latents, `|x - reference| / |reference|`.
        likeness: PSNR and SSIM of the images, by image.
    """

    name: str
    model: ModelPatcher
    steps: int
    milliseconds: list[float] = field(default_factory=list)
    calls: int = 0
    latents: torch.Tensor | None = None
    images: torch.Tensor | None = None
    relative_error: float = 0.0
    likeness: list[Similarity] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Of the measured runs, in milliseconds."""
        return statistics.median(self.milliseconds)

    @property
    def psnr(self) -> float | None:
        """Mean over the images; nothing without images or where all are equal to the reference."""
        finite = [one.psnr for one in self.likeness if one.mse]
        return statistics.fmean(finite) if finite else None

    @property
    def ssim(self) -> float | None:
        """Mean over the images."""
        return statistics.fmean(one.ssim for one in self.likeness) if self.likeness else None

    def table(self, reference: Variant) -> dict[str, Any]:
        """As JSON has it; names of ComfyUI's own benchmark capture where it has one for the thing."""
        images = 1 if self.latents is None else self.latents.shape[0]
        return {
            "name": self.name,
            "durations": {"sampler_ms": self.median, "sampler_ms_runs": self.milliseconds},
            "sampling": {"step_count": self.steps, "avg_it_per_s": 1000 * self.steps / self.median},
            "summary": {"sec_per_image": self.median / 1000 / images, "speedup": reference.median / self.median},
            "model_calls": self.calls,
            "quality": {
                "relative_error": self.relative_error,
                "psnr_db": self.psnr,
                "ssim": self.ssim,
                "equal_bits": same_bits(self.latents, reference.latents),
            },
        }

    def line(self, reference: Variant) -> str:
        """As people read it."""
        quality = "the same bits" if same_bits(self.latents, reference.latents) else f"error {self.relative_error:.2%}"
        if self.psnr is not None:
            quality += f", PSNR {self.psnr:.1f} dB, SSIM {self.ssim:.4f}"
        speed = f"{self.median:.0f} ms, {reference.median / self.median:.2f}x"
        return f"{self.name}: {self.steps} steps, {self.calls} calls, {speed}; {quality}"


def same_bits(left: torch.Tensor | None, right: torch.Tensor | None) -> bool:
    """Whether two latents are there and equal."""
    return left is not None and right is not None and torch.equal(left, right)


def sample(variant: Variant, sampling: Sampling) -> None:
    """One run, as KSampler does it; notes the calls and the latents, not the time."""
    model = variant.model.clone()
    calls = 0

    def count(executor: Callable[..., torch.Tensor], x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        nonlocal calls
        calls += x.shape[0]
        return executor(x, *args, **kwargs)

    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.APPLY_MODEL, KEY, count)
    latent = comfy.sample.fix_empty_latent_channels(model, sampling.latent["samples"])
    noise = comfy.sample.prepare_noise(latent, sampling.seed, sampling.latent.get("batch_index"))
    variant.latents = comfy.sample.sample(
        model,
        noise,
        variant.steps,
        sampling.cfg,
        sampling.sampler_name,
        sampling.scheduler,
        sampling.positive,
        sampling.negative,
        latent,
        noise_mask=sampling.latent.get("noise_mask"),
        disable_pbar=True,
        seed=sampling.seed,
    )
    variant.calls = calls


def measure(variants: list[Variant], sampling: Sampling, warmup_runs: int, measured_runs: int, vae: VAE | None) -> None:
    """Runs all variants in turns, so that what else the machine does meets each alike, and compares with the first."""
    progress = comfy.utils.ProgressBar((warmup_runs + measured_runs) * len(variants))
    for run in range(warmup_runs + measured_runs):
        for variant in variants:
            comfy.model_management.throw_exception_if_processing_interrupted()
            synchronize()
            start = time.perf_counter()
            sample(variant, sampling)
            synchronize()
            if run >= warmup_runs:
                variant.milliseconds.append((time.perf_counter() - start) * 1000)
            progress.update(1)
    reference = variants[0]
    for variant in variants:
        compare(variant, reference, vae)


def compare(variant: Variant, reference: Variant, vae: VAE | None) -> None:
    """Fills in how far the variant's result is from the reference's."""
    if variant.latents is None or reference.latents is None:
        raise RuntimeError("sample both first")
    difference = (variant.latents - reference.latents).double().norm()
    variant.relative_error = float(difference / reference.latents.double().norm())
    if vae is not None:
        decoded = vae.decode(variant.latents)
        variant.images = decoded.reshape(-1, *decoded.shape[-3:]).clamp(0, 1)
        if reference.images is not None:
            variant.likeness = similarity(variant.images, reference.images)


def synchronize() -> None:
    """Waits for what the GPU still does."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def device_table(model: ModelPatcher) -> dict[str, Any]:
    """The machine, in the field names of ComfyUI's own benchmark capture."""
    device = model.load_device
    on_gpu = device.type == "cuda"
    try:
        from comfyui_version import __version__ as version  # noqa: PLC0415 (not in every ComfyUI)
    except ImportError:
        version = None
    return {
        "backend": device.type,
        "gpu_model": torch.cuda.get_device_name(device) if on_gpu else None,
        "pytorch_version": torch.__version__,
        "comfyui_version": version,
        "os": platform.platform(),
        "platform": platform.system().lower(),
        "arch": platform.machine(),
        "cpu_model": platform.processor() or None,
        "cpu_threads": torch.get_num_threads(),
        "weight_dtype": str(model.model.get_dtype()).removeprefix("torch."),
    }
