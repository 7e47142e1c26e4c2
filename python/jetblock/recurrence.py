"""Mamba-2 layers of a model, tried: no cut of a text changes a bit; time and memory by the length of the text."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from jetblock._errors import ArgumentError
from jetblock.handles import ModelHandle
from jetblock.model import Model, Proof

LENGTHS = (64, 128, 256, 512)


@dataclass(frozen=True, slots=True)
class Recurrence:
    """What was found.

    Attributes:
        layers: Mamba-2 layers, and layers of attention beside them.
        proof: The same request under many schedules.
        seconds: Of reading so many tokens at once, by their number; the median of three.
        state_bytes: Of a sequence's Mamba-2 state, whatever its length.
        kv_bytes_per_token: What the attention layers add for each token.
    """

    layers: tuple[int, int]
    proof: Proof
    seconds: dict[int, float]
    state_bytes: int
    kv_bytes_per_token: int

    def __str__(self) -> str:
        mamba, attention = self.layers
        lines = [
            f"{mamba} Mamba-2 layers, {attention} of attention",
            str(self.proof),
            *(f"  {axis}: {same} of {runs} identical" for axis, (runs, same) in self.proof.axes.items()),
            "tokens  seconds  ms per token  Mamba-2 state  keys and values",
        ]
        lines += [
            f"{tokens:6}  {seconds:7.3f}  {1000 * seconds / tokens:12.2f}  {self.state_bytes:13,}"
            f"  {tokens * self.kv_bytes_per_token:15,}"
            for tokens, seconds in self.seconds.items()
        ]
        return "\n".join(lines)


def try_recurrence(
    handle: ModelHandle, runs: int, control_runs: int, between: Callable[[], None] = lambda: None
) -> Recurrence:
    """Tries the Mamba-2 layers of a model.

    Args:
        handle: The model.
        runs: Schedules to compare: cuts of the prompt, batches, threads, instruction sets.
        control_runs: The same with kernels written the usual way, to see that the comparison can fail; 0: none.
        between: Called between measurements; it may raise to end them.

    Raises:
        ArgumentError: The model has no Mamba-2 layers.
    """
    model = handle.model()
    profile = model.profile()
    count = {part["part"]: part["count"] for part in profile["parts"]}
    if not count.get("mamba"):
        raise ArgumentError(f"{handle.name} has no Mamba-2 layers, expected a hybrid or Mamba-2 model")
    between()
    proof = model.verify(runs=runs, control_runs=control_runs)
    seconds = {}
    _seconds(model, [0])  # the first is not counted
    for length in LENGTHS:
        between()
        ids = [i % model.vocab_size for i in range(length)]
        seconds[length] = statistics.median(_seconds(model, ids) for _ in range(3))
    state = profile["state"]
    return Recurrence(
        layers=(count["mamba"], count.get("attention", 0)),
        proof=proof,
        seconds=seconds,
        state_bytes=state["ssm_f32"] + state["conv_f32"],
        kv_bytes_per_token=profile["kv_per_token"][model.kv],
    )


def _seconds(model: Model, ids: list[int]) -> float:
    start = time.perf_counter()
    model.digests(ids)
    return time.perf_counter() - start
