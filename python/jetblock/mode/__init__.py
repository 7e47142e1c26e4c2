"""Deterministic mode: PyTorch models on the CPU, computed by the contract's operators.

>>> import torch, jetblock
>>> layer, x = torch.nn.Linear(512, 512), torch.randn(8, 512)
>>> with torch.no_grad(), jetblock.deterministic() as report:
...     torch.equal(layer(x)[:1], layer(x[:1]))
True
>>> [(row.name, row.calls, row.status) for row in report.rows]
[('aten.linear', 2, 'covered'), ('aten.slice', 2, 'exact'), ('aten.equal', 1, 'exact')]

How it works, from the outside in:

- `_scope` opens and closes the mode and sees every operator of its thread, below autograd and above PyTorch's own
  decompositions.
- `_table` says what becomes of an operator: computed by the contract (*covered*), left to PyTorch because its result
  is one rounding of a stated formula or none at all (*exact*, listed in `_exact`), taken apart into others, or
  *uncovered*.
- `_products`, `_rows`, `_grids`, `_elements` and `_fast_paths` are the covered operators: functions with the arguments
  of PyTorch's, made of `jetblock.ops` and exact operators. NUMERICS.md section 14 writes their arithmetic down.
- `_report` counts.
"""

from contextlib import AbstractContextManager

from jetblock.mode._report import Report, Row

__all__ = ["Report", "Row", "deterministic"]


def deterministic(level: str = "portable", *, strict: bool = True) -> AbstractContextManager[Report]:
    """Computes PyTorch's operators on the CPU by JetBlock's contract, in this thread, until the scope ends.

    A row of a batch then has the bits it has alone, at any thread count (`jetblock.set_cpu`) and on every CPU. Scopes
    nest; the strictest decides, and each reports what happened inside it. The scope is the thread's from its first
    line to its last, so a generator that yields inside one leaves it open for its caller meanwhile. It decorates
    functions too. Gradients are refused: it goes with `torch.no_grad()` or `torch.inference_mode()`.

    Args:
        level: What the bits may depend on. `portable` (nothing but the inputs) is the one there is.
        strict: Raise `UncoveredOperatorError` at the first operator that the contract does not cover, random ones
            among them. Else PyTorch computes it and the report lists it.

    Returns:
        A context manager that gives the report, which is complete when the scope ends.
    """
    from jetblock.mode._scope import scope  # noqa: PLC0415 (PyTorch is imported where it is used)

    return scope(level, strict=strict)
