"""Smaller forms of a model, and what they cost: bytes, and how far its answers move."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from jetblock._errors import ArgumentError, ModelError
from jetblock.handles import ModelHandle

Recipe = Literal["nano", "all", "experts"]
KvFormat = Literal["fp8", "nvfp4"]


@dataclass(frozen=True, slots=True)
class Cost:
    """Two models on one text.

    Attributes:
        weight_bytes: Of the packed weights, before and after.
        kv_bytes_per_token: Of keys and values, before and after.
        divergence: Mean Kullback-Leibler divergence of the next token's probabilities from those before, in nats.
        same_choice: Share of places at which the most likely token stayed.
        tokens: Places compared.
    """

    weight_bytes: tuple[int, int]
    kv_bytes_per_token: tuple[int, int]
    divergence: float
    same_choice: float
    tokens: int

    def __str__(self) -> str:
        def change(name: str, unit: str, pair: tuple[int, int]) -> str:
            share = f" ({pair[1] / pair[0]:.1%})" if pair[0] else ""
            return f"{name}: {pair[0]:,} -> {pair[1]:,} {unit}{share}"

        return "\n".join(
            [
                change("weights", "bytes", self.weight_bytes),
                change("keys and values", "bytes per token", self.kv_bytes_per_token),
                f"divergence: {self.divergence:.4f} nats per token over {self.tokens} tokens",
                f"most likely token unchanged: {self.same_choice:.1%}",
            ]
        )


def quantize_kv(handle: ModelHandle, kv: KvFormat) -> ModelHandle:
    """The model with keys and values in fewer bits, part of the request's key."""
    return replace(handle, kv=kv)


def quantize_weights(
    handle: ModelHandle, folder: Path, recipe: Recipe = "nano", between: Callable[[], None] = lambda: None
) -> ModelHandle:
    """The model with NVFP4 weights, converted into a folder in `folder`; one that is there already is used.

    Its name has a digest of the source's files, so a changed source is converted anew.

    Args:
        handle: The model, a folder.
        folder: Where the new one is put.
        recipe: Which weights are converted.
        between: Called several times a second; it may raise to end the work.

    Raises:
        ModelError: The model cannot be converted, and why.
    """
    if handle.path is None or not Path(handle.path).is_dir():
        raise ArgumentError(
            f"weights: the model is {handle.name}, expected a model folder with BF16, F16 or F32 weights"
        )
    source = Path(handle.path)
    digest = hashlib.sha256(json.dumps([handle.files(), recipe]).encode()).hexdigest()[:8]
    out = folder / f"{source.name}-nvfp4-{recipe}-{digest}"
    if not out.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".jetblock-", dir=folder) as part:
            command = [sys.executable, "-m", "jetblock", "quantize", "--format", "nvfp4", "--recipe", recipe, "--quiet"]
            made = Path(part) / "model"
            _run([*command, "--", str(source), str(made)], between)
            os.replace(made, out)  # noqa: PTH105 (as everywhere: whole or not at all)
    return replace(handle, path=str(out))


def _run(command: list[str], between: Callable[[], None]) -> None:
    process = subprocess.Popen(  # noqa: S603 (this Python, our own module)
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            while True:
                between()
                try:
                    _, errors = process.communicate(timeout=0.2)
                    break
                except subprocess.TimeoutExpired:
                    continue
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise ModelError(errors.strip().removeprefix("error: "))


def cost(before: ModelHandle, after: ModelHandle, text: str) -> Cost:
    """Both models on a text of at least two tokens."""
    import numpy as np  # noqa: PLC0415 (importing the package stays light)

    model = before.model()
    ids = model.encode(text)
    if len(ids) < 2:
        raise ArgumentError(f"the text has {len(ids)} tokens, expected at least 2")
    first = model.logits(ids).astype(np.float64)
    bytes_before = model.weight_bytes, model.profile()["kv_per_token"][model.kv]
    del model  # the second need not find the first in memory
    model = after.model()
    second = model.logits(ids).astype(np.float64)
    bytes_after = model.weight_bytes, model.profile()["kv_per_token"][model.kv]
    shifted = [logits - logits.max(-1, keepdims=True) for logits in (first, second)]
    p, q = (logits - np.log(np.exp(logits).sum(-1, keepdims=True)) for logits in shifted)
    return Cost(
        weight_bytes=(bytes_before[0], bytes_after[0]),
        kv_bytes_per_token=(bytes_before[1], bytes_after[1]),
        divergence=float((np.exp(p) * (p - q)).sum(-1).mean()),
        same_choice=float((first.argmax(-1) == second.argmax(-1)).mean()),
        tokens=len(ids),
    )
