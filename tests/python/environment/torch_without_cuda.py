"""Installs torch from PyPI into this interpreter's environment, without the gigabytes of CUDA libraries.

PyPI's torch for Linux is linked against them, but calls them only when a GPU is used. So each library that is missing
is replaced by a small one of the same name, whose functions have the names and versions that torch asks for and return
1, an error code. The real CUDA runtime is needed: torch registers its kernels with it while it is loaded.

    python torch_without_cuda.py [torch==VERSION]

Needs pip, gcc and readelf. Where torch is linked against no such library (macOS, CPU builds) it is an ordinary install.
"""

import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections import defaultdict
from pathlib import Path

# The newest that torchaudio, and with it ComfyUI, accepts.
TORCH = "torch==2.11.0"
RUNTIME = "nvidia-cuda-runtime==13.0.*"

SITE = Path(sysconfig.get_path("platlib"))
LIB = SITE / "torch" / "lib"
# libcuda itself is the driver, which torch looks for at run time.
VENDOR = re.compile(r"lib(cu(?!da\.so)|nv|nccl)")
GCC = shutil.which("gcc") or "gcc"
# Libraries without symbol versions: which of torch's undefined functions are theirs.
PREFIX = {
    "libcurand": "curand",
    "libcusparseLt": "cusparseLt",
    "libcufile": "cuFile",
    "libnccl": "p?nccl",
    "libnvshmem_host": "nvshmem",
    "libcupti": "cupti",
}


def output(*command: str | Path) -> list[str]:
    """The lines that a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def pip_install(*packages: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, *packages], check=True)


def forget_cuda_requirements() -> None:
    """Otherwise the next pip command would call the environment broken, or mend it."""
    [metadata] = SITE.glob("torch-*.dist-info/METADATA")
    lines = metadata.read_text(encoding="utf-8").splitlines(keepends=True)
    cuda = re.compile(r"Requires-Dist: (nvidia-|cuda-|triton)")
    metadata.write_text("".join(line for line in lines if not cuda.match(line)), encoding="utf-8")


def what_torch_needs() -> tuple[set[str], dict[str, str], dict[str, str]]:
    """The vendor libraries it is linked against, the library of each symbol version, the version of each symbol."""
    needed: set[str] = set()
    library_of_version: dict[str, str] = {}
    version_of_symbol: dict[str, str] = {}
    for library in LIB.glob("*.so*"):
        if VENDOR.match(library.name):
            continue
        for line in output("readelf", "-dW", library):
            if (found := re.search(r"NEEDED.*\[(.*?)\]", line)) and VENDOR.match(found[1]):
                needed.add(found[1])
        current = ""
        for line in output("readelf", "-VW", library):
            if found := re.search(r"File: (\S+)", line):
                current = found[1]
            elif (found := re.search(r"Name: (\S+)\s+Flags", line)) and VENDOR.match(current):
                library_of_version[found[1]] = current
        for line in output("readelf", "--dyn-syms", "-W", library):
            fields = line.split()
            if len(fields) >= 8 and fields[6] == "UND" and fields[4] in ("GLOBAL", "WEAK"):
                name, _, version = fields[7].partition("@")
                version_of_symbol[name] = version.lstrip("@")
    return needed, library_of_version, version_of_symbol


def build_stand_in(soname: str, functions: dict[str, list[str]]) -> None:
    """Compiles a library with these functions, by symbol version; a version that is missing would stop the loader."""
    with tempfile.TemporaryDirectory() as folder:
        source, versions = Path(folder, "stand_in.c"), Path(folder, "versions.map")
        names = [name for group in functions.values() for name in group]
        source.write_text("".join(f"int {name}(void) {{ return 1; }}\n" for name in names))
        nodes = [f"{version} {{ global: {'; '.join(group)}; }};\n" for version, group in functions.items() if version]
        versions.write_text("".join(nodes) or "{ global: *; };\n")
        flags = ["-shared", "-fPIC", "-w", "-fno-builtin", f"-Wl,-soname,{soname}", f"-Wl,--version-script,{versions}"]
        subprocess.run([GCC, *flags, "-o", LIB / soname, source], check=True)


def main() -> None:
    pip_install(sys.argv[1] if len(sys.argv) > 1 else TORCH)
    if not sys.platform.startswith("linux"):
        return
    needed, library_of_version, version_of_symbol = what_torch_needs()
    if not needed:
        return
    pip_install(RUNTIME)
    forget_cuda_requirements()
    present = {path.name for path in SITE.glob("nvidia/**/*.so*")} | {path.name for path in LIB.glob("*.so*")}
    for soname in sorted(needed - present):
        prefix = PREFIX.get(soname.split(".so")[0])
        functions: dict[str, list[str]] = defaultdict(list)
        for name, version in version_of_symbol.items():
            if library_of_version.get(version) == soname or (not version and prefix and re.match(prefix, name)):
                functions[version].append(name)
        build_stand_in(soname, functions)
    print(f"torch without CUDA: {len(needed - present)} stand-in libraries")


if __name__ == "__main__":
    main()
