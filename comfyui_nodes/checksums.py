"""Checksums: what came out of a run, what it was made of, and why it differs from another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import folder_paths
from comfy_api.latest import io, ui

from jetblock.diffusion.manifest import compare, describe, manifest

from . import _runs

if TYPE_CHECKING:
    import torch

CATEGORY = "JetBlock/deterministic"


class JetBlockChecksumValidator(io.ComfyNode):
    """Hashes each image, writes the run's manifest and compares it with another."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="JetBlockChecksumValidator",
            display_name="JetBlock Checksum Validator",
            category=CATEGORY,
            description="Hashes each image or latent, records what the run was made of, says why it differs from an "
            "earlier run.",
            is_output_node=True,
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            inputs=[
                io.Latent.Input("latent", optional=True, tooltip="Latents to hash, each with the number it brings."),
                io.Image.Input(
                    "images", optional=True, tooltip="Images to hash, and to save with the manifest inside."
                ),
                io.String.Input(
                    "expected",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Manifest of an earlier run: its JSON, or the name of a JSON or PNG file in the output or "
                    "input folder. Images are compared by number, so one alone can be compared with its batch.",
                ),
                io.Combo.Input(
                    "on_difference",
                    options=["report", "stop"],
                    default="report",
                    optional=True,
                    tooltip="stop: a difference is an error and ends the run.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="",
                    optional=True,
                    tooltip="Saves the images as PNG with the manifest inside, or without images the manifest as JSON. "
                    "Empty saves nothing.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="manifest", tooltip="What came out and what it was made of, as JSON."),
                io.Boolean.Output(display_name="same", tooltip="Whether all images have the bits of the expected run."),
                io.String.Output(display_name="report", tooltip="What differs, and why."),
            ],
        )

    @classmethod
    def execute(
        cls,
        latent: dict[str, Any] | None = None,
        images: torch.Tensor | None = None,
        expected: str = "",
        on_difference: str = "report",
        filename_prefix: str = "",
    ) -> io.NodeOutput:
        """Hashes, compares, saves."""
        results = {"latent": None if latent is None else latent["samples"], "image": images}
        given = {name: result for name, result in results.items() if result is not None}
        if not given:
            raise ValueError("neither latent nor images are connected, so there is nothing to hash")
        nodes = _runs.nodes_above(cls.hidden.prompt or {}, str(cls.hidden.unique_id), ("latent", "images"))
        numbers = None if latent is None else latent.get("batch_index")
        made = manifest(describe(given, numbers), nodes, _runs.files_of(nodes), _runs.environment())
        text = json.dumps(made, indent=1)
        if expected.strip():
            comparison = compare(_runs.read_manifest(expected), made)
            same, report = bool(comparison), str(comparison)
        else:
            same, report = True, "\n".join(" ".join(map(str, image.values())) for image in made["images"])
        shown = save(cls, filename_prefix, images, text) if filename_prefix else {}
        if not same and on_difference == "stop":
            raise RuntimeError(report)
        return io.NodeOutput(text, same, report, ui={**shown, **ui.PreviewText(report).as_dict()})

    @classmethod
    def fingerprint_inputs(cls, expected: str = "", **_: Any) -> str:
        """A file may have another content next time."""
        if not expected.strip() or expected.strip().startswith("{"):
            return expected
        try:
            return _runs.manifest_in(_runs.file_named(expected.strip()))
        except (OSError, ValueError):
            return expected


def save(node: type[io.ComfyNode], prefix: str, images: torch.Tensor | None, text: str) -> dict[str, Any]:
    """Writes images with the manifest inside, or the manifest alone; returns what ComfyUI shows of it."""
    if images is not None:
        extra = node.hidden.extra_pnginfo or {}
        # ComfyUI writes each entry as JSON.
        node.hidden.extra_pnginfo = {**extra, _runs.PNG_KEY: json.loads(text)}
        try:
            return ui.ImageSaveHelper.get_save_images_ui(images, prefix, node).as_dict()
        finally:
            node.hidden.extra_pnginfo = extra
    folder, name, counter, _, _ = folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory())
    path = Path(folder) / f"{name}_{counter:05}_.json"
    while path.exists():
        counter += 1
        path = Path(folder) / f"{name}_{counter:05}_.json"
    path.write_text(text, encoding="utf-8")
    return {}


NODES: list[type[io.ComfyNode]] = [JetBlockChecksumValidator]
