"""What happened in a scope: each operator, how often, for how long, and by whose arithmetic."""

import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

COVERED = "covered"
EXACT = "exact"
UNCOVERED = "uncovered"


@dataclass(slots=True)
class Row:
    """One operator."""

    name: str
    """As in `torch.ops`: `aten.linear`."""
    status: str
    """`covered` (the contract's arithmetic), `exact` (PyTorch's, one rounding or none) or `uncovered`."""
    calls: int = 0
    seconds: float = 0.0
    site: str | None = None
    """Of an uncovered operator: the line of Python that called it first."""


class Report:
    """The operators of a scope; `print` shows a table, most time first."""

    def __init__(self, level: str, *, strict: bool) -> None:
        self.level = level
        self.strict = strict
        self._rows: dict[tuple[str, str], Row] = {}
        self._lock = threading.Lock()

    @property
    def rows(self) -> list[Row]:
        """The operators in the order of their first calls."""
        with self._lock:
            return list(self._rows.values())

    @property
    def uncovered(self) -> list[Row]:
        """The operators that the contract does not hold for."""
        return [row for row in self.rows if row.status == UNCOVERED]

    def add(self, name: str, status: str, seconds: float, site: str | None = None) -> None:
        """Counts a call."""
        with self._lock:
            row = self._rows.get((name, status))
            if row is None:
                row = self._rows[name, status] = Row(name, status, site=site)
            row.calls += 1
            row.seconds += seconds

    def __str__(self) -> str:
        rows = sorted(self.rows, key=lambda row: -row.seconds)
        width = max([len("operator"), *(len(row.name) for row in rows)])
        lines = [f"{'operator':{width}} {'status':9} {'calls':>7} {'ms':>10}"]
        for row in rows:
            line = f"{row.name:{width}} {row.status:9} {row.calls:7} {row.seconds * 1e3:10.2f}"
            lines.append(line + (f"  {row.site}" if row.site else ""))
        by_status = {status: [row for row in rows if row.status == status] for status in (COVERED, EXACT, UNCOVERED)}
        counts = ", ".join(f"{sum(row.calls for row in of)} {status}" for status, of in by_status.items())
        seconds = sum(row.seconds for row in rows)
        return "\n".join([*lines, f"{self.level}: calls {counts}; {seconds * 1e3:.2f} ms in all"])

    __repr__ = __str__


def call_site() -> str:
    """The innermost line of Python that belongs neither to PyTorch nor to this package, as `file:line in function`."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 (what `inspect` uses too)
    inside = (_folder("torch"), str(Path(__file__).parent))
    while frame is not None:
        code = frame.f_code
        if not code.co_filename.startswith((*inside, "<frozen")):
            return f"{code.co_filename}:{frame.f_lineno} in {code.co_name}"
        frame = frame.f_back
    return "unknown"


def _folder(package: str) -> str:
    file = sys.modules[package].__file__
    return str(Path(file or package).parent)
