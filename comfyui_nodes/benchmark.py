"""Measures a patched model beside the plain one."""

import json
import time

import comfy.samplers
import torch
from comfy_api.latest import io

from ._chart import chart
from ._measure import Sampling, Variant, device_table, measure, sample

CATEGORY = "JetBlock/speed"


class JetBlockBenchmark(io.ComfyNode):
    """Time, calls and error of a model, beside the plain model with the same number of calls."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        samplers, schedulers = comfy.samplers.KSampler.SAMPLERS, comfy.samplers.KSampler.SCHEDULERS
        return io.Schema(
            node_id="JetBlockBenchmark",
            display_name="JetBlock Benchmark",
            category=CATEGORY,
            description="Measures what a patch of a model saves and costs: time, calls of the network and error "
            "against the plain model, and beside it the plain model with as many calls, which is the honest rival.",
            inputs=[
                io.Model.Input("model", tooltip="The patched model, for example of JetBlock Fast Sampler."),
                io.Model.Input("reference", tooltip="The same model without the patch."),
                io.Conditioning.Input("positive", tooltip="What the picture shows."),
                io.Conditioning.Input("negative", tooltip="What it does not show."),
                io.Latent.Input("latent_image", tooltip="The empty latent; its size and batch are measured."),
                io.Vae.Input("vae", optional=True, tooltip="For PSNR, SSIM and pictures; without it, latents alone."),
                io.Int.Input("seed", default=0, min=0, max=2**64 - 1, tooltip="Of the noise."),
                io.Int.Input("steps", default=20, min=1, max=1000, tooltip="Of the sampler."),
                io.Float.Input("cfg", default=4.0, min=0.0, max=100.0, step=0.1, tooltip="Guidance."),
                io.Combo.Input("sampler_name", options=samplers, default="euler", tooltip="The sampler."),
                io.Combo.Input("scheduler", options=schedulers, default="simple", tooltip="Its noise levels."),
                io.Int.Input("warmup_runs", default=1, min=0, max=10, tooltip="Runs that are not counted."),
                io.Int.Input("measured_runs", default=5, min=1, max=100, tooltip="Runs of which the median is taken."),
            ],
            outputs=[
                io.String.Output(display_name="text", tooltip="A line for each variant."),
                io.String.Output(display_name="json", tooltip="Everything measured, and the machine."),
                io.Image.Output(display_name="chart", tooltip="The same as a picture."),
                io.Image.Output(display_name="images", tooltip="First image of each variant; black without a VAE."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: io.Model.Type,
        reference: io.Model.Type,
        positive: io.Conditioning.Type,
        negative: io.Conditioning.Type,
        latent_image: io.Latent.Type,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        warmup_runs: int,
        measured_runs: int,
        vae: io.Vae.Type | None = None,
    ) -> io.NodeOutput:
        """Runs plain, patched and fewer plain steps in turns."""
        sampling = Sampling(positive, negative, latent_image, seed, cfg, sampler_name, scheduler)
        plain, patched = Variant("plain", reference, steps), Variant("patched", model, steps)
        sample(plain, sampling)
        sample(patched, sampling)
        fewer = max(1, round(steps * patched.calls / plain.calls))
        variants = [plain, patched, Variant("plain, as many calls", reference, fewer)]
        measure(variants, sampling, warmup_runs, measured_runs, vae)
        batch, _, *size = plain.latents.shape if plain.latents is not None else (0, 0)
        told = {
            "type": "benchmark",
            "collector_id": "jetblock",
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "run": {
                "status": "success",
                "batch_size": batch,
                "warmup_runs": warmup_runs,
                "measured_runs": measured_runs,
                "seed": seed,
            },
            "workflow": {
                "latent_size": size,
                "steps": steps,
                "sampler": sampler_name,
                "scheduler": scheduler,
                "cfg": cfg,
                "seed": seed,
            },
            "device": device_table(reference),
            "variants": [variant.table(plain) for variant in variants],
        }
        text = "\n".join(variant.line(plain) for variant in variants)
        title = f"{steps} steps, {sampler_name}, batch {batch}, {told['device']['backend']}"  # type: ignore[index]
        shown = [variant.images[:1] for variant in variants if variant.images is not None]
        images = torch.cat(shown) if shown else torch.zeros(1, 64, 64, 3)
        return io.NodeOutput(text, json.dumps(told, indent=1), chart(title, variants), images)


NODES: list[type[io.ComfyNode]] = [JetBlockBenchmark]
