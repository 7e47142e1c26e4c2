"""JetBlock: the same request gives the same bits, whatever else the machine is doing, and proof of it.

>>> import jetblock
>>> model = jetblock.load()
>>> model.generate("In the beginning", max_tokens=8, seed=1).content == model.generate(
...     "In the beginning", max_tokens=8, seed=1, n=2
... )[0].content
True
"""

from typing import TYPE_CHECKING, Any

from jetblock import _core
from jetblock._core import NUMERICS_VERSION, available_isas, get_cpu, set_cpu
from jetblock._errors import ArgumentError, JetBlockError, ModelError, UncoveredOperatorError
from jetblock.checksums import DeterminismReport, Difference, checksum, validate_determinism
from jetblock.mode import deterministic
from jetblock.model import (
    Completion,
    Completions,
    Delta,
    GenerateOptions,
    Model,
    Proof,
    Speculation,
    Stream,
    ToolCall,
    ToolCallError,
    load,
)
from jetblock.receipts import Comparison, Receipt, Replays

if TYPE_CHECKING:
    from jetblock.hf import JetBlockConfig, optimize, restore

__version__ = _core.VERSION

__all__ = [
    "NUMERICS_VERSION",
    "ArgumentError",
    "Comparison",
    "Completion",
    "Completions",
    "Delta",
    "DeterminismReport",
    "Difference",
    "GenerateOptions",
    "JetBlockConfig",
    "JetBlockError",
    "Model",
    "ModelError",
    "Proof",
    "Receipt",
    "Replays",
    "Speculation",
    "Stream",
    "ToolCall",
    "ToolCallError",
    "UncoveredOperatorError",
    "__version__",
    "available_isas",
    "checksum",
    "deterministic",
    "get_cpu",
    "load",
    "optimize",
    "restore",
    "set_cpu",
    "validate_determinism",
]


def __getattr__(name: str) -> Any:
    # They need PyTorch and transformers, which importing the package does not load.
    if name in ("JetBlockConfig", "optimize", "restore"):
        from jetblock import hf  # noqa: PLC0415

        return getattr(hf, name)
    raise AttributeError(f"module 'jetblock' has no attribute {name!r}")
