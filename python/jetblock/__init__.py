"""JetBlock: the same request gives the same bits, whatever else the machine is doing, and proof of it.

>>> import jetblock
>>> model = jetblock.load()
>>> model.generate("In the beginning", max_tokens=8, seed=1).content == model.generate(
...     "In the beginning", max_tokens=8, seed=1, n=2
... )[0].content
True
"""

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
    "set_cpu",
    "validate_determinism",
]
