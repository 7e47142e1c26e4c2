"""`jetblock.optimize` and `jetblock.restore`."""

from typing import Any, TypeVar

import torch

from jetblock import ops
from jetblock._errors import ArgumentError
from jetblock.hf._swap import KEPT, become, kept, restore_module
from jetblock.hf.attention import FixedSplitAttention
from jetblock.hf.config import JetBlockConfig
from jetblock.hf.detector import FAMILIES, Analysis, HybridLayerDetector, Replacement
from jetblock.hf.kv_cache import QuantizedKVModel
from jetblock.hf.mamba2 import DeterministicMamba2Mixer
from jetblock.hf.moe import DeterministicExperts, DeterministicMoERouter, DeterministicSharedExpert
from jetblock.ops._weights import CACHE

# A PreTrainedModel; typed so that what it is comes back.
Model = TypeVar("Model", bound=Any)


def optimize(model: Model, config: JetBlockConfig | None = None) -> Model:
    """Makes a live model of transformers compute with JetBlock's operators; returns the same object.

    After it a row of logits has the same bits whatever the batch, its padding, how the prompt is split, with a cache or
    without, at any thread count of JetBlock. Weights and modules stay as they are, `restore` gives the model back.

    Args:
        model: A causal language model on the CPU, in f32, bf16 or f16 and in `eval` mode.
        config: What to replace; everything where not given.
    """
    config = config or JetBlockConfig()
    _check_weights(model)
    analysis = HybridLayerDetector.analyze(model)
    _check(model, analysis, config)
    if config.enable_fixed_split_attention and "*" in analysis.pattern:
        attention = FixedSplitAttention(config.attention_split, config.attention_precision)
        before = model.config._attn_implementation  # noqa: SLF001 (transformers has no other name for it)
        model.set_attn_implementation(attention.register())
    else:
        before = None
    modules = dict(model.named_modules())
    for replacement in _chosen(analysis.replacements, config):
        become(modules[replacement.name], replacement.drop_in)
    if config.enable_nvfp4_kv:
        become(model.base_model, QuantizedKVModel)
    kept(model)["attn_implementation"] = before
    return model


def restore(model: Model) -> Model:
    """Undoes `optimize`: every module computes as before, to the bit; returns the same object.

    Args:
        model: What `optimize` was given.
    """
    if "attn_implementation" not in model.__dict__.get(KEPT, {}):
        raise ArgumentError(
            f"the model is a {type(model).__name__} that jetblock.optimize did not change, expected one it did"
        )
    before = kept(model)["attn_implementation"]
    packed = list(model.parameters())
    for module in model.modules():
        for matrices in module.__dict__.get(KEPT, {}).get("matrices", ()):
            packed += matrices
        restore_module(module)
    CACHE.drop(packed)
    model.__dict__.pop(KEPT, None)
    if before is not None:
        model.set_attn_implementation(before)
    return model


def _check_weights(model: Any) -> None:
    if model.training:
        raise ArgumentError("the model is in training mode, expected model.eval(): the operators have no gradients")
    for name, parameter in model.named_parameters():
        if parameter.is_inference():
            raise ArgumentError(
                f"{name} was made in torch.inference_mode(), expected a model that was loaded outside of it"
            )
        if parameter.device.type != "cpu":
            raise ArgumentError(f"{name} is on {parameter.device}, expected cpu")
        if parameter.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise ArgumentError(f"{name} is {parameter.dtype}, expected float32, bfloat16 or float16")


def _check(model: Any, analysis: Analysis, config: JetBlockConfig) -> None:
    # Some families say 0 for none.
    window = getattr(model.config, "sliding_window", None)
    if config.enable_fixed_split_attention and window:
        raise ArgumentError(f"the model's sliding_window is {window}, expected none: attention sees all keys")
    packed = {id(weight): weight.nbytes for weight in model.parameters() if weight.ndim in (2, 3)}
    limit = ops.weight_cache_stats()["limit"]
    if sum(packed.values()) > limit:
        # Else each call would pack them anew.
        raise ArgumentError(
            f"the model has {sum(packed.values())} bytes of weight matrices, but at most {limit} bytes are kept packed,"
            " expected at least as much: jetblock.ops.set_weight_cache_limit(bytes)"
        )
    if config.enable_nvfp4_kv and "*" not in analysis.pattern:
        raise ArgumentError("enable_nvfp4_kv is True, but the model has no attention layers")
    if not config.deterministic_mode:
        return
    if not analysis.is_known:
        raise ArgumentError(
            f"model_type is {analysis.model_type}, expected one of {', '.join(FAMILIES)}; with deterministic_mode=False"
            " only the parts that have drop-ins are replaced"
        )
    if analysis.not_covered:
        raise ArgumentError(f"JetBlock has no drop-in for {'; '.join(analysis.not_covered)}")


def _chosen(replacements: list[Replacement], config: JetBlockConfig) -> list[Replacement]:
    if config.deterministic_mode:
        # Attention is chosen by name, for the whole model.
        return [replacement for replacement in replacements if replacement.drop_in is not FixedSplitAttention]
    asked: set[type] = set()
    if config.enable_mamba2_determinism:
        asked.add(DeterministicMamba2Mixer)
    if config.enable_moe_determinism:
        asked |= {DeterministicMoERouter, DeterministicExperts, DeterministicSharedExpert}
    roots = tuple(replacement.name for replacement in replacements if replacement.drop_in in asked)
    # With what is inside: projections and activations.
    return [r for r in replacements if r.name in roots or r.name.startswith(tuple(f"{root}." for root in roots))]


__all__ = ["JetBlockConfig", "optimize", "restore"]
