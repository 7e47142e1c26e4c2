"""The pack as ComfyUI sees it: its nodes, their words, their help pages; and what happens without the wheel."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from harness import HERE, PACK, ROOT, ComfyUI

NODE_IDS = (HERE / "node_ids.txt").read_text().split()


def of_pack(comfyui: ComfyUI) -> dict[str, type]:
    return {
        name: node
        for name, node in comfyui.nodes.NODE_CLASS_MAPPINGS.items()
        if getattr(node, "RELATIVE_PYTHON_MODULE", None) == f"custom_nodes.{PACK}"
    }


def test_node_ids_never_change(comfyui: ComfyUI) -> None:
    """A workflow names its nodes by id: one may be added to the list, none may go."""
    assert sorted(of_pack(comfyui)) == NODE_IDS == sorted(set(NODE_IDS))
    assert all(name.startswith("JetBlock") for name in NODE_IDS)


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_a_node_explains_itself(comfyui: ComfyUI, node_id: str) -> None:
    info = of_pack(comfyui)[node_id].GET_NODE_INFO_V1()
    assert info["display_name"].startswith("JetBlock ")
    assert info["category"].startswith("JetBlock/")
    assert info["description"].endswith(".")
    for kind in ("required", "optional"):
        for name, (_, options) in info["input"].get(kind, {}).items():
            assert options.get("tooltip", "").endswith("."), f"input {name} of {node_id} has no tooltip"
    assert all(info["output_tooltips"]), f"an output of {node_id} has no tooltip"


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_a_node_has_a_help_page(comfyui: ComfyUI, node_id: str) -> None:
    """Where ComfyUI's page asks for it: in the folder served under the name of the pack's folder."""
    web = Path(comfyui.nodes.EXTENSION_WEB_DIRS[PACK])
    page = (web / "docs" / f"{node_id}.md").read_text(encoding="utf-8")
    assert page.startswith("# JetBlock ")
    for name in of_pack(comfyui)[node_id].GET_NODE_INFO_V1()["input"].get("required", {}):
        assert name.replace("_", " ") in page.replace("_", " "), f"the page of {node_id} does not mention {name}"


def test_no_help_page_without_a_node() -> None:
    assert sorted(page.stem for page in (ROOT / "comfyui_nodes/web/docs").glob("*.md")) == NODE_IDS


def test_metadata_for_the_registry() -> None:
    """As ComfyUI's own reader of pyproject.toml understands it."""
    from comfy_config import config_parser

    found = config_parser.extract_node_configuration(str(ROOT))
    assert found.project.name == "jetblock"
    assert (found.tool_comfy.publisher_id, found.tool_comfy.display_name) == ("jetblock", "JetBlock")
    assert found.project.supported_comfyui_version == ">=0.3.75"
    assert found.tool_comfy.web is None  # it would serve help under the project's name, not the folder's


def test_the_door_imports_nothing() -> None:
    """pytest and type checkers import a root `__init__.py`: without ComfyUI and PyTorch it must not fail or speak."""
    program = "import sys; sys.path.insert(0, sys.argv[1]); import importlib\n"
    program += (
        "importlib.import_module(sys.argv[2]); assert not {'torch', 'jetblock', 'comfy_api'} & sys.modules.keys()"
    )
    command = [sys.executable, "-c", program, str(ROOT.parent), ROOT.name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_missing_wheel_is_one_line(
    comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "jetblock", None)
    link = str(comfyui.base / "custom_nodes" / PACK)
    with caplog.at_level(logging.INFO):
        assert comfyui.loop.run_until_complete(comfyui.nodes.load_custom_node(link))
    [line] = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "JetBlock has no nodes" in line
    assert "pip install -r requirements.txt" in line
    assert "\n" not in line


def test_examples_name_nodes_that_exist(comfyui: ComfyUI) -> None:
    for path in sorted((ROOT / "example_workflows").glob("*.json")):
        workflow = json.loads(path.read_text(encoding="utf-8"))
        named = {node["type"] for node in workflow["nodes"]} - {"Note", "MarkdownNote"}
        assert named <= comfyui.nodes.NODE_CLASS_MAPPINGS.keys(), path.stem
        assert path.with_suffix(".jpg").exists(), f"{path.stem} has no thumbnail"
