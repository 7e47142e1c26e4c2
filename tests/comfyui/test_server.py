"""What a client of ComfyUI's server sees: nodes, help, examples, progress, results."""

import io
import json
from collections.abc import Iterator

import pytest
from graphs import sd3
from harness import HERE, PACK, ROOT, ComfyUI
from http_server import Server, serve
from old_workflow import old_workflow
from PIL import Image
from published import PUBLISHED

NODE_IDS = (HERE / "node_ids.txt").read_text().split()


@pytest.fixture(scope="module")
def server(comfyui: ComfyUI) -> Iterator[Server]:
    """A server with the nodes and models of the other tests."""
    with serve(comfyui.base) as running:
        yield running


def test_it_starts_without_a_word_of_complaint(comfyui: ComfyUI, server: Server) -> None:
    log = server.log.read_text()
    pack = f"{comfyui.base}/custom_nodes/{PACK}"
    # Once, with the time that importing took.
    [line] = [line for line in log.splitlines() if line.endswith(pack)]
    assert "FAILED" not in line
    assert "comfy_entrypoint" not in log


def test_it_describes_every_node(server: Server) -> None:
    described = json.loads(server.get("/object_info"))
    assert [node_id for node_id in NODE_IDS if node_id not in described] == []
    for node_id in NODE_IDS:
        assert described[node_id]["python_module"] == f"custom_nodes.{PACK}"
        help_page = server.get(f"/extensions/{PACK}/docs/{node_id}.md").decode()
        assert help_page.startswith("# JetBlock ")


def test_it_lists_the_examples(server: Server) -> None:
    listed = json.loads(server.get("/api/workflow_templates"))[PACK]
    committed = sorted(path.stem for path in (ROOT / "example_workflows").glob("*.json"))
    assert sorted(listed) == committed
    for name in committed:
        assert json.loads(server.get(f"/api/workflow_templates/{PACK}/{name}.json"))["nodes"]


def test_it_renders_and_tells_how_far_it_is(comfyui: ComfyUI, server: Server) -> None:
    graph = comfyui.graph()
    parts = sd3(graph, batch_size=2)
    settings = {"seed": 5, "steps": 6, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    sampled = graph.add("JetBlockDeterministicSampler", **parts, **settings, level="batch_invariant")
    decoded = graph.add("VAEDecode", samples=sampled, vae=graph.add("VAELoader", vae_name="tiny_ae.safetensors"))
    graph.add("SaveImage", images=decoded, filename_prefix="server")
    history, events = server.run(graph.prompt)
    assert history["status"]["status_str"] == "success"
    steps = [data for kind, data in events if kind == "progress" and data["node"] == sampled.link[0]]
    values = [step["value"] for step in steps]
    assert values == sorted(values)
    assert len(set(values)) > 1  # newer versions tell no more than a few a second
    assert values[-1] == steps[-1]["max"]
    [saved] = [output["images"] for output in history["outputs"].values() if "images" in output]
    pictures = []
    for image in saved:
        query = f"/view?filename={image['filename']}&subfolder={image['subfolder']}&type={image['type']}"
        pictures.append(Image.open(io.BytesIO(server.get(query))))
    assert [picture.size for picture in pictures] == [(128, 128)] * 2
    assert pictures[0].tobytes() != pictures[1].tobytes()


ROUTE = "/jetblock/upgrade"


def test_its_page_has_our_script(server: Server) -> None:
    [script] = [path for path in json.loads(server.get("/extensions")) if path.startswith(f"/extensions/{PACK}/")]
    assert b"beforeConfigureGraph" in server.get(script)


def test_it_knows_the_published_nodes(server: Server) -> None:
    told = json.loads(server.get(f"/api{ROUTE}"))
    assert told == {node_id: list(outputs) for node_id, (_, _, outputs) in PUBLISHED.items()}


def test_it_upgrades_a_workflow(server: Server) -> None:
    status, answer = server.post(f"/api{ROUTE}", json.dumps(old_workflow()).encode())
    assert status == 200
    assert len(answer["changes"]) == 6
    assert {5, 6, 7, 8, 15} < {node["id"] for node in answer["workflow"]["nodes"]}
    assert not {"JetBlockSampler", "JetBlockCascadeMode"} & {node["type"] for node in answer["workflow"]["nodes"]}
    log = server.log.read_text()
    assert "JetBlock: node 6: JetBlockSampler of an earlier version is now KSampler" in log
    again = server.post(f"/api{ROUTE}", json.dumps(answer["workflow"]).encode())
    assert again == (200, {"workflow": answer["workflow"], "changes": []})


MALFORMED = {
    b"": "this is no workflow: Expecting value",
    b"\xff\xfe": "this is no workflow",
    b"[]": "this is no workflow: the workflow is no object",
    b'{"nodes": 5}': "this is no workflow: nodes are no list",
    b"[" * 100_000: "the workflow is nested too deeply",
    b" " * ((32 << 20) + 1): "the workflow has more than 33554432 bytes",
}


@pytest.mark.parametrize("body", MALFORMED, ids=["empty", "binary", "list", "nodes", "deep", "large"])
def test_it_refuses_in_words_what_is_no_workflow(server: Server, body: bytes) -> None:
    status, answer = server.post(f"/api{ROUTE}", body)
    assert status == (413 if len(body) > 32 << 20 else 400)
    assert answer["error"].startswith(MALFORMED[body])
    assert "Traceback" not in server.log.read_text().partition("To see the GUI")[2]
