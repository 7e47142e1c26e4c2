"""What of JetBlock works here: `python -m jetblock.compatibility [COMFYUI]`, and the node JetBlockCompatibility.

>>> from jetblock import compatibility
>>> compatibility.check().facts["numerics"]
'1'
"""

import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import jetblock

LEAST = {"ComfyUI": "0.3.75", "torch": "2.6", "transformers": "5.23"}
Status = Literal["on", "off", "limited"]


@dataclass(frozen=True, slots=True)
class Feature:
    """A part of JetBlock: whether it works, and why not."""

    name: str
    status: Status
    reason: str

    def __str__(self) -> str:
        return f"{self.status:8}{self.name}" + (f": {self.reason}" if self.reason else "")


@dataclass(frozen=True, slots=True)
class Compatibility:
    """What is here, and what works with it."""

    facts: Mapping[str, str]
    features: tuple[Feature, ...]

    def __bool__(self) -> bool:
        """Whether everything works."""
        return all(feature.status == "on" for feature in self.features)

    def __str__(self) -> str:
        facts = [f"{name:14}{value}" for name, value in self.facts.items()]
        return "\n".join([*facts, "", *map(str, self.features)])


def check(comfyui: str | None = None, device: str | None = None) -> Compatibility:
    """Looks at what is installed and, inside ComfyUI, at what is running.

    Args:
        comfyui: ComfyUI's version, where the caller knows it; the one that is running where not given.
        device: What ComfyUI renders on, such as `cpu` or `cuda:0`; not known where not given.
    """
    threads, isa = jetblock.get_cpu()
    running = sys.modules.get("comfyui_version")
    comfyui = comfyui or getattr(running, "__version__", None)
    found = {name: _installed(name) for name in ("torch", "transformers", "comfy-kitchen")}
    facts = {
        "JetBlock": jetblock.__version__,
        "numerics": str(jetblock.NUMERICS_VERSION),
        "Python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {isa}, {threads} threads",
        "ComfyUI": comfyui or "not found",
        "device": device or "not known",
        **{name: value or "not installed" for name, value in found.items()},
    }
    features = (
        _least("nodes", "ComfyUI", comfyui),
        _least("sampling at level batch_invariant", "torch", found["torch"]),
        _portable(found["torch"], device),
        Feature("language models", "on", ""),
        _least("drop-ins for transformers", "transformers", found["transformers"]),
        _kitchen(found["comfy-kitchen"]),
    )
    return Compatibility(facts, features)


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _least(feature: str, package: str, got: str | None) -> Feature:
    expected = f"expected {package} {LEAST[package]} or newer"
    if got is None:
        return Feature(feature, "off", f"{package} not found, {expected}")
    is_enough = _numbers(got) >= _numbers(LEAST[package])
    return Feature(feature, "on", "") if is_enough else Feature(feature, "off", f"{package} is {got}, {expected}")


def _portable(torch: str | None, device: str | None) -> Feature:
    name = "sampling at level portable"
    on = _least(name, "torch", torch)
    if on.status == "on" and device is not None and not device.startswith("cpu"):
        return Feature(name, "off", f"ComfyUI renders on {device}: start it with --cpu")
    return on


def _kitchen(got: str | None) -> Feature:
    name = "NVFP4 and FP8 of comfy-kitchen on the CPU"
    if got is None:
        return Feature(name, "off", "comfy-kitchen is not installed: newer versions of ComfyUI compute with it")
    module: Any = sys.modules.get("jetblock.kitchen")
    if module is None or not module.is_registered():
        return Feature(name, "off", "not registered: this ComfyUI has not loaded comfy-kitchen")
    return Feature(name, "on", "")


def _numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a version, without a build's mark."""
    return tuple(map(int, re.findall(r"\d+", text.split("+", maxsplit=1)[0])[:3]))


def version_of_folder(folder: Path) -> str:
    """The version of a ComfyUI that is not running."""
    try:
        text = (folder / "comfyui_version.py").read_text(encoding="utf-8")
    except OSError as error:
        raise jetblock.ArgumentError(f"{folder}: {error.strerror}, expected ComfyUI's folder") from error
    found = re.search(r'__version__ = "([^"]+)"', text)
    if found is None:
        raise jetblock.ArgumentError(f"{folder} has a comfyui_version.py without a version")
    return found[1]


def main() -> None:
    """The command."""
    arguments = sys.argv[1:]
    if len(arguments) > 1 or any(argument.startswith("-") for argument in arguments):
        sys.exit("usage: python -m jetblock.compatibility [COMFYUI], with the Python of ComfyUI and its folder")
    try:
        found = check(version_of_folder(Path(arguments[0])) if arguments else None)
    except jetblock.ArgumentError as error:
        sys.exit(str(error))
    print(found)  # noqa: T201 (a command)


if __name__ == "__main__":
    main()
