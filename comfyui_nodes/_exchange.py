"""Takes nodes out of a graph and puts others in their place, so that every link still leads somewhere."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

Graph = dict[str, dict[str, Any]]
"""By node, its `class_type` and its `inputs`: values, and links `[node, slot]`. ComfyUI's API format."""
MAIN = "main"
PRIMITIVES = {str: "PrimitiveString", bool: "PrimitiveBoolean", int: "PrimitiveInt", float: "PrimitiveFloat"}
"""ComfyUI's nodes that put out a value."""


class CannotReplaceError(Exception):
    """Why a node stays as it is."""


@dataclass(frozen=True)
class Output:
    """An output of one of the nodes that take a node's place."""

    node: str
    slot: int = 0


@dataclass(frozen=True)
class Constant:
    """What an output always was."""

    value: str | float | bool

    def __post_init__(self) -> None:
        if type(self.value) not in PRIMITIVES:
            raise TypeError(f"no node puts out {self.value!r}")


@dataclass(frozen=True)
class Replacement:
    """What takes a node's place."""

    nodes: dict[str, tuple[str, dict[str, Any]]]
    """Class and inputs by name; inputs are values, links of the old node or `Output`, and None is left out. `MAIN`
    keeps the old node's id and place. The others are made where something needs them."""
    outputs: tuple[Output | Constant | list[Any] | None, ...]
    """By output of the old node what it is now: an output, a value, or a link that led into the old node."""
    notes: list[str] = field(default_factory=list)
    """What is different from before."""


class Given:
    """The inputs that a node was saved with."""

    def __init__(self, inputs: Mapping[str, Any], find: Callable[[Any], Any], class_of: Callable[[Any], str]) -> None:
        self.inputs = inputs
        self.find = find
        self.class_of = class_of

    def __getitem__(self, name: str) -> Any:
        """A value, a link, or None."""
        return self.find(self.inputs.get(name))

    def value(self, name: str) -> Any:
        """A value, which has to be known."""
        value = self[name]
        if is_link(value):
            raise CannotReplaceError(f"what {name} is comes from another node")
        return value

    def take(self, *names: str) -> dict[str, Any]:
        """Some of the inputs."""
        return {name: self[name] for name in names}


@dataclass
class Change:
    """What became of a node."""

    node: str
    was: str
    now: list[str]
    """The ids of the nodes in its place; none where it stayed, or where values took its place."""
    words: str


class Exchange:
    """One exchange, made in place."""

    def __init__(self, graph: Graph, becomes: Mapping[str, Callable[[Given], Replacement]], ids: Iterator[str]) -> None:
        self.graph = graph
        self.becomes = becomes
        self.ids = ids
        self.old = {node: graph[node] for node in becomes}
        self.kept: dict[str, str] = {}
        """Nodes that stay, and why."""
        self.found: dict[str, Replacement | None] = {}
        """By node what takes its place; None while that is looked for."""
        self.made: dict[tuple[str, str], str] = {}

    def run(self) -> list[Change]:
        """Replaces what can be replaced."""
        while not self._is_whole():
            self.found.clear()
        for node in self.found:
            del self.graph[node]
        rest = list(self.graph.values())
        for node, replacement in self.found.items():
            if replacement and MAIN in replacement.nodes:
                self._make(node, MAIN)
        for entry in rest:
            for name, link in _links_of(entry):
                entry["inputs"][name] = self._lead(link)
        return [self._change(node) for node in self.old]

    def _is_whole(self) -> bool:
        """Finds what takes each node's place; False if one more has to stay, because nothing stands for an output."""
        for node in self.old:
            self._replacement(node)
        links = [link for node, entry in self.graph.items() if node not in self.found for _, link in _links_of(entry)]
        for replacement in self.found.values():
            for _, inputs in replacement.nodes.values() if replacement else ():
                links += [what for what in inputs.values() if is_link(what)]
        kept = len(self.kept)
        for link in links:
            owner, end = self._end(link)
            if end is None:
                self.kept[owner] = "nothing stands for an output that is used"
        return len(self.kept) == kept

    def _replacement(self, node: str) -> Replacement | None:
        """What takes a node's place; None where it stays."""
        if node in self.kept:
            return None
        if node in self.found:
            if self.found[node] is None:
                raise CannotReplaceError("its inputs lead in a circle")
            return self.found[node]
        self.found[node] = None
        try:
            self.found[node] = self.becomes[node](Given(self.old[node]["inputs"], self._value, self._class_of))
        except CannotReplaceError as reason:
            self.kept[node] = str(reason)
        except (ArithmeticError, LookupError, TypeError, ValueError):
            self.kept[node] = "its inputs hold what it never took"
        if node in self.kept:
            del self.found[node]
        return self.found.get(node)

    def _end(self, link: list[Any]) -> tuple[str, Output | Constant | list[Any] | None]:
        """Where a link leads in the new graph, through nodes that passed it on; and of which old node that is."""
        source, slot = link
        replacement = self._replacement(source) if source in self.old else None
        if replacement is None:
            return source, link
        output = replacement.outputs[slot] if 0 <= slot < len(replacement.outputs) else None
        return self._end(output) if isinstance(output, list) else (source, output)

    def _value(self, value: Any) -> Any:
        """An input; the value itself where it comes from a node that always gave the same."""
        if is_link(value) and value[0] in self.old:
            _, output = self._end(value)
            return output.value if isinstance(output, Constant) else value
        return value

    def _class_of(self, link: Any) -> str:
        """The class of the node from which a link comes."""
        for _ in range(len(self.graph)):
            if not is_link(link):
                break
            entry = self.old.get(link[0]) or self.graph.get(link[0], {})
            if entry.get("class_type") != "Reroute":
                return str(entry.get("class_type"))
            link = next((through for _, through in _links_of(entry)), None)
        return ""

    def _make(self, owner: str, name: str, value: Constant | None = None) -> str:
        """Makes a node of a replacement, once; returns its id."""
        if (owner, name) in self.made:
            return self.made[owner, name]
        node = self.made[owner, name] = owner if name == MAIN else next(self.ids)
        inputs: dict[str, Any] = {}
        class_type, given = "", inputs
        if value is not None:
            class_type, given = PRIMITIVES[type(value.value)], {"value": value.value}
        elif replacement := self.found[owner]:
            class_type, given = replacement.nodes[name]
        self.graph[node] = {"class_type": class_type, "inputs": inputs}
        for key, what in given.items():
            if isinstance(what, Output):
                inputs[key] = [self._make(owner, what.node), what.slot]
            elif what is not None:
                inputs[key] = self._lead(what) if is_link(what) else what
        return node

    def _lead(self, link: list[Any]) -> list[Any]:
        """A link of the old graph in the new one."""
        owner, end = self._end(link)
        if isinstance(end, Output):
            return [self._make(owner, end.node), end.slot]
        if isinstance(end, Constant):
            return [self._make(owner, f"value {link[1]}", end), 0]
        return end or link

    def _change(self, node: str) -> Change:
        was, found = self.old[node]["class_type"], self.found.get(node)
        if found is None:
            return Change(node, was, [], _line(f"node {node} stays {was} of an earlier version: {self.kept[node]}"))
        now = sorted((made for (owner, _), made in self.made.items() if owner == node), key=lambda made: made != node)
        classes = ", ".join(self.graph[made]["class_type"] for made in now) or "gone, and nothing used it"
        notes = "".join(f"; {note}" for note in found.notes)
        return Change(node, was, now, _line(f"node {node}: {was} of an earlier version is now {classes}{notes}"))


def is_link(value: Any) -> bool:
    """Whether an input is a link."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int)
        and not isinstance(value[1], bool)
    )


def new_ids(taken: Iterable[str]) -> Iterator[str]:
    """Ids that no node has; `taken` are those of all nodes."""
    numbers = (int(number) for node in taken for number in re.findall(r"\d{1,15}", node))
    return map(str, itertools.count(max(numbers, default=0) + 1))


def _line(words: str) -> str:
    """On one line, whatever ids and values hold."""
    return " ".join(words.split())


def _links_of(entry: dict[str, Any]) -> list[tuple[str, list[Any]]]:
    inputs = entry.get("inputs")
    return [(name, value) for name, value in inputs.items() if is_link(value)] if isinstance(inputs, dict) else []
