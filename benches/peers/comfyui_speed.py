"""Times JetBlock's speed nodes in a real ComfyUI beside plain fewer steps, on the tests' tiny trained models.

    python benches/peers/comfyui_speed.py [--runs N] [--model sd3|flux] [PART ...]

Needs what `cargo xtask comfyui` installs, and `CARGO_TARGET_DIR` where the tests have it. PARTs: fast, samplers, few, levels,
cosmos, attention. Variants take turns in one thread; a time is the median of a variant's turns in processor time, so a busy
machine slows all alike. PSNR and SSIM are against the same sampling with every step computed, means over the images.
"""

import argparse
import logging
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "comfyui")]
import conftest  # noqa: E402
from graphs import ARCHITECTURES  # noqa: E402
from harness import ComfyUI  # noqa: E402

from jetblock.diffusion.skipping import SkipSettings  # noqa: E402
from jetblock.diffusion.sparse_attention import dual_path_attention  # noqa: E402

BATCH, CFG, SEED = 4, 3.0, 1


class Bench:
    """ComfyUI with the tiny models, and the pack's own way to sample and compare."""

    def __init__(self, runs: int, model: str) -> None:
        self.runs, self.parts = runs, ARCHITECTURES[model]
        self.comfyui = ComfyUI(conftest.BASE)
        conftest.add_models(conftest.BASE / "models")
        logging.disable(logging.INFO)
        self.measure, self.skip, self.levels = (self.comfyui.module(name) for name in ("_measure", "_skip", "_levels"))

    def digits(self, size: int = 128) -> tuple[Any, Any, Any]:
        """The tiny model, what it samples, and a VAE."""
        graph = self.comfyui.graph()
        parts = self.parts(graph, width=size, height=size, batch_size=BATCH)
        vae = graph.add("VAELoader", vae_name="tiny_ae.safetensors")
        names = ("model", "positive", "negative", "latent_image")
        model, positive, negative, latent, vae = graph.run(*[parts[name] for name in names], vae)
        return model, (positive, negative, latent), vae

    def table(self, variants: list[Any], parts: Any, vae: Any, sampler: str = "euler") -> None:
        """A line for each variant; errors are against the first."""
        sampling = self.measure.Sampling(*parts, SEED, CFG, sampler, "simple")
        with torch.inference_mode():
            for run in range(self.runs + 1):
                for variant in variants:
                    start = time.process_time()
                    self.measure.sample(variant, sampling)
                    if run:
                        variant.milliseconds.append((time.process_time() - start) * 1000)
            for variant in variants:
                self.measure.compare(variant, variants[0], vae)
        for variant in variants:
            psnr = "" if variant.psnr is None else f"{variant.psnr:.1f}"
            ssim = "" if variant.ssim is None else f"{variant.ssim:.4f}"
            speed = variants[0].median / variant.median
            print(
                f"| {sampler} | {variant.name} | {variant.steps} | {variant.calls // (2 * BATCH)} | {variant.median:.0f} |"
                f" {speed:.2f} | {variant.relative_error:.4f} | {psnr} | {ssim} |",
                flush=True,
            )

    def fewer(self, model: Any, steps: int) -> Any:
        return self.measure.Variant("plain", model, steps)

    def skipping(self, model: Any, steps: int, name: str, **settings: Any) -> Any:
        patched = self.skip.skipping_model(model, SkipSettings(**settings))
        return self.measure.Variant(name, patched, steps)


HEADER = "\n| sampler | | steps | calls | ms | speed | error of latents | PSNR, dB | SSIM |\n|---|---|---:|---:|---:|---:|---:|---:|---:|"


def fast(bench: Bench) -> None:
    """Skipped steps beside fewer steps, at 20, 30 and 50 steps."""
    model, parts, vae = bench.digits()
    print(HEADER)
    for sampler in ("euler", "dpmpp_2m"):
        for steps in (20, 30, 50):
            variants = [bench.fewer(model, steps)]
            for ratio in (0.3, 0.5):
                variants.append(bench.skipping(model, steps, f"skip {ratio:.0%}", skip_ratio=ratio))
                variants.append(bench.fewer(model, steps - int(steps * ratio)))
            adaptive = {"mode": "adaptive", "skip_ratio": 0.6, "threshold": 0.05}
            variants.append(bench.skipping(model, steps, "adaptive, 5%", **adaptive))
            bench.table(variants, parts, vae, sampler)


def samplers(bench: Bench) -> None:
    """Every kind of sampler at 20 steps; ComfyUI's LazyCache beside them."""
    model, parts, vae = bench.digits()
    graph = bench.comfyui.graph()
    settings = {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}
    lazy = graph.run(graph.add("LazyCache", model=bench.parts(graph)["model"], **settings))
    print(HEADER)
    for sampler in ("euler", "heun", "uni_pc", "euler_ancestral", "er_sde", "dpmpp_2m_sde", "lcm"):
        variants = [bench.fewer(model, 20)]
        for method in ("interpolate", "extrapolate", "hold"):
            variants.append(bench.skipping(model, 20, method, skip_ratio=0.4, method=method))
        variants += [bench.fewer(model, 12), bench.measure.Variant("LazyCache 0.2", lazy, 20)]
        bench.table(variants, parts, vae, sampler)


def few(bench: Bench) -> None:
    """What skipping would do to few steps, with the bound that forbids it taken away."""
    model, parts, vae = bench.digits()
    print(HEADER)
    for steps, ratio in ((4, 0.25), (6, 0.34), (8, 0.25), (8, 0.5), (12, 0.34)):
        skipped = bench.skipping(model, steps, f"skip {ratio:.0%}", skip_ratio=ratio, minimum_steps=4)
        bench.table([bench.fewer(model, steps), skipped, bench.fewer(model, steps - int(steps * ratio))], parts, vae)


def levels(bench: Bench) -> None:
    """Each optimizer level at two sizes, two-path attention from 512 tokens; and linear attention without training."""
    for size in (128, 512):
        model, parts, vae = bench.digits(size)
        print(f"\n{size} pixels, 20 steps", HEADER, sep="\n")
        variants = [bench.fewer(model, 20)]
        for level in bench.levels.LEVELS:
            variants.append(bench.measure.Variant(level, bench.levels.optimized(model, level, 512), 20))
        linear = model.clone()
        linear.model_options["transformer_options"]["optimized_attention_override"] = elu_attention
        variants.append(bench.measure.Variant("linear attention, untrained", linear, 20))
        bench.table(variants, parts, vae)


def elu_attention(_func: Any, q: Any, k: Any, v: Any, heads: int, *_: Any, **options: Any) -> torch.Tensor:
    """elu(x) + 1 in the place of softmax."""
    if not options.get("skip_reshape"):
        q, k, v = (x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2) for x in (q, k, v))
    q, k = functional.elu(q) + 1, functional.elu(k) + 1
    result = (q @ (k.transpose(2, 3) @ v)) / (q @ k.sum(2)[..., None])
    return result if options.get("skip_output_reshape") else result.transpose(1, 2).flatten(2)


def cosmos(bench: Bench) -> None:
    """Frames and steps of a video of nine latent frames."""
    from test_cosmos import cosmos as parts_of

    frames = bench.comfyui.module("_frames").frame_skipping_model
    graph = bench.comfyui.graph()
    parts = parts_of(graph, frames=9, batch_size=BATCH)
    names = ("model", "positive", "negative", "latent_image")
    model, *rest = graph.run(*[parts[name] for name in names])
    steps = bench.skip.skipping_model(model, SkipSettings())
    variants = [
        bench.fewer(model, 20),
        bench.measure.Variant("frames, stride 2, full every 2", frames(model, 2, 2), 20),
        bench.measure.Variant("frames, stride 4, full every 3", frames(model, 4, 3), 20),
        bench.measure.Variant("steps, 40%", steps, 20),
        bench.measure.Variant("both", frames(steps, 2, 2), 20),
        *(bench.fewer(model, count) for count in (16, 12, 10)),
    ]
    print(HEADER)
    bench.table(variants, rest, None)


def attention(bench: Bench) -> None:
    """Two-path attention beside PyTorch's, by tokens; tokens of 64 kinds in runs, as neighbouring patches are alike."""
    print("\n| tokens x width | PyTorch, ms | keep 1/8, ms | keep 1/4, ms | error at 1/8 | error at 1/4 |")
    print("|---|---:|---:|---:|---:|---:|")
    generator = torch.Generator().manual_seed(1)
    for tokens, width in ((1024, 64), (4096, 64), (4096, 128), (8192, 64), (8192, 128)):
        base = torch.randn(64, width, generator=generator)[torch.arange(tokens) // 32 % 64]
        q, k, v = (base + torch.randn(1, 1, tokens, width, generator=generator) for _ in range(3))
        ways = [
            lambda q=q, k=k, v=v: functional.scaled_dot_product_attention(q, k, v),
            lambda q=q, k=k, v=v: dual_path_attention(q, k, v, keep=0.125),
            lambda q=q, k=k, v=v: dual_path_attention(q, k, v, keep=0.25),
        ]
        times: list[list[float]] = [[], [], []]
        for _ in range(bench.runs):
            for way, kept in zip(ways, times, strict=True):
                start = time.process_time()
                way()
                kept.append((time.process_time() - start) * 1000)
        exact, *near = (way() for way in ways)
        medians = " | ".join(f"{statistics.median(kept):.1f}" for kept in times)
        errors = " | ".join(f"{float((x - exact).norm() / exact.norm()):.3f}" for x in near)
        print(f"| {tokens} x {width} | {medians} | {errors} |", flush=True)


PARTS = {"fast": fast, "samplers": samplers, "few": few, "levels": levels, "cosmos": cosmos, "attention": attention}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--model", default="sd3", choices=["sd3", "flux"], help="make.py says how Flux is trained")
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS])
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    bench = Bench(options.runs, options.model)
    for name in options.parts or PARTS:
        print(f"\n## {name}", flush=True)
        PARTS[name](bench)


if __name__ == "__main__":
    main()
