"""What several tests need: the bundled model, its caches kept apart from the user's."""

import os
import sys
from pathlib import Path

import pytest

import jetblock

ROOT = Path(__file__).resolve().parents[2]
# For tests.second_implementation.
sys.path.insert(0, str(ROOT))


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    for name in ("JETBLOCK_THREADS", "JETBLOCK_ISA"):
        os.environ.pop(name, None)


@pytest.fixture(scope="session")
def model(cache: None) -> jetblock.Model:  # noqa: ARG001 (where it is unpacked)
    return jetblock.load(threads=1)
