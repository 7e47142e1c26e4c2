"""Deterministic sampling in ComfyUI beside ComfyUI's own KSampler: which bits move, and what it costs.

    python benches/peers/comfyui.py [--seconds 10] [--level batch_invariant] [--pytorch-attention] [MODEL ...]

Prints Markdown. Runs in the environment of `cargo xtask comfyui` (target/python/venv), on one thread.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "comfyui"))

SAMPLERS = ("euler", "dpmpp_2m", "euler_ancestral", "dpmpp_2s_ancestral", "dpmpp_2m_sde")
SIDES = {"sd3": 512, "unet": 256, "flux": 512}
"""Image pixels a side where time is measured: 1024 tokens of attention each."""
STEPS = {"sd3": 8, "unet": 3, "flux": 8}
SETTINGS = {"seed": 5, "cfg": 3.0, "scheduler": "simple"}


class Bench:
    """The tiny models, sampled by either node."""

    def __init__(self, level: str, *flags: str) -> None:
        from conftest import BASE, add_models
        from harness import ComfyUI

        import jetblock

        jetblock.set_cpu(threads=1)  # as PyTorch
        self.level = level
        self.comfyui = ComfyUI(BASE, *flags)
        add_models(BASE / "models")

    def render(self, own: bool, architecture: str, sampler: str, images: list[int] | None = None, **how: Any) -> Any:
        """Samples; `images` are taken out of a batch of four by ComfyUI's own node, None is one whole batch."""
        from graphs import ARCHITECTURES

        graph = self.comfyui.graph()
        usual = 64 if architecture == "unet" else 128
        side = {"width": how.get("width", usual), "height": how.get("height", usual)}
        parts = ARCHITECTURES[architecture](graph, batch_size=how.get("batch", 1), **side)
        if "start" in how:
            numbers = {"batch_index": images} if images else {}
            parts["latent_image"] = graph.give({"samples": how["start"][images or slice(None)], **numbers})
        elif images:
            batch = ARCHITECTURES[architecture](graph, batch_size=4, **side)["latent_image"]
            [image] = images
            parts["latent_image"] = graph.add("LatentFromBatch", samples=batch, batch_index=image, length=1)
        settings = {**SETTINGS, "sampler_name": sampler, "denoise": how.get("denoise", 1.0)}
        settings["steps"] = how.get("steps", STEPS[architecture])
        if own:
            node = graph.add("JetBlockDeterministicSampler", **parts, **settings, level=self.level)
        else:
            node = graph.add("KSampler", **parts, **settings)
        return graph.run(node)["samples"]

    def axes(self, own: bool, architecture: str, sampler: str) -> dict[str, str]:
        """By what is varied: `=` or how much an image changes."""
        import comfy.model_management

        run: Callable[..., Any] = lambda *args, **how: self.render(own, architecture, sampler, *args, **how)
        whole = run(batch=4)
        odd = {"width": 72, "height": 88}
        start = run(batch=3)
        part = {"start": start, "denoise": 0.6}
        found = {
            "batch of 4": difference(run(), whole[:1]),
            "place in it": difference(run([2]), whole[2:3]),
            "9 x 11 pixels": difference(run(**odd), run(batch=4, **odd)[:1]),
            "img2img": difference(run([1], **part), run(**part)[1:2]),
        }
        measured = comfy.model_management.get_free_memory
        little = lambda _=None, torch_free_too=False: (1 << 18, 1 << 18) if torch_free_too else 1 << 18
        comfy.model_management.get_free_memory = little
        try:
            found["free memory"] = difference(run(batch=4), whole)
        finally:
            comfy.model_management.get_free_memory = measured
        return found

    def cost(self, architecture: str, batch: int, seconds: float) -> tuple[float, float]:
        """Median processor time of a run, ComfyUI's and JetBlock's, in turns."""
        times: dict[bool, list[float]] = {False: [], True: []}
        end = time.monotonic() + seconds
        while time.monotonic() < end or len(times[True]) < 3:
            for own, spent in times.items():
                before = time.process_time()
                side = SIDES[architecture]
                self.render(own, architecture, "euler", batch=batch, width=side, height=side, steps=2)
                spent.append(time.process_time() - before)
        return median(times[False][1:]), median(times[True][1:])


def difference(one: Any, two: Any) -> str:
    """`=` where all bits are, else the norm of the difference relative to the image's."""
    import torch

    if torch.equal(one, two):
        return "="
    share = ((one - two).norm() / one.norm()).item()
    return f"{share:.0e}" if share < 1e-3 else f"{100 * share:.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="for each figure of the second table")
    parser.add_argument("--level", default="batch_invariant", choices=["batch_invariant", "portable"])
    parser.add_argument("--pytorch-attention", action="store_true", help="ComfyUI with the fastest of its own on a CPU")
    parser.add_argument("models", nargs="*", choices=[[], *SIDES], help="sd3 and unet, where none is named")
    options = parser.parse_args()
    models = options.models or ["sd3", "unet"]
    sys.argv = sys.argv[:1]
    flags = ["--use-pytorch-cross-attention"] if options.pytorch_attention else []
    bench = Bench(options.level, *flags)
    head = "| model | sampler | node |"
    for architecture in models:
        for sampler in SAMPLERS:
            for own in (False, True):
                axes = bench.axes(own, architecture, sampler)
                if head:
                    print(head, " | ".join(axes), "|\n|---|---|---|" + "---|" * len(axes))
                    head = ""
                name = f"JetBlock, {options.level}" if own else "KSampler"
                print("|", " | ".join([architecture, sampler, name, *axes.values()]), "|", flush=True)
    print("\n| model | batch | KSampler, s | JetBlock, s | ratio |\n|---|---:|---:|---:|---:|")
    for architecture in models:
        for batch in (1, 4):
            theirs, ours = bench.cost(architecture, batch, options.seconds)
            print(f"| {architecture} | {batch} | {theirs:.2f} | {ours:.2f} | {ours / theirs:.2f} |", flush=True)


if __name__ == "__main__":
    main()
