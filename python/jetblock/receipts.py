"""Receipts: what was asked, of which model, and the digest of every logit behind the answer (docs/receipt.md)."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jetblock import _core
from jetblock._errors import ArgumentError

MAX_BYTES = 1 << 30
"""The largest receipt that is read."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two receipts side by side. It is true where every recorded bit of the answer is the same.

    Attributes:
        steps: Tokens that were compared.
        first_difference: Where the answers part.
        causes: Recorded facts of contract, model and request that differ, each with both values: they may change bits.
        environment: Facts of the machines that differ: none of them may change a bit.
    """

    steps: int
    first_difference: str | None
    causes: dict[str, tuple[str, str]]
    environment: dict[str, tuple[str, str]]

    def __bool__(self) -> bool:
        """Whether nothing differed."""
        return self.first_difference is None

    def __str__(self) -> str:
        if self:
            return f"identical: {self.steps} steps"
        causes = "; ".join(f"{name}: {left}, {right}" for name, (left, right) in self.causes.items())
        return f"DIFFERENT: {self.first_difference}; explained by {causes or 'no recorded fact'}"


@dataclass(frozen=True, slots=True)
class Replays:
    """A receipt's request, run again. It is true where every run gave every recorded bit.

    Attributes:
        runs: For each schedule, by what was varied, its comparison with the receipt.
    """

    runs: dict[str, Comparison]

    def __bool__(self) -> bool:
        """Whether something ran and nothing differed."""
        return bool(self.runs) and all(self.runs.values())

    def __str__(self) -> str:
        return "\n".join(f"{name}: {comparison}" for name, comparison in self.runs.items())


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt as text. `Model.generate(..., receipt="logits")` writes one, `Model.verify_receipt` runs it again.

    >>> import jetblock
    >>> model = jetblock.load()
    >>> receipt = model.generate("In the beginning", max_tokens=4, receipt="layers").receipt
    >>> receipt.facts["contract"]["level"]
    'portable'
    >>> bool(model.verify_receipt(receipt))
    True

    Raises:
        ArgumentError: The text is not a receipt.
    """

    text: str = field(repr=False)

    def __post_init__(self) -> None:
        _core.check_receipt(self.text)

    @staticmethod
    def open(path: str | os.PathLike[str]) -> "Receipt":
        """Reads a receipt from a file."""
        with Path(path).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ArgumentError(f"{path} has more than {MAX_BYTES} bytes, expected a receipt")
        try:
            return Receipt(content.decode())
        except ValueError as error:
            raise ArgumentError(f"{path}: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes it to a file, whole or not at all."""
        path = Path(path)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            part.write_text(self.text, encoding="utf-8", newline="")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    @property
    def facts(self) -> dict[str, Any]:
        """Its JSON object."""
        facts: dict[str, Any] = json.loads(self.text)
        return facts

    def compare(self, other: "Receipt") -> Comparison:
        """Where two answers part, and which recorded facts explain it."""
        return comparison(json.loads(_core.compare_receipts(self.text, other.text)))


def comparison(found: dict[str, Any]) -> Comparison:
    """A comparison that the compiled module made."""
    causes, environment = (
        {name: (left, right) for name, (left, right) in found[key].items()} for key in ("causes", "environment")
    )
    return Comparison(found["steps"], found["first_difference"], causes, environment)
