"""Deterministic sampling in full: an image has the same bits in every batch, whatever the sampler, model and memory."""

from collections.abc import Callable
from functools import reduce
from typing import Any

import pytest
import torch
from graphs import ARCHITECTURES, ksampler, sd3
from harness import ComfyUI, Graph, Node
from test_cosmos import cosmos

from jetblock.diffusion.noise import image_noise
from jetblock.diffusion.samplers import SAMPLERS

LEVELS = ("batch_invariant", "portable")
SIZES = {"16x16": (128, 128), "9x11": (72, 88)}
"""In latent pixels. 4 x 9 x 11 elements are no multiple of 16, which is what PyTorch draws noise in."""


def deterministic(graph: Graph, parts: dict[str, Any], **settings: Any) -> Node:
    defaults = {
        "seed": 5,
        "steps": 4,
        "cfg": 3.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "denoise": 1.0,
        "level": "batch_invariant",
    }
    return graph.add("JetBlockDeterministicSampler", **parts, **{**defaults, **settings})


def render(comfyui: ComfyUI, architecture: str, size: str = "16x16", batch: int = 1, **settings: Any) -> torch.Tensor:
    graph = comfyui.graph()
    width, height = SIZES[size]
    parts = ARCHITECTURES[architecture](graph, width=width, height=height, batch_size=batch)
    return graph.run(deterministic(graph, parts, **settings))["samples"]


def assert_images_are_apart(run: Callable[..., torch.Tensor], batches: tuple[int, ...] = (4, 3)) -> None:
    """Whether each image of `run(batch=n, first_image=i)` is the same in every batch."""
    whole = run(batch=batches[0])
    assert torch.isfinite(whole).all()
    assert len({image.numpy().tobytes() for image in whole}) == batches[0]
    for image in range(batches[0]):
        assert torch.equal(run(batch=1, first_image=image), whole[image : image + 1]), image
    for batch in batches[1:]:
        assert torch.equal(run(batch=batch, first_image=1), whole[1 : 1 + batch]), batch


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("sampler_name", SAMPLERS)
@pytest.mark.parametrize("level", LEVELS)
def test_sd3(comfyui: ComfyUI, level: str, sampler_name: str, size: str) -> None:
    assert_images_are_apart(
        lambda **batch: render(comfyui, "sd3", size, level=level, sampler_name=sampler_name, **batch)
    )


@pytest.mark.parametrize("level", LEVELS)
def test_unet(comfyui: ComfyUI, level: str) -> None:
    def run(**batch: int) -> torch.Tensor:
        return render(comfyui, "unet", "9x11", level=level, sampler_name="dpmpp_2m_sde", steps=2, **batch)

    assert_images_are_apart(run, (3, 2))


@pytest.mark.parametrize("level", LEVELS)
def test_videos(comfyui: ComfyUI, level: str) -> None:
    """Latents with frames: a video of a batch is as apart as an image."""

    def run(batch: int, first_image: int = 0) -> torch.Tensor:
        graph = comfyui.graph()
        parts = cosmos(graph, batch_size=batch)
        settings = {"level": level, "sampler_name": "euler_ancestral", "steps": 2}
        return graph.run(deterministic(graph, parts, first_image=first_image, **settings))["samples"]

    assert run(1).ndim == 5
    assert_images_are_apart(run, (2,))


def test_comfyui_alone_does_differ(comfyui: ComfyUI) -> None:
    """The control: the same comparison, of ComfyUI's own nodes."""

    def run(batch: int) -> torch.Tensor:
        graph = comfyui.graph()
        return graph.run(ksampler(graph, sd3(graph, batch_size=batch), sampler_name="euler_ancestral"))["samples"]

    alone, whole = run(1), run(4)
    assert (alone - whole[:1]).norm() > 0.1 * alone.norm()


def test_a_broken_wrapper_is_noticed(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another control: JetBlock's noise and sampler on a model that computes the batch as a whole."""
    monkeypatch.setattr(
        comfyui.module("_rows").Rows, "__call__", lambda _, executor, *args, **kwargs: executor(*args, **kwargs)
    )
    with pytest.raises(AssertionError):
        assert_images_are_apart(lambda **batch: render(comfyui, "sd3", **batch))


@pytest.mark.parametrize("own", [False, True])
def test_free_memory_decides_nothing(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch, *, own: bool) -> None:
    """Without memory, ComfyUI computes positive and negative conditioning one after another."""
    import comfy.model_management

    def run() -> torch.Tensor:
        if own:
            return render(comfyui, "sd3", batch=2)
        graph = comfyui.graph()
        return graph.run(ksampler(graph, sd3(graph, batch_size=2)))["samples"]

    plenty = run()

    def none(_: Any = None, torch_free_too: bool = False) -> Any:  # noqa: FBT001, FBT002 (ComfyUI's signature)
        return (1 << 18, 1 << 18) if torch_free_too else 1 << 18

    monkeypatch.setattr(comfy.model_management, "get_free_memory", none)
    assert torch.equal(run(), plenty) == own


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_portable_bits_do_not_depend_on_the_attention_chosen(
    comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    """ComfyUI's command line chooses it. The control is the other level, which keeps what was chosen."""
    from comfy.ldm.flux import math as flux
    from comfy.ldm.modules import attention
    from comfy.ldm.modules.diffusionmodules import mmdit

    usual = {level: render(comfyui, architecture, level=level, steps=2) for level in LEVELS}
    called = []

    @attention.wrap_attn
    def other(*args: Any, **kwargs: Any) -> torch.Tensor:
        called.append(1)
        return attention.attention_basic(*args, **kwargs) * (1 + 2**-10)

    for module in (attention, mmdit, flux):
        monkeypatch.setattr(module, "optimized_attention", other)
    monkeypatch.setattr(attention, "optimized_attention_masked", other)
    assert torch.equal(render(comfyui, architecture, level="portable", steps=2), usual["portable"])
    assert not called
    assert not torch.equal(render(comfyui, architecture, steps=2), usual["batch_invariant"])
    assert called


def test_numbers_of_images_come_with_the_latent(comfyui: ComfyUI) -> None:
    """*Latent From Batch* takes an image with its number, *Latent Batch* joins some in another order."""

    def run(chosen: list[int]) -> torch.Tensor:
        graph = comfyui.graph()
        parts = sd3(graph, batch_size=4)
        batch = parts["latent_image"]
        alone = [graph.add("LatentFromBatch", samples=batch, batch_index=image, length=1) for image in chosen]
        joined = reduce(lambda one, two: graph.add("LatentBatch", samples1=one, samples2=two), alone)
        return graph.run(deterministic(graph, {**parts, "latent_image": joined}, sampler_name="euler_ancestral"))[
            "samples"
        ]

    whole = render(comfyui, "sd3", batch=4, sampler_name="euler_ancestral")
    for chosen in ([2], [3, 0], [1, 2, 1]):
        assert torch.equal(run(chosen), whole[chosen])


@pytest.mark.parametrize("masked", [False, True])
def test_img2img_and_inpainting(comfyui: ComfyUI, *, masked: bool) -> None:
    first = render(comfyui, "sd3", batch=3, steps=8)
    masks = torch.zeros(3, 50, 70)
    for image in range(3):
        masks[image, 10 * image : 20 + 10 * image, 20:60] = 1.0

    def run(images: list[int]) -> torch.Tensor:
        graph = comfyui.graph()
        parts = sd3(graph)
        latent = {"samples": first[images], "batch_index": images}
        parts["latent_image"] = graph.give(latent | ({"noise_mask": masks[images]} if masked else {}))
        parts["positive"] = graph.add("TestConditioning", label=8)
        return graph.run(deterministic(graph, parts, denoise=0.6, sampler_name="dpmpp_2s_ancestral"))["samples"]

    whole = run([0, 1, 2])
    for images in ([0], [1], [2], [2, 0]):
        assert torch.equal(run(images), whole[images])
    moved = [(image - before).abs() > 1e-3 for image, before in zip(whole, first, strict=True)]
    share = [mask.float().mean().item() for mask in moved]
    assert all(0.05 < s < 0.5 for s in share) if masked else all(s > 0.8 for s in share), share


def test_the_parts_give_the_bits_of_the_whole(comfyui: ComfyUI) -> None:
    graph = comfyui.graph()
    parts = sd3(graph, batch_size=2)
    noise = graph.add("JetBlockNoise", seed=5, first_image=3)
    model = graph.add("JetBlockDeterministicModel", model=parts["model"], level="batch_invariant")
    guider = graph.add("CFGGuider", model=model, positive=parts["positive"], negative=parts["negative"], cfg=3.0)
    sampled = graph.add(
        "SamplerCustomAdvanced",
        noise=noise,
        guider=guider,
        sampler=graph.add("JetBlockSampler", sampler_name="euler_ancestral", noise=noise),
        sigmas=graph.add("BasicScheduler", model=model, scheduler="simple", steps=4, denoise=1.0),
        latent_image=parts["latent_image"],
    )
    whole = render(comfyui, "sd3", batch=2, first_image=3, sampler_name="euler_ancestral")
    assert torch.equal(graph.run(sampled)["samples"], whole)


@pytest.mark.parametrize("architecture", ["sd3", "unet"])
@pytest.mark.parametrize("sampler_name", SAMPLERS)
def test_walks_are_those_of_comfyui(
    comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch, sampler_name: str, architecture: str
) -> None:
    """With the same noise, ComfyUI's samplers of these names end at the same place but for roundings."""
    from comfy.k_diffusion import sampling

    class Noise:
        """In place of ComfyUI's generators: JetBlock's noise, step after step."""

        def __init__(self, x: torch.Tensor, *_: Any, **__: Any) -> None:
            self.x, self.step = x, 0

        def __call__(self, *_: Any) -> torch.Tensor:
            self.step += 1
            return image_noise(5, [0], self.x.shape[1:], self.step)

    monkeypatch.setattr(sampling, "default_noise_sampler", Noise)
    monkeypatch.setattr(sampling, "BrownianTreeNoiseSampler", Noise)

    def run(node: str) -> torch.Tensor:
        graph = comfyui.graph()
        parts = ARCHITECTURES[architecture](graph)
        guider = graph.add(
            "CFGGuider", model=parts["model"], positive=parts["positive"], negative=parts["negative"], cfg=3.0
        )
        sampled = graph.add(
            "SamplerCustomAdvanced",
            noise=graph.add("JetBlockNoise", seed=5),
            guider=guider,
            sampler=graph.add(node, sampler_name=sampler_name),
            sigmas=graph.add("BasicScheduler", model=parts["model"], scheduler="simple", steps=5, denoise=1.0),
            latent_image=parts["latent_image"],
        )
        return graph.run(sampled)["samples"]

    ours, theirs = run("JetBlockSampler"), run("KSamplerSelect")
    # ComfyUI moves the first sigma of a flow model a little for this one, where the signal is nothing.
    moved = (sampler_name, architecture) == ("dpmpp_2m_sde", "sd3")
    assert (ours - theirs).norm() < (1e-2 if moved else 1e-3) * theirs.norm()


@pytest.mark.parametrize(
    "scheduler", ["simple", "normal", "karras", "exponential", "sgm_uniform", "beta", "kl_optimal"]
)
def test_schedulers(comfyui: ComfyUI, scheduler: str) -> None:
    assert torch.isfinite(render(comfyui, "sd3", scheduler=scheduler)).all()


def test_micro_batches(comfyui: ComfyUI) -> None:
    """Rows in calls of four: as apart as one by one, as long as the trial of places says so."""
    try:
        assert_images_are_apart(lambda **batch: render(comfyui, "sd3", micro_batch=4, **batch), (5, 3))
    except RuntimeError as error:
        assert "use micro_batch 1" in str(error)  # noqa: PT017 (what a processor's kernels do is not known here)
    one, many = (render(comfyui, "sd3", micro_batch=size) for size in (1, 2))
    torch.testing.assert_close(one, many, rtol=1e-3, atol=1e-3)


def test_a_place_that_counts_is_noticed(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.model_base

    apply = comfy.model_base.BaseModel._apply_model  # noqa: SLF001 (to break it)

    def broken(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        result = apply(self, x, *args, **kwargs)
        result[1:] *= 1 + 2**-20
        return result

    monkeypatch.setattr(comfy.model_base.BaseModel, "_apply_model", broken)
    with pytest.raises(RuntimeError, match="depend on its place in a micro-batch of 2: use micro_batch 1"):
        render(comfyui, "sd3", batch=2, micro_batch=2)


def test_portable_bits_do_not_depend_on_threads_or_instruction_set(comfyui: ComfyUI) -> None:
    import jetblock

    def run() -> torch.Tensor:
        return render(
            comfyui, "sd3", "9x11", batch=2, level="portable", sampler_name="dpmpp_2m_sde", scheduler="karras"
        )

    before, threads = jetblock.get_cpu(), torch.get_num_threads()
    whole = run()
    try:
        for isa in jetblock.available_isas():
            jetblock.set_cpu(1, isa)
            torch.set_num_threads(1)
            assert torch.equal(run(), whole), isa
    finally:
        jetblock.set_cpu(*before)
        torch.set_num_threads(threads)
    # On every machine: this digest was made on an AMD EPYC (Zen 4).
    assert jetblock.checksum(whole)[:16] == "3f200e1a447bd3ba"


def test_partly_empty_latents_are_refused(graph: Graph) -> None:
    parts = sd3(graph)
    parts["latent_image"] = graph.give({"samples": torch.stack([torch.zeros(16, 8, 8), torch.ones(16, 8, 8)])})
    with pytest.raises(RuntimeError, match="image 0 of the latent is empty and others are not"):
        graph.run(deterministic(graph, parts))
