"""The mode itself: which operators are looked at, and what is done about each."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any, NoReturn

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from jetblock._errors import ArgumentError, JetBlockError, UncoveredOperatorError
from jetblock.mode import _elements, _fast_paths, _grids, _products, _rows  # noqa: F401 (they fill the table)
from jetblock.mode._report import UNCOVERED, Report, call_site
from jetblock.mode._table import NotCovered, Rule, rule_of

_LEVELS = ("portable",)


class _Mode(TorchDispatchMode):
    """One for each thread that is in a scope, however deep."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reports: list[Report] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        rule = rule_of(func)
        if torch.is_grad_enabled():
            _check_no_gradient(rule.name, args, kwargs)
        for kind in types:
            if kind.__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
                return self._leave(rule.name, func, args, kwargs, f" on {kind.__name__}, which computes by itself,")
        if args and isinstance(args[0], torch.Tensor) and not args[0].is_cpu:
            return self._leave(rule.name, func, args, kwargs, f" on {args[0].device}")
        if rule.parts is not None:
            with self:
                return rule.parts(*args, **kwargs)
        if rule.status == UNCOVERED:
            return self._leave(rule.name, func, args, kwargs)
        try:
            return self._run(rule, args, kwargs)
        except NotCovered as why:
            reason = f" with {why}"
        return self._leave(rule.name, func, args, kwargs, reason)

    def _run(self, rule: Rule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        start = perf_counter()
        result = rule.run(*args, **kwargs)
        seconds = perf_counter() - start
        site = call_site() if rule.status == UNCOVERED else None
        for report in self.reports:
            report.add(rule.name, rule.status, seconds, site)
        return result

    def _leave(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], reason: str = "") -> Any:
        """Leaves an uncovered operator to PyTorch, or refuses to."""
        if any(report.strict for report in self.reports):
            raise UncoveredOperatorError(name, reason, call_site())
        return self._run(Rule(name, UNCOVERED, func), args, kwargs)


class _OfThread(threading.local):
    mode: _Mode | None = None


_THREAD = _OfThread()


@contextmanager
def scope(level: str, *, strict: bool) -> Iterator[Report]:
    """What `jetblock.deterministic` opens."""
    if level not in _LEVELS:
        raise ArgumentError(f"level is {level!r}, expected 'portable', the only level that can be held so far")
    report = Report(level, strict=strict)
    outermost = _THREAD.mode is None
    mode = _THREAD.mode or _Mode()
    mode.reports.append(report)
    if not outermost:
        try:
            yield report
        finally:
            mode.reports.remove(report)
        return
    _THREAD.mode = mode
    try:
        # Below autograd, where the operators that a model calls are still whole: one `linear`, not its parts.
        with mode, torch._C._AutoDispatchBelowAutograd():  # noqa: SLF001 (what PyTorch's own modes use)
            yield report
    finally:
        _THREAD.mode = None
        mode.reports.remove(report)
    if mode.reports:
        raise JetBlockError("a scope of jetblock.deterministic() outlived the one around it, expected the reverse")


def _check_no_gradient(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if name == "aten.detach":
        return
    for argument in (*args, *kwargs.values()):
        several = argument if isinstance(argument, (list, tuple)) else (argument,)
        if any(isinstance(one, torch.Tensor) and one.requires_grad for one in several):
            _refuse_gradient(name)


def _refuse_gradient(name: str) -> NoReturn:
    raise ArgumentError(
        f"{name} has an argument that requires a gradient, expected torch.no_grad() or torch.inference_mode() around"
        " jetblock.deterministic(): the mode has no gradients"
    )
