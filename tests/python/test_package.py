"""The package: what is in the wheel, how light the import is, what it says of itself."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import jetblock
from conftest import ROOT


def fresh(program: str, **environment: str) -> str:
    """What a program prints in a fresh interpreter."""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment})
    assert done.stderr == ""
    return done.stdout


def test_the_tests_are_of_the_installed_package() -> None:
    assert not Path(jetblock.__file__).is_relative_to(ROOT / "python")


def test_versions_agree() -> None:
    pattern = re.compile(r'^version = "(.*)"$', re.MULTILINE)
    [cargo] = pattern.findall((ROOT / "Cargo.toml").read_text())
    [pyproject] = pattern.findall((ROOT / "pyproject.toml").read_text())
    assert cargo == pyproject == jetblock.__version__


def test_the_wheel_holds_only_the_package() -> None:
    wheel = os.environ.get("JETBLOCK_WHEEL")
    if not wheel:
        pytest.skip("not run: JETBLOCK_WHEEL names the wheel in `cargo xtask python-package`")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    metadata = f"jetblock-{jetblock.__version__}.dist-info/"
    assert {name for name in names if not name.startswith(("jetblock/", metadata))} == set()
    assert {"jetblock/py.typed", "jetblock/_core.pyi", "jetblock/_core.abi3.so"} <= set(names)
    assert "cp310-abi3" in Path(wheel).name


def test_import_is_light_and_silent() -> None:
    program = """if True:
        import sys, time
        start = time.process_time()
        import jetblock
        seconds = time.process_time() - start
        heavy = {"torch", "numpy", "transformers"} & set(sys.modules)
        print(seconds, sorted(heavy))
    """
    seconds, heavy = min(fresh(program).split(maxsplit=1) for _ in range(5))
    assert heavy == "[]\n"
    assert float(seconds) < 0.05


def test_every_public_name_is_documented() -> None:
    for name in jetblock.__all__:
        if not name.isupper() and not name.startswith("__"):
            assert getattr(jetblock, name).__doc__, name


def test_errors_have_two_faces() -> None:
    assert issubclass(jetblock.ArgumentError, ValueError)
    assert issubclass(jetblock.ArgumentError, jetblock.JetBlockError)
    assert issubclass(jetblock.ModelError, jetblock.JetBlockError)


def test_settings_of_the_environment() -> None:
    program = "import jetblock; print(jetblock.get_cpu())"
    assert fresh(program, JETBLOCK_THREADS="3", JETBLOCK_ISA="scalar") == "(3, 'scalar')\n"
    caught = "import jetblock\ntry: jetblock.get_cpu()\nexcept jetblock.ArgumentError as e: print(e)"
    assert fresh(caught, JETBLOCK_THREADS="many") == 'JETBLOCK_THREADS is "many", expected a number of threads\n'
    assert "mmx" in fresh(caught, JETBLOCK_ISA="mmx")
