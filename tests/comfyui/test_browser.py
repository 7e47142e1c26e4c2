"""ComfyUI's page in a real browser: our examples are listed, load and run, and nodes show their help."""

import asyncio
import json

import browser
import pytest
from browser import Page, open_page
from harness import HERE, PACK, ComfyUI
from http_server import serve
from old_workflow import old_workflow

NODE_IDS = (HERE / "node_ids.txt").read_text().split()
EXAMPLE = "nemotron_deterministic"
NODE = "JetBlockNemotronGenerate"
UNKNOWN = "app.graph._nodes.filter(node => !LiteGraph.registered_node_types[node.type]).map(node => node.type)"
HISTORY = "fetch('/history').then(answer => answer.json()).then(all => Object.values(all))"

NO_CHROMIUM = "not run: no Chromium is installed, nor named by JETBLOCK_CHROMIUM"


@pytest.mark.skipif(browser.executable() is None, reason=NO_CHROMIUM)
def test_an_example_loads_runs_and_explains_itself(comfyui: ComfyUI) -> None:
    # Else the page shows templates by itself, later than it is there and in newer versions only those that are popular.
    settings = comfyui.base / "user" / "default" / "comfy.settings.json"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(json.dumps({"Comfy.TutorialCompleted": True}))
    with serve(comfyui.base) as server:
        pictures = asyncio.run(_visit(server.address))
    for name, picture in pictures.items():
        (comfyui.base / f"{name}.png").write_bytes(picture)


async def _visit(address: str) -> dict[str, bytes]:
    """Returns what the page looked like."""
    pictures = {}
    async with open_page(f"http://{address}/") as page:
        await page.wait(f"window.app?.graph && LiteGraph.registered_node_types[{NODE!r}] && true", 90)
        known = await page.evaluate("Object.keys(LiteGraph.registered_node_types)")
        assert set(NODE_IDS) <= set(known)

        await page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates').then(() => true)")
        await page.click("[role=dialog] [role=button]", PACK)
        await page.click(f"[data-testid='template-workflow-{EXAMPLE}']")
        await page.wait(f"app.graph._nodes.some(node => node.type === {NODE!r})")
        assert await page.evaluate(UNKNOWN) == []

        node = f"app.graph._nodes.find(node => node.type === {NODE!r})"
        # Away from the upper edge, where what stands above it would lie behind the tabs.
        await page.evaluate("(app.canvas.ds.offset[1] += 200, true)")
        await page.evaluate(f"(app.canvas.selectNode({node}), app.canvas.setDirty(true, true), true)")
        await page.click("[data-testid='info-button']")
        help_page = "(document.querySelector('.node-help-content')?.innerText ?? '')"
        await page.wait(f"{help_page}.startsWith('JetBlock Nemotron Generate')")
        pictures["help"] = await page.screenshot()

        await _run(page)
        pictures["result"] = await page.screenshot()
        await _load_old(page)
        pictures["old"] = await page.screenshot()
        assert page.messages == []
    return pictures


async def _load_old(page: Page) -> None:
    """A workflow with nodes of the published packs: its values are in the widgets of the nodes in their place."""
    await page.evaluate(f"app.loadGraphData({json.dumps(old_workflow())}).then(() => true)")
    assert await page.evaluate(UNKNOWN) == []
    widgets = "Object.fromEntries(node.widgets.map(widget => [widget.name, widget.value]))"
    found = dict(
        await page.evaluate(f"app.graph._nodes.filter(node => node.widgets).map(node => [node.type, {widgets}])")
    )
    sampling = {"sampler_name": "euler", "scheduler": "simple", "steps": 14, "cfg": 3, "denoise": 1}
    assert found["KSampler"] == {**sampling, "seed": 7, "control_after_generate": "randomize"}
    exact = {"sampler_name": "euler_ancestral", "steps": 4, "cfg": 3.5, "seed": 42, "control_after_generate": "fixed"}
    assert found["JetBlockDeterministicSampler"].items() >= {**sampling, **exact, "level": "batch_invariant"}.items()
    assert found["JetBlockFastSampler"]["skip_ratio"] == 0.5
    assert found["JetBlockModelOptimizer"]["level"] == "low"
    await page.evaluate("app.queuePrompt(0).then(() => true)")
    await page.wait(f"{HISTORY}.then(all => all.length > 1)", 120)
    assert [run["status"]["status_str"] for run in await page.evaluate(HISTORY)] == ["success"] * 2


async def _run(page: Page) -> None:
    """Presses Run and waits for the result, which a preview shows."""
    await page.click("[data-testid='queue-button'] button, button[data-testid='queue-button']")
    await page.wait(f"{HISTORY}.then(all => all.length > 0)", 120)
    [run] = await page.evaluate(HISTORY)
    assert run["status"]["status_str"] == "success", run["status"]
    previews = "app.graph._nodes.filter(node => node.type === 'PreviewAny').map(node => node.widgets?.[0]?.value ?? '')"
    shown = await page.wait(f"(all => all.every(text => text) && all)({previews})")
    assert PACK in shown[2]  # the receipt
