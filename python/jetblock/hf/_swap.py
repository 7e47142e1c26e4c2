"""Live modules become drop-ins and themselves again.

A module's class is exchanged for one that is both a drop-in and what the module was, as PyTorch's `fully_shard` does.
So the module stays the same object, with its weights, names, hooks and place; only `forward` is another.
"""

from typing import Any

from torch import nn

from jetblock._errors import ArgumentError

# What a drop-in keeps with the module, such as a table; gone when the module becomes itself again.
KEPT = "_jetblock_kept"


_CLASSES: dict[tuple[type, type], type] = {}


def _class(drop_in: type, original: type) -> type:
    key = drop_in, original
    if key not in _CLASSES:
        bases = (drop_in,) if drop_in is original else key
        # A model's class name is written into the configuration that it saves.
        named = original if hasattr(original, "save_pretrained") else drop_in
        _CLASSES[key] = type(named.__name__, bases, {"__module__": named.__module__, "_jetblock_original": original})
    return _CLASSES[key]


def become(module: nn.Module, drop_in: type) -> None:
    """Gives a module the `forward` of a drop-in."""
    if original_class(module):
        raise ArgumentError(f"the module is a {type(module).__name__} already; jetblock.restore it first")
    module.__class__ = _class(drop_in, type(module))


def restore_module(module: nn.Module) -> bool:
    """Makes a module what it was; false where it is no drop-in."""
    original = original_class(module)
    if original is None:
        return False
    module.__class__ = original
    module.__dict__.pop(KEPT, None)
    return True


def original_class(module: nn.Module) -> type[nn.Module] | None:
    """The class of a module before it became a drop-in."""
    original: type[nn.Module] | None = getattr(type(module), "_jetblock_original", None)
    return original


def kept(module: nn.Module) -> dict[str, Any]:
    """What the drop-in keeps with this module."""
    values: dict[str, Any] = module.__dict__.setdefault(KEPT, {})
    return values
