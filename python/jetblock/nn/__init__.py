"""Torch modules of layers that are linear in the length of a text, and of work that is skipped. They are for inference.

Whatever the batch, the threads or the instruction set, and wherever a text is cut into prompt and steps, the bits are
the same. None of them is a free replacement for softmax attention in a trained model: benches/results has the errors.
"""

from jetblock.nn.attention_pattern_cache import AttentionPatternCache
from jetblock.nn.dynamic_convolution import DynamicConvolutionKernel
from jetblock.nn.jet_block import JetBlock, JetBlockState
from jetblock.nn.jet_block_attention import JetBlockAttention, JetBlockAttentionState
from jetblock.nn.linear_attention import LinearAttentionKernel
from jetblock.nn.temporal_coherence import TemporalCoherenceSkipper

__all__ = [
    "AttentionPatternCache",
    "DynamicConvolutionKernel",
    "JetBlock",
    "JetBlockAttention",
    "JetBlockAttentionState",
    "JetBlockState",
    "LinearAttentionKernel",
    "TemporalCoherenceSkipper",
]
