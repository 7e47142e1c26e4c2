"""What `jetblock.optimize` is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from jetblock._errors import ArgumentError


@dataclass(frozen=True, slots=True, kw_only=True)
class JetBlockConfig:
    """Which layers of a Hugging Face model are replaced, and the settings that are part of a request's bits.

    A value that JetBlock cannot hold is a `ValueError`, never a wish.

    Attributes:
        deterministic_mode: Everything whose bits could depend on a schedule is replaced, and what JetBlock does not
            know is an error. Where it is false only what the `enable_` fields name is replaced, and nothing is said of
            the whole model.
        enable_mamba2_determinism: Mamba-2 mixers.
        enable_moe_determinism: Routers, and the order in which the answers of experts are summed.
        enable_fixed_split_attention: Attention over blocks of keys at absolute positions.
        enable_nvfp4_kv: Keys and values in 4 bits, with or without a cache.
        attention_split: Keys in a block, 64, 128 or 256.
        attention_precision: `model`: products of queries and keys of bf16 operands in a bf16 model, else of f32 ones;
            `float32`: always of f32 ones.
        ssm_state_precision: `float32`; others lose what long texts add up.
        moe_tie_rule: Which of equally good experts goes first: `lowest_id`.
        cudnn_benchmark: False: it chooses kernels by how fast they were, and so the order of sums.
        allow_tf32: False: it rounds operands as the device likes.

    >>> JetBlockConfig(attention_split=128).attention_split
    128
    """

    deterministic_mode: bool = True
    enable_mamba2_determinism: bool = True
    enable_moe_determinism: bool = True
    enable_fixed_split_attention: bool = True
    enable_nvfp4_kv: bool = False
    attention_split: int = 256
    attention_precision: str = "model"
    ssm_state_precision: str = "float32"
    moe_tie_rule: str = "lowest_id"
    cudnn_benchmark: bool = False
    allow_tf32: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            kind = type(field.default)
            if type(value) is not kind:
                raise ArgumentError(f"{field.name} is {value!r}, expected a value of type {kind.__name__}")
        self._expect("attention_split", (64, 128, 256))
        self._expect("attention_precision", ("model", "float32"))
        self._expect("ssm_state_precision", ("float32",), "a state in fewer bits forgets, and differently at each cut")
        self._expect("moe_tie_rule", ("lowest_id",))
        self._expect("cudnn_benchmark", (False,), "it chooses kernels by their speed, and so the order of sums")
        self._expect("allow_tf32", (False,), "it rounds operands as the device likes")
        for name in ("enable_mamba2_determinism", "enable_moe_determinism", "enable_fixed_split_attention"):
            if self.deterministic_mode:
                self._expect(name, (True,), "deterministic_mode promises it of the whole model")

    def _expect(self, name: str, allowed: Sequence[Any], reason: str = "") -> None:
        value = getattr(self, name)
        if value not in allowed:
            names = " or ".join(map(repr, allowed))
            raise ArgumentError(f"{name} is {value!r}, expected {names}" + (f": {reason}" if reason else ""))
