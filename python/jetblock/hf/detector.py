"""What a live model is made of, and what JetBlock puts in the place of which part."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import nn

from jetblock._errors import ArgumentError
from jetblock.hf._swap import original_class
from jetblock.hf.activation import ACTIVATIONS
from jetblock.hf.attention import FixedSplitAttention
from jetblock.hf.linear import BatchInvariantLinear
from jetblock.hf.mamba2 import DeterministicMamba2Mixer, is_mamba2_mixer
from jetblock.hf.moe import (
    EXPERTS,
    ROUTERS,
    SHARED_EXPERTS,
    DeterministicExperts,
    DeterministicMoERouter,
    DeterministicSharedExpert,
)
from jetblock.hf.rms_norm import BatchInvariantRMSNorm, is_rms_norm
from jetblock.hf.rotary import BatchInvariantRotaryEmbedding, is_rotary_embedding

# Families whose whole forward pass is known: whatever is not in a module that gets replaced is exact in PyTorch
# (additions and products of elements, copies) and the same for every row.
FAMILIES = ("llama", "mamba2", "mistral", "mixtral", "nemotron_h", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe")
LETTERS = {"mamba2": "M", "attention": "*", "mlp": "-", "moe": "E"}
# They choose and copy, and do not compute.
EXACT = (nn.Embedding, nn.Identity, nn.Dropout, nn.ReLU)


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer: its place, what it computes, in order, and its parameters."""

    name: str
    kinds: tuple[str, ...]
    parameters: int


@dataclass(frozen=True, slots=True)
class Replacement:
    """A module, what it is and what takes its place."""

    name: str
    module: str
    drop_in: type


@dataclass(frozen=True, slots=True)
class Analysis:
    """What `HybridLayerDetector.analyze` found.

    Attributes:
        model_type: The family.
        is_known: Whether JetBlock knows the whole forward pass of the family.
        layers: In order.
        replacements: What `jetblock.optimize` replaces, outermost first.
        not_covered: Modules that JetBlock has no drop-in for.
        parameters: Of the whole model, shared ones once.
    """

    model_type: str
    is_known: bool
    layers: list[Layer]
    replacements: list[Replacement]
    not_covered: list[str]
    parameters: int

    @property
    def pattern(self) -> str:
        """The stack in Nemotron's letters: M mamba, * attention, - mlp, E moe."""
        return "".join(LETTERS[kind] for layer in self.layers for kind in layer.kinds)

    def __str__(self) -> str:
        counts = _count(replacement.drop_in.__name__ for replacement in self.replacements)
        lines = [f"{self.model_type}: {len(self.layers)} layers {self.pattern}, {self.parameters:,} parameters"]
        lines += [f"  {number:4} {name}" for name, number in counts.items()]
        lines += [f"  not covered: {name}" for name in self.not_covered]
        return "\n".join(lines)


@dataclass(slots=True)
class _Found:
    replacements: list[Replacement] = field(default_factory=list)
    not_covered: list[str] = field(default_factory=list)


class HybridLayerDetector:
    """Looks at live models of transformers; changes nothing."""

    @staticmethod
    def analyze(model: nn.Module) -> Analysis:
        """Layer kinds, parameters, and what JetBlock would replace.

        Args:
            model: A model of transformers that `jetblock.optimize` has not changed.
        """
        config = getattr(model, "config", None)
        base = getattr(model, "base_model", None)
        stack = getattr(base, "layers", None)
        if config is None or not isinstance(stack, nn.ModuleList):
            raise ArgumentError(
                f"the model is a {type(model).__name__}, expected a causal language model of transformers"
            )
        prefix = next(name for name, module in model.named_modules() if module is stack)
        layers = [
            Layer(f"{prefix}.{i}", tuple(_kinds(layer)), sum(p.numel() for p in layer.parameters()))
            for i, layer in enumerate(stack)
        ]
        found = _Found()
        _visit(model, "", found)
        model_type = str(config.model_type)
        return Analysis(
            model_type=model_type,
            is_known=model_type in FAMILIES,
            layers=layers,
            replacements=found.replacements,
            not_covered=found.not_covered,
            parameters=sum(p.numel() for p in model.parameters()),
        )


def _count(names: Iterator[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts


def _kinds(layer: nn.Module) -> Iterator[str]:
    """What a layer's children compute, in order."""
    for child in layer.children():
        own = {type(module).__name__ for module in child.modules()}
        if "Mamba" in type(child).__name__:
            yield "mamba2"
        elif type(child).__name__.endswith("Attention"):
            yield "attention"
        elif own & set(EXPERTS):
            yield "moe"
        elif type(child).__name__.endswith("MLP"):
            yield "mlp"


def _visit(module: nn.Module, name: str, found: _Found) -> None:
    if original_class(module):
        raise ArgumentError(f"{name or 'the model'} is replaced already; jetblock.restore(model) first")
    inside: dict[str, nn.Module] = dict(module.named_children())
    drop_in = drop_in_for(module)
    if drop_in is not None:
        found.replacements.append(Replacement(name, type(module).__name__, drop_in))
    elif not inside and type(module) not in EXACT:
        found.not_covered.append(f"{name}: {type(module).__name__}")
    if drop_in is DeterministicMamba2Mixer:
        # It computes these itself.
        inside = {key: child for key, child in inside.items() if key not in ("conv1d", "norm", "act")}
    for key, child in inside.items():
        _visit(child, f"{name}.{key}" if name else key, found)


def drop_in_for(module: nn.Module) -> type | None:
    """The class whose `forward` takes the place of this module's; `FixedSplitAttention` that of what it calls."""
    name = type(module).__name__
    candidates: list[tuple[bool, type]] = [
        (is_mamba2_mixer(module), DeterministicMamba2Mixer),
        (name.endswith("Attention"), FixedSplitAttention),
        (type(module) is nn.Linear, BatchInvariantLinear),
        (name in ROUTERS, DeterministicMoERouter),
        (name in EXPERTS, DeterministicExperts),
        (name in SHARED_EXPERTS, DeterministicSharedExpert),
        (name in ACTIVATIONS, ACTIVATIONS.get(name, nn.Module)),
        (is_rotary_embedding(module), BatchInvariantRotaryEmbedding),
        (is_rms_norm(module), BatchInvariantRMSNorm),
    ]
    return next((drop_in for fits, drop_in in candidates if fits), None)
