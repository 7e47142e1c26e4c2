"""The compiled module. Private: `jetblock` is the package's face. Checked against the binary by stubtest."""

import os
from collections.abc import Sequence
from typing import Any, Final, final

__all__ = [
    "LINEAR_ATTENTION_EPS",
    "NUMERICS_VERSION",
    "VERSION",
    "Generation",
    "Model",
    "PackedConv",
    "PackedWeight",
    "activation",
    "adaptive_avg_pool",
    "attention",
    "available_isas",
    "avg_pool",
    "binary64_function",
    "causal_conv1d",
    "check_receipt",
    "checksum",
    "compare_receipts",
    "conv",
    "cumsum",
    "decay_rates",
    "dequantize_e4m3",
    "dequantize_nvfp4",
    "dynamic_causal_conv1d",
    "embedding",
    "first_difference",
    "gated_delta_rule",
    "get_cpu",
    "group_norm",
    "layer_norm",
    "linear",
    "linear_attention",
    "matmul",
    "moe_combine",
    "moe_router",
    "power",
    "quantize_e4m3",
    "quantize_nvfp4",
    "randn",
    "reduce",
    "rms_norm",
    "rms_norm_gated",
    "rope",
    "run_command",
    "sample",
    "sdpa",
    "selective_scan",
    "set_cpu",
    "similarity",
    "softmax",
    "swiglu",
    "topk",
    "upsample",
]

LINEAR_ATTENTION_EPS: Final[float]
NUMERICS_VERSION: Final[int]
VERSION: Final[str]

def available_isas() -> list[str]: ...
def set_cpu(threads: int | None = None, isa: str | None = None) -> None: ...
def get_cpu() -> tuple[int, str]: ...
def run_command(arguments: list[str]) -> int: ...
def checksum(array: Any) -> str: ...
def check_receipt(text: str) -> None: ...
def compare_receipts(left: str, right: str) -> str: ...
def first_difference(left: Any, right: Any) -> tuple[int, str, str] | None: ...
def activation(name: str, x: Any, out: Any) -> None: ...
def adaptive_avg_pool(x: Any, out: Any) -> None: ...
def attention(q: Any, k: Any, v: Any, split: int, out: Any) -> None: ...
def avg_pool(
    x: Any,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
    out: Any,
) -> None: ...
def binary64_function(name: str, x: Any, number: float, out: Any) -> None: ...
def causal_conv1d(x: Any, weight: Any, bias: Any | None, state: Any, out: Any) -> None: ...
def decay_rates(a_log: Any, out: Any) -> None: ...
def dequantize_e4m3(codes: Any, scale: float, out: Any) -> bool: ...
def dequantize_nvfp4(codes: Any, tensor_scale: float, scales: Any, hi_first: bool, out: Any) -> bool: ...
def dynamic_causal_conv1d(x: Any, weight: Any, state: Any, out: Any) -> None: ...
def gated_delta_rule(
    q: Any,
    k: Any,
    v: Any,
    g: Any,
    beta: Any,
    scale: float,
    qk_l2norm: bool,
    state: Any,
    out: Any,
) -> None: ...
def conv(x: Any, weight: PackedConv, bias: Any | None, out: Any) -> None: ...
def cumsum(x: Any, dim: int, out: Any) -> None: ...
def embedding(ids: Any, weight: Any, out: Any) -> None: ...
def group_norm(x: Any, groups: int, weight: Any | None, bias: Any | None, eps: float, out: Any) -> None: ...
def layer_norm(x: Any, weight: Any | None, bias: Any | None, eps: float, out: Any) -> None: ...
def linear(x: Any, weight: PackedWeight, bias: Any | None, out: Any) -> None: ...
def linear_attention(q: Any, k: Any, v: Any, state: Any, out: Any) -> None: ...
def matmul(a: Any, b: Any, kind: str, out: Any) -> None: ...
def moe_combine(y: Any, experts: Any, weights: Any, num_experts: int, out: Any) -> None: ...
def moe_router(
    logits: Any,
    bias: Any,
    num_experts_per_tok: int,
    n_group: int,
    topk_group: int,
    norm_topk_prob: bool,
    routed_scaling_factor: float,
    experts: Any,
    weights: Any,
) -> None: ...
def power(x: Any, exponent: float, out: Any) -> None: ...
def quantize_e4m3(x: Any, factor: float, out: Any) -> bool: ...
def quantize_nvfp4(x: Any, tensor_scale: float, hi_first: bool, codes: Any, scales: Any) -> bool: ...
def reduce(name: str, x: Any, dim: int, correction: int, out: Any) -> None: ...
def rms_norm(x: Any, weight: Any, eps: float, out: Any) -> None: ...
def rms_norm_gated(y: Any, z: Any, weight: Any, groups: int, eps: float, out: Any) -> None: ...
def rope(
    x: Any,
    start: int,
    theta: float,
    rotary_dim: int,
    inverse_frequencies: Sequence[float] | None,
    out: Any,
) -> None: ...
def randn(seeds: Any, images: Any, step: int, out: Any) -> None: ...
def sample(
    logits: Any,
    seeds: Any,
    positions: Any,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    out: Any,
) -> None: ...
def sdpa(q: Any, k: Any, v: Any, mask: Any | None, is_causal: bool, scale: float | None, out: Any) -> None: ...
def selective_scan(
    x: Any,
    dt: Any,
    a: Any,
    b: Any,
    c: Any,
    d: Any,
    dt_bias: Any,
    dt_limit: tuple[float, float],
    state: Any,
    out: Any,
) -> None: ...
def similarity(left: Any, right: Any) -> list[tuple[float, float]]: ...
def softmax(x: Any, is_log: bool, out: Any) -> None: ...
def swiglu(gate: Any, up: Any, out: Any) -> None: ...
def topk(x: Any, k: int, largest: bool, values: Any, indices: Any) -> None: ...
def upsample(mode: str, x: Any, align_corners: bool, scale_factor: Sequence[float], out: Any) -> None: ...

@final
class PackedConv:
    def __new__(
        cls,
        weight: Any,
        kind: str,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        output_padding: Sequence[int] | None = None,
    ) -> PackedConv: ...
    @property
    def kind(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    def output_shape(self, shape: Sequence[int]) -> list[int]: ...

@final
class PackedWeight:
    def __new__(cls, weight: Any, kind: str) -> PackedWeight: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def kind(self) -> str: ...
    @property
    def nbytes(self) -> int: ...

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
        receipt: str | None,
    ) -> Generation: ...
    def verify_receipt(self, text: str) -> str: ...
    def logits(self, ids: list[int], pieces: list[int], out: Any) -> tuple[str, str]: ...
    def verify(self, *, runs: int, control_runs: int, tokens: int, max_threads: int) -> str: ...

@final
class Generation:
    @property
    def prompt_tokens(self) -> list[int]: ...
    def step(self) -> tuple[list[tuple[int, str, str]], bool]: ...
    def answers(self) -> tuple[list[dict[str, Any]], list[int]]: ...
