"""What becomes of each operator of PyTorch."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NoReturn

import torch

from jetblock.mode import _exact
from jetblock.mode._report import COVERED, EXACT, UNCOVERED


class NotCovered(Exception):  # noqa: N818 (a signal, turned into UncoveredOperatorError)
    """Raised by a covered operator about arguments that it does not cover; the message says which."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes of one operator: it is run, or `parts` calls the operators that it is made of."""

    name: str
    status: str
    run: Callable[..., Any]
    parts: Callable[..., Any] | None = None


_HANDLERS: dict[str, tuple[Callable[..., Any], str]] = {}


def covers(*names: str, status: str = COVERED) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function for operators such as `aten.linear.default`; it has their arguments by their names.

    The forms that write (`exp_`, `exp.out`) follow from those that return.
    """

    def add(handler: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            _HANDLERS[name] = handler, status
        return handler

    return add


def covered_names() -> list[str]:
    """All operators with a function, by name."""
    return sorted(_HANDLERS)


_KITCHEN = tuple(f"comfy_kitchen.{name}" for name in ("apply_rope", "rms_rope", "adaln", "rms_adaln"))
_RULES: dict[torch._ops.OpOverload, Rule] = {}


def rule_of(func: torch._ops.OpOverload) -> Rule:
    """The rule of an operator."""
    rule = _RULES.get(func)
    if rule is None:
        rule = _RULES[func] = _find(func)
    return rule


def _find(func: torch._ops.OpOverload) -> Rule:
    name = str(func).rsplit(".", 1)[0]
    found = _HANDLERS.get(str(func)) or _writing_form(func)
    if name.startswith("jetblock."):
        found = func, COVERED
    if found is not None:
        handler, status = found
        return Rule(name, status, handler)
    if name in _exact.MOVES:
        return Rule(name, EXACT, func)
    if name in _exact.ARITHMETIC or name.removesuffix("_") in _exact.ARITHMETIC:
        return Rule(name, EXACT, _arithmetic(func))
    if name.removesuffix("_") in _exact.INTEGERS:
        return Rule(name, EXACT, _of_integers(func))
    if (parts := _parts(func, name)) is not None:
        return Rule(name, EXACT, func, parts)
    return Rule(name, UNCOVERED, func)


def _parts(func: torch._ops.OpOverload, name: str) -> Callable[..., Any] | None:
    """A function that calls the operators of which this one is made, if that is what it is."""
    if func._can_decompose():  # noqa: SLF001 (what PyTorch's own modes ask)
        return func.decompose
    if name.startswith(_KITCHEN):
        # ComfyUI's: rotations and normalizations in one call, which the eager backend writes in PyTorch.
        eager = import_module("comfy_kitchen.backends.eager")
        return _as_declared(func, getattr(eager, name.removeprefix("comfy_kitchen.")))
    return None


def _as_declared(func: torch._ops.OpOverload, parts: Callable[..., Any]) -> Callable[..., Any]:
    """The same, without a result where an operator has none but writes its arguments."""
    if func._schema.returns:  # noqa: SLF001 (as above)
        return parts

    def run(*arguments: Any, **options: Any) -> None:
        parts(*arguments, **options)

    return run


def _writing_form(func: torch._ops.OpOverload) -> tuple[Callable[..., Any], str] | None:
    """Of a form that writes its first argument (`exp_`) or `out`: the returning form's function, then a copy."""
    namespace, packet = func._schema.name.split("::")  # noqa: SLF001 (the schema has no public name)
    arguments = func._schema.arguments  # noqa: SLF001
    outs = [a.name for a in arguments if a.kwarg_only and a.alias_info is not None and a.alias_info.is_write]
    # Types too: `clamp_` of numbers is another form than `clamp_` of tensors.
    inputs = [(a.name, str(a.type)) for a in arguments if a.name not in outs]
    is_in_place = not outs and packet.endswith("_") and not packet.endswith("__")
    if not outs and not is_in_place:
        return None
    functional = getattr(getattr(torch.ops, namespace), packet.removesuffix("_") if is_in_place else packet, None)
    if functional is None:
        return None
    for overload in functional.overloads():
        candidate = getattr(functional, overload)
        found = _HANDLERS.get(str(candidate))
        if found is not None and _inputs(candidate) == inputs:
            handler, status = found
            return (_in_place(handler) if is_in_place else _into(handler, outs)), status
    return None


def _inputs(func: torch._ops.OpOverload) -> list[tuple[str, str]]:
    """Names and types of the arguments."""
    return [(a.name, str(a.type)) for a in func._schema.arguments]  # noqa: SLF001 (as above)


def _in_place(handler: Callable[..., Any]) -> Callable[..., Any]:
    def run(target: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        return target.copy_(handler(target, *arguments, **options))

    return run


def _into(handler: Callable[..., Any], outs: list[str]) -> Callable[..., Any]:
    def run(*arguments: Any, **options: Any) -> Any:
        targets = [options.pop(out) for out in outs]
        results = handler(*arguments, **options)
        for target, result in zip(targets, results if len(outs) > 1 else [results], strict=True):
            if target.shape != result.shape:
                target.resize_(result.shape)
            target.copy_(result)
        return tuple(targets) if len(outs) > 1 else targets[0]

    return run


def _arithmetic(func: torch._ops.OpOverload) -> Callable[..., Any]:
    """An exact operator, where its arguments leave it exact."""
    names = [a.name for a in func._schema.arguments]  # noqa: SLF001

    def run(*arguments: Any, **options: Any) -> Any:
        # Products and quotients of complex numbers are several operations.
        for argument in arguments:
            if isinstance(argument, torch.Tensor) and argument.dtype.is_complex:
                refuse(f"dtype {argument.dtype}")
        given = {**dict(zip(names, arguments, strict=False)), **options}
        if given.get("alpha", 1) not in (1, -1):
            # PyTorch multiplies and adds with one rounding or two, as the element falls.
            refuse(f"alpha={given['alpha']}")
        if given.get("rounding_mode") is not None and given["self"].is_floating_point():
            refuse(f"rounding_mode={given['rounding_mode']!r} of floating-point numbers")
        if given.get("decimals", 0) != 0:
            refuse(f"decimals={given['decimals']}")
        return func(*arguments, **options)

    # The hot ones have no such arguments.
    plain = not {"alpha", "rounding_mode", "decimals"} & set(names)

    def run_plain(*arguments: Any, **options: Any) -> Any:
        for argument in arguments:
            if isinstance(argument, torch.Tensor) and argument.dtype.is_complex:
                refuse(f"dtype {argument.dtype}")
        return func(*arguments, **options)

    return run_plain if plain else run


def _of_integers(func: torch._ops.OpOverload) -> Callable[..., Any]:
    def run(*arguments: Any, **options: Any) -> Any:
        for argument in arguments:
            if isinstance(argument, float) or (isinstance(argument, torch.Tensor) and argument.is_floating_point()):
                refuse("floating-point numbers")
        return func(*arguments, **options)

    return run


def refuse(why: str) -> NoReturn:
    """For functions of covered operators."""
    raise NotCovered(why)
