"""Drop-ins for Hugging Face transformers, on the CPU: each layer in the arithmetic of NUMERICS.md.

`jetblock.optimize(model)` puts the right one in the place of every layer of a live model and `jetblock.restore(model)`
gives the model back. Each can also be used alone. Nothing changes that was not asked for.
"""

from jetblock.hf._optimize import optimize, restore
from jetblock.hf.activation import (
    BatchInvariantGELU,
    BatchInvariantGELUTanh,
    BatchInvariantReLUSquared,
    BatchInvariantSiLU,
)
from jetblock.hf.attention import FixedSplitAttention
from jetblock.hf.cascade import CascadeModeController
from jetblock.hf.config import JetBlockConfig
from jetblock.hf.detector import Analysis, HybridLayerDetector, Layer, Replacement
from jetblock.hf.kv_cache import NVFP4Quantizer
from jetblock.hf.linear import BatchInvariantLinear, BatchInvariantMatMul
from jetblock.hf.mamba2 import DeterministicMamba2Mixer, Mamba2LayerWrapper
from jetblock.hf.moe import DeterministicExperts, DeterministicMoERouter, DeterministicSharedExpert
from jetblock.hf.rms_norm import BatchInvariantRMSNorm
from jetblock.hf.rotary import BatchInvariantRotaryEmbedding

__all__ = [
    "Analysis",
    "BatchInvariantGELU",
    "BatchInvariantGELUTanh",
    "BatchInvariantLinear",
    "BatchInvariantMatMul",
    "BatchInvariantRMSNorm",
    "BatchInvariantReLUSquared",
    "BatchInvariantRotaryEmbedding",
    "BatchInvariantSiLU",
    "CascadeModeController",
    "DeterministicExperts",
    "DeterministicMamba2Mixer",
    "DeterministicMoERouter",
    "DeterministicSharedExpert",
    "FixedSplitAttention",
    "HybridLayerDetector",
    "JetBlockConfig",
    "Layer",
    "Mamba2LayerWrapper",
    "NVFP4Quantizer",
    "Replacement",
    "optimize",
    "restore",
]
