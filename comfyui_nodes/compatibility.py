"""What of JetBlock works in this ComfyUI."""

from __future__ import annotations

from typing import TYPE_CHECKING

import comfy.model_management
from comfy_api.latest import io, ui

from jetblock.compatibility import check

from ._guards import breaches, of_the_process

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._guards import Breach

LEVELS = ("batch_invariant", "portable")


class JetBlockCompatibility(io.ComfyNode):
    """Says what works here and what does not."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="JetBlockCompatibility",
            display_name="JetBlock Compatibility",
            category="JetBlock/tools",
            description="Versions of ComfyUI, PyTorch and JetBlock, the device, what of JetBlock is on, and which "
            "settings break the promise of deterministic sampling.",
            is_output_node=True,
            not_idempotent=True,
            inputs=[
                io.Combo.Input(
                    "level",
                    options=list(LEVELS),
                    default=LEVELS[0],
                    tooltip="The level of deterministic sampling that is wanted.",
                ),
                io.Model.Input(
                    "model", optional=True, tooltip="A diffusion model with its patches, to look at those too."
                ),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="What was found."),
                io.Boolean.Output(display_name="holds", tooltip="Whether nothing that was found breaks the level."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, level: str, model: io.Model.Type | None = None) -> float:
        """Never the same: the process may have changed."""
        del level, model
        return float("nan")

    @classmethod
    def execute(cls, level: str, model: io.Model.Type | None = None) -> io.NodeOutput:
        """Looks."""
        device = comfy.model_management.get_torch_device()
        found: Iterable[Breach] = of_the_process(device, level)
        if model is not None:
            found = breaches(model, model.model_options, level)
        own = list(found)
        lines = [str(check(device=str(device))), "", f"deterministic sampling at level {level}:"]
        lines += [f"{'breaks' if breach.certain else 'may break':12}{breach}" for breach in own] or [
            "nothing breaks it"
        ]
        report = "\n".join(lines)
        holds = not any(breach.certain for breach in own)
        return io.NodeOutput(report, holds, ui=ui.PreviewText(report))


NODES: list[type[io.ComfyNode]] = [JetBlockCompatibility]
