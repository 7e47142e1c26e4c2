"""What a run was made of and what came out, as JSON; and why two runs differ.

A manifest is a dict with these fields, all of which may be empty:

| field | holds |
|---|---|
| `format` | `jetblock-run/1` |
| `images` | what came out: each image's number and digests by name (`latent`, `image`); NUMERICS.md section 12 |
| `nodes` | the graph that made it, by node id: `class_type` and `inputs`, in ComfyUI's API format |
| `files` | the files it read: `name`, `category`, `sha256` of the content |
| `environment` | versions, devices and settings, each a name and a text |

>>> import torch
>>> one = manifest(images=describe({"latent": torch.zeros(2, 4)}, [0, 1]))
>>> two = manifest(images=describe({"latent": torch.ones(1, 4)}, [1]), environment={"torch": "2.12"})
>>> print(compare(one, two))
different: image 1 (latent)
torch: not recorded -> 2.12
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jetblock._errors import ArgumentError
from jetblock.checksums import checksum

if TYPE_CHECKING:
    import torch

FORMAT = "jetblock-run/1"
FIELDS = {"images": list, "nodes": dict, "files": list, "environment": dict}
UNRECORDED = "not recorded"


def manifest(
    images: Sequence[Mapping[str, Any]] = (),
    nodes: Mapping[str, Any] | None = None,
    files: Sequence[Mapping[str, Any]] = (),
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The manifest of a run."""
    return {
        "format": FORMAT,
        "images": list(images),
        "nodes": dict(nodes or {}),
        "files": list(files),
        "environment": dict(environment or {}),
    }


def check(value: Any) -> dict[str, Any]:
    """The manifest, if it is one; it may come from anybody."""
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        found = value.get("format") if isinstance(value, dict) else type(value).__name__
        raise ArgumentError(f"the manifest has the format {found!r}, expected {FORMAT!r}")
    for name, kind in FIELDS.items():
        if not isinstance(value.get(name), kind):
            raise ArgumentError(f"the manifest's {name} is {type(value.get(name)).__name__}, expected {kind.__name__}")
    entries = [*value["images"], *value["files"], *value["nodes"].values()]
    if not all(isinstance(entry, dict) for entry in entries):
        raise ArgumentError("an entry of the manifest's images, files or nodes is no object")
    if not all(isinstance(image.get("number"), int) for image in value["images"]):
        raise ArgumentError("an image of the manifest has no number")
    if not all(isinstance(node.get("inputs", {}), dict) for node in value["nodes"].values()):
        raise ArgumentError("the inputs of a node of the manifest are no object")
    return value


def describe(results: Mapping[str, "torch.Tensor"], numbers: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """The images of a batch: each one's number and the digests of its part of each result `[B, ..]`."""
    counts = {len(result) for result in results.values()}
    if len(counts) > 1:
        raise ArgumentError(f"results have {sorted(counts)} images, expected the same number")
    count = counts.pop() if counts else 0
    if numbers is None or len(numbers) != count:
        numbers = range(count)
    return [
        {"number": number, **{name: checksum(result[at].contiguous()) for name, result in results.items()}}
        for at, number in enumerate(numbers)
    ]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, as `sha256sum` prints it. Kept while the file stays as it is."""
    state = path.stat()
    key = (str(path), state.st_size, state.st_mtime_ns)
    if key not in _DIGESTS:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
        _DIGESTS[key] = digest.hexdigest()
    return _DIGESTS[key]


_DIGESTS: dict[tuple[str, int, int], str] = {}


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two manifests say of each other.

    Attributes:
        compared: Images that both have.
        different: Those with other bits, with the names of the results that differ.
        reasons: Everything recorded in which the runs differ.
    """

    compared: int
    different: dict[int, list[str]]
    reasons: list[str]

    def __bool__(self) -> bool:
        """Whether there were images to compare and all had the same bits."""
        return self.compared > 0 and not self.different

    def __str__(self) -> str:
        if not self.compared:
            return "\n".join(["nothing to compare: no image number is in both runs", *self.reasons])
        if self:
            changed_nothing = [f"without effect: {reason}" for reason in self.reasons]
            return "\n".join([f"identical: {self.compared} images", *changed_nothing])
        images = ", ".join(f"image {number} ({', '.join(names)})" for number, names in self.different.items())
        nothing = "nothing recorded differs: the same run does not always give the same bits here"
        return "\n".join([f"different: {images}", *(self.reasons or [nothing])])


def compare(expected: Mapping[str, Any], got: Mapping[str, Any]) -> Comparison:
    """Whether two runs gave the same images, by number, and in what the runs differ."""
    before, after = ({image["number"]: image for image in run["images"]} for run in (expected, got))
    shared = [number for number in after if number in before]
    different = {}
    for number in shared:
        one, two = before[number], after[number]
        names = [name for name in one if name in two and one[name] != two[name]]
        if names:
            different[number] = names
    reasons = [
        *_files(expected["files"], got["files"]),
        *_nodes(expected["nodes"], got["nodes"]),
        *_texts(expected["environment"], got["environment"]),
    ]
    return Comparison(len(shared), different, reasons)


def _files(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    one, two = ({(f.get("category"), f.get("name")): f.get("sha256") for f in files} for files in (before, after))
    for key in dict.fromkeys([*one, *two]):
        label = f"file {key[1]} of {key[0]}"
        if key not in two:
            yield f"{label}: only in the expected run"
        elif key not in one:
            yield f"{label}: only in this run"
        elif one[key] != two[key]:
            yield f"{label}: other content, {_short(one[key])} -> {_short(two[key])}"


def _nodes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    after = _renamed(after, _pairs(before, after))
    for key in dict.fromkeys([*before, *after]):
        one, two = before.get(key, {}), after.get(key, {})
        name = f"{two.get('class_type') or one.get('class_type')} (node {key})"
        if key not in after:
            yield f"{name}: only in the expected run"
        elif key not in before:
            yield f"{name}: only in this run"
        elif one.get("class_type") != two.get("class_type"):
            yield f"node {key}: {one.get('class_type')} -> {two.get('class_type')}"
        else:
            inputs = (one.get("inputs", {}), two.get("inputs", {}))
            for difference in _texts(*inputs):
                yield f"{name}, {difference}"


def _pairs(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, str]:
    """Nodes of the second graph that stand for one of another id: the next of their class that has no partner."""
    free = [key for key in before if key not in after]
    pairs = {}
    for key in after:
        kind = after[key].get("class_type")
        partner = next((other for other in free if before[other].get("class_type") == kind), None)
        if key not in before and partner is not None:
            pairs[key] = partner
            free.remove(partner)
    return pairs


def _renamed(nodes: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A graph with other ids, in its links too."""

    def link(value: Any) -> Any:
        return [names.get(str(value[0]), value[0]), *value[1:]] if isinstance(value, list) and value else value

    return {
        names.get(key, key): {**node, "inputs": {name: link(value) for name, value in node.get("inputs", {}).items()}}
        for key, node in nodes.items()
    }


def _texts(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for key in dict.fromkeys([*before, *after]):
        one, two = (values.get(key, UNRECORDED) for values in (before, after))
        if one != two:
            yield f"{key}: {_short(one)} -> {_short(two)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
