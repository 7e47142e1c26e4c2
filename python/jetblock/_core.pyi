"""The compiled module. Private: `jetblock` is the package's face. Checked against the binary by stubtest."""

import os
from typing import Any, Final, final

__all__ = [
    "NUMERICS_VERSION",
    "VERSION",
    "Generation",
    "Model",
    "available_isas",
    "checksum",
    "first_difference",
    "get_cpu",
    "run_command",
    "set_cpu",
]

NUMERICS_VERSION: Final[int]
VERSION: Final[str]

def available_isas() -> list[str]: ...
def set_cpu(threads: int | None = None, isa: str | None = None) -> None: ...
def get_cpu() -> tuple[int, str]: ...
def run_command(arguments: list[str]) -> int: ...
def checksum(array: Any) -> str: ...
def first_difference(left: Any, right: Any) -> tuple[int, str, str] | None: ...

@final
class Model:
    @staticmethod
    def load(
        path: str | os.PathLike[str] | None,
        *,
        operands: str | None = None,
        kv: str | None = None,
        split: int | None = None,
        hash_ties: bool = False,
        threads: int | None = None,
        isa: str | None = None,
    ) -> Model: ...
    def facts(self) -> str: ...
    def profile(self) -> tuple[str, str]: ...
    def encode(self, prompt: str, *, is_messages: bool = False) -> list[int]: ...
    def decode(self, ids: list[int], skip_special_tokens: bool) -> str: ...
    def start(
        self,
        prompt: str,
        *,
        is_messages: bool,
        tools: str | None,
        template_arguments: str | None,
        think: str | None,
        literal_markers: bool,
        now: str | None,
        temperature: float | None,
        top_k: int | None,
        top_p: float | None,
        min_p: float | None,
        repetition_penalty: float | None,
        presence_penalty: float | None,
        frequency_penalty: float | None,
        logit_bias: dict[int, float],
        max_tokens: int | None,
        seed: int,
        n: int,
        stop: list[str],
        show_special_tokens: bool,
        thinking_budget: int | None,
        thinking_grace: int | None,
        thinking_close: str | None,
        speculate: int,
    ) -> Generation: ...
    def logits(self, ids: list[int], pieces: list[int], out: Any) -> tuple[str, str]: ...
    def verify(self, *, runs: int, control_runs: int, tokens: int, max_threads: int) -> str: ...

@final
class Generation:
    @property
    def prompt_tokens(self) -> list[int]: ...
    def step(self) -> tuple[list[tuple[int, str, str]], bool]: ...
    def answers(self) -> tuple[list[dict[str, Any]], list[int]]: ...
