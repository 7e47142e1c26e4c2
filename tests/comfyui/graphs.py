"""Graphs that many tests need."""

from typing import Any

from harness import Graph, Node


def sd3(graph: Graph, **latent: Any) -> dict[str, Any]:
    """What samplers take: the tiny SD3, conditionings of a digit and of nothing, an empty latent."""
    size = {"width": 128, "height": 128, "batch_size": 1, **latent}
    return {
        "model": graph.add("UNETLoader", unet_name="tiny_sd3.safetensors", weight_dtype="default"),
        "positive": graph.add("TestConditioning", label=3),
        "negative": graph.add("TestConditioning", label=-1),
        "latent_image": graph.add("EmptySD3LatentImage", **size),
    }


def unet(graph: Graph, **latent: Any) -> dict[str, Any]:
    """The same of the tiny SD1.5."""
    size = {"width": 128, "height": 128, "batch_size": 1, **latent}
    return {
        "model": graph.add("CheckpointLoaderSimple", ckpt_name="tiny_unet.safetensors"),
        "positive": graph.add("TestConditioning", label=3, width=768),
        "negative": graph.add("TestConditioning", label=-1, width=768),
        "latent_image": graph.add("EmptyLatentImage", **size),
    }


def flux(graph: Graph, **latent: Any) -> dict[str, Any]:
    """The same of the tiny Flux."""
    return {**sd3(graph, **latent), "model": graph.add("TestFlux")}


ARCHITECTURES = {"sd3": sd3, "unet": unet, "flux": flux}


def ksampler(graph: Graph, parts: dict[str, Any], **settings: Any) -> Node:
    """ComfyUI's own sampler on such parts."""
    defaults = {
        "seed": 1,
        "steps": 4,
        "cfg": 3.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "denoise": 1.0,
    }
    return graph.add("KSampler", **parts, **{**defaults, **settings})
