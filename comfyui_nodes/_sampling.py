"""Noise and samplers of `jetblock.diffusion` as ComfyUI's objects, and a whole run of sampling made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import comfy.model_sampling
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch

import jetblock
from jetblock.diffusion.noise import image_noise
from jetblock.diffusion.samplers import Walk, sample

if TYPE_CHECKING:
    from collections.abc import Callable

    from comfy.model_patcher import ModelPatcher


class ImageNoise:
    """ComfyUI's NOISE: each image has its own, whatever its batch.

    Image i of a latent is number `first_image + i`, or `first_image + batch_index[i]` where an earlier node left the
    numbers in the latent, as *Latent From Batch* does.
    """

    def __init__(self, seed: int, first_image: int = 0) -> None:
        self.seed = seed
        self.first_image = first_image
        self.images: list[int] = []

    def generate_noise(self, latent: dict[str, Any]) -> torch.Tensor:
        """The start noise. Remembers the numbers of the images for the sampler, which does not see the latent."""
        samples = latent["samples"]
        if samples.is_nested:
            raise ValueError("latents of several parts (audio with video) have no noise by image, expected one tensor")
        numbers = latent.get("batch_index") or range(samples.shape[0])
        self.images = [self.first_image + number for number in numbers]
        return image_noise(self.seed, self.images, samples.shape[1:]).to(samples.dtype)


class ImageSampler(comfy.samplers.KSAMPLER):
    """ComfyUI's SAMPLER: a walk of `jetblock.diffusion.samplers` with the noise of the images."""

    def __init__(self, name: str, eta: float, s_noise: float, noise: ImageNoise | None) -> None:
        super().__init__(self.walk)
        self.name, self.eta, self.s_noise, self.noise = name, eta, s_noise, noise

    def walk(
        self,
        model: Any,
        x: torch.Tensor,
        sigmas: torch.Tensor,
        extra_args: dict[str, Any],
        callback: Callable[[dict[str, Any]], None] | None,
        disable: bool,  # noqa: ARG002, FBT001 (of a progress bar; ComfyUI's own shows the steps)
    ) -> torch.Tensor:
        """What ComfyUI calls, with its arguments."""
        seed, images = (self.noise.seed, self.noise.images) if self.noise else (extra_args["seed"], [])
        images = images if len(images) == x.shape[0] else list(range(x.shape[0]))
        levels = sigmas.tolist()

        def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
            return model(x, x.new_full((x.shape[0],), sigma), **extra_args).float()

        def report(step: int, x: torch.Tensor, denoised: torch.Tensor) -> None:
            if callback:
                callback({"i": step, "x": x, "denoised": denoised, "sigma": levels[step], "sigma_hat": levels[step]})

        walk = Walk(
            denoise=denoise,
            noise=lambda step: image_noise(seed, images, x.shape[1:], step + 1),
            sigmas=levels,
            flow=isinstance(model.inner_model.inner_model.model_sampling, comfy.model_sampling.CONST),
            eta=self.eta,
            s_noise=self.s_noise,
            report=report,
        )
        return sample(self.name, walk, x)


def sigmas_of(model: ModelPatcher, scheduler: str, steps: int, denoise: float) -> torch.Tensor:
    """ComfyUI's noise levels, by the contract's operators; those at the end of a longer run where denoise < 1."""
    if denoise <= 0:
        return torch.empty(0)
    with torch.no_grad(), jetblock.deterministic(strict=False):
        sigmas = comfy.samplers.calculate_sigmas(
            model.get_model_object("model_sampling"), scheduler, int(steps / denoise)
        )
    return sigmas[-(steps + 1) :]


def sample_images(
    model: ModelPatcher,
    noise: ImageNoise,
    sampler: ImageSampler,
    sigmas: torch.Tensor,
    cfg: float,
    conditioning: tuple[Any, Any],
    latent: dict[str, Any],
) -> dict[str, Any]:
    """A run of sampling on a latent; returns the latent with its result and the numbers of its images."""
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    out = {**latent, "samples": samples}
    start = noise.generate_noise(out)
    out["batch_index"] = noise.images
    check_emptiness(samples)
    masks = latent.get("noise_mask")
    out["samples"] = comfy.sample.sample_custom(
        model,
        start,
        cfg,
        sampler,
        sigmas,
        *conditioning,
        samples,
        noise_mask=None if masks is None else masks_of(masks, samples),
        callback=latent_preview.prepare_callback(model, len(sigmas) - 1),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=noise.seed,
    )
    return out


def check_emptiness(samples: torch.Tensor) -> None:
    """ComfyUI leaves an empty latent as it is and shifts any other, by the batch as a whole."""
    empty = [not torch.count_nonzero(image) for image in samples]
    if any(empty) and not all(empty):
        raise ValueError(f"image {empty.index(True)} of the latent is empty and others are not: sample them apart")


def masks_of(masks: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
    """Inpainting masks in the size of the latent, each resized alone."""
    masks = masks.reshape(-1, 1, *masks.shape[-2:])
    if samples.ndim != 4:
        return masks
    resized = [comfy.utils.reshape_mask(mask[None].clone(), (1, 1, *samples.shape[2:])) for mask in masks]
    return torch.cat(resized)
