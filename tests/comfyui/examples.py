"""The example workflows: each a function that builds its graph. `python examples.py` writes them and their pictures."""

import json
import os
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import ROOT, ComfyUI, Graph, Node
from workflows import Workflow, to_ui

FOLDER = ROOT / "example_workflows"
WRITER = "JetBlockNemotronGenerate"
AS_SET = {"thinking": "as the model is set", "thinking_budget": -1, "temperature": -1.0, "top_p": -1.0}


def loader(graph: Graph) -> Node:
    return graph.add("JetBlockNemotronLoader", model_name="bundled demo model", threads=0)


def writer(graph: Graph, model: Node, prompt: str, **settings: Any) -> Node:
    more = {"seed": 7, "max_tokens": 160, **AS_SET, "system": "", "form": "chat", "receipt": False, **settings}
    return graph.add(WRITER, model=model, prompt=prompt, **more)


def nemotron_deterministic(graph: Graph) -> str:
    model = graph.add(
        "JetBlockCascadeMode",
        model=loader(graph),
        thinking="on",
        thinking_budget=48,
        thinking_grace=-1,
        thinking_close="",
    )
    plain = writer(graph, model, "Who are you, and how large are you?", receipt=True)
    fast = graph.add("JetBlockV3ModeSwitch", model=model, mode="speed")
    other = writer(graph, fast, "Who are you, and how large are you?")
    for shown in (plain, plain[1], plain[2], other):
        graph.add("PreviewAny", source=shown)
    return (
        "The same model, words and seed are the same text on every machine, and in mode *speed* too: both answers are "
        "equal.\n\nThe long text is a receipt. Save it, and `jetblock verify RECEIPT` computes the answer again "
        "anywhere and compares every bit."
    )


def mamba2_benchmark(graph: Graph) -> str:
    model = loader(graph)
    profile = graph.add("JetBlockHybridProfiler", model=model)
    proof = graph.add("JetBlockMamba2Deterministic", model=model, runs=24, control_runs=12)
    tuned = graph.add(
        "JetBlockNemotronOptimizer", model=proof, prompt="Repeat after me: one two three, one two three.", max_tokens=64
    )
    graph.add("PreviewImage", images=profile[2])
    for shown in (profile, proof[1], tuned[1]):
        graph.add("PreviewAny", source=shown)
    return (
        "What the model is made of, whether its bits hold whatever the schedule, and how time and memory grow with the "
        "text: the state of Mamba-2 layers does not grow, keys and values of attention layers do."
    )


def prompt_enhancer(graph: Graph) -> str:
    prompt = "Describe a picture of a quiet harbour at dawn in one sentence, with light and colours."
    text = writer(graph, loader(graph), prompt, max_tokens=160, seed=11)
    graph.add("PreviewAny", source=text)
    checkpoint = graph.add("CheckpointLoaderSimple", ckpt_name="v1-5-pruned-emaonly-fp16.safetensors")
    sampled = graph.add(
        "KSampler",
        model=graph.add("JetBlockDeterministicModel", model=checkpoint, level="batch_invariant"),
        positive=graph.add("CLIPTextEncode", clip=checkpoint[1], text=text),
        negative=graph.add("CLIPTextEncode", clip=checkpoint[1], text="blurry, text, watermark"),
        latent_image=graph.add("EmptyLatentImage", width=512, height=512, batch_size=1),
        seed=3,
        steps=25,
        cfg=6.5,
        sampler_name="euler",
        scheduler="normal",
        denoise=1.0,
    )
    decoded = graph.add("VAEDecode", samples=sampled, vae=checkpoint[2])
    graph.add("SaveImage", images=decoded, filename_prefix="prompt_enhancer")
    return (
        "A language model writes the prompt that the sampler renders.\n\nChoose a checkpoint of yours, and a model "
        "that writes well: the bundled one is far too small to describe pictures and only shows the wiring. "
        "`jetblock fetch smollm2` gets a small public one; put it into `models/jetblock`."
    )


def checkpoint_parts(graph: Graph) -> tuple[Node, dict[str, Node]]:
    """A checkpoint, and what samplers take of it."""
    checkpoint = graph.add("CheckpointLoaderSimple", ckpt_name="v1-5-pruned-emaonly-fp16.safetensors")
    text = "a lighthouse on a cliff, storm, oil painting"
    parts = {
        "model": checkpoint,
        "positive": graph.add("CLIPTextEncode", clip=checkpoint[1], text=text),
        "negative": graph.add("CLIPTextEncode", clip=checkpoint[1], text="blurry, text, watermark"),
    }
    return checkpoint, parts


def sampled(graph: Graph, node: str, parts: dict[str, Node], batch_size: int, **settings: Any) -> Node:
    latent = graph.add("EmptyLatentImage", width=512, height=512, batch_size=batch_size)
    usual = {"seed": 3, "steps": 20, "cfg": 6.5, "sampler_name": "euler_ancestral", "scheduler": "normal"}
    return graph.add(node, **parts, latent_image=latent, **usual, denoise=1.0, **settings)


def validated(graph: Graph, latent: Node, **settings: Any) -> Node:
    more = {"expected": "", "on_difference": "report", "filename_prefix": "", **settings}
    return graph.add("JetBlockChecksumValidator", latent=latent, **more)


def deterministic_batch(graph: Graph) -> str:
    checkpoint, parts = checkpoint_parts(graph)
    more = {"level": "batch_invariant", "eta": 1.0, "s_noise": 1.0, "micro_batch": 1}
    four = sampled(graph, "JetBlockDeterministicSampler", parts, 4, first_image=0, **more)
    alone = sampled(graph, "JetBlockDeterministicSampler", parts, 1, first_image=2, **more)
    before = validated(graph, four)
    proof = validated(graph, alone, expected=before)
    graph.add("PreviewAny", source=proof[2])
    for latent, name in ((four, "deterministic_batch"), (alone, "deterministic_alone")):
        images = graph.add("JetBlockDeterministicDecode", samples=latent, vae=checkpoint[2], level="batch_invariant")
        graph.add("SaveImage", images=images, filename_prefix=name)
    return (
        "Four images in one batch, and image 2 of them again, alone: *first_image* is its number. The validator "
        "compares the bits of both and says *identical*.\n\nKSampler would give another image: its ancestral noise is "
        "drawn for the whole batch."
    )


def checksum_compare(graph: Graph) -> str:
    _, parts = checkpoint_parts(graph)
    more = {"level": "batch_invariant", "first_image": 0, "eta": 1.0, "s_noise": 1.0, "micro_batch": 1}
    for node, settings in (("KSampler", {}), ("JetBlockDeterministicSampler", more)):
        four, alone = (sampled(graph, node, parts, size, **settings) for size in (4, 1))
        proof = validated(graph, alone, expected=validated(graph, four))
        graph.add("PreviewAny", source=proof[2])
    return (
        "The first image of a batch and the same image alone, by KSampler and by JetBlock. Each validator gets the "
        "manifest of the batch and says whether the bits are the same, and in what the two runs differ.\n\nA manifest "
        "can also come from an earlier day or another machine: put the name of a saved PNG or JSON into *expected*."
    )


def speed_vs_determinism(graph: Graph) -> str:
    checkpoint, parts = checkpoint_parts(graph)
    skips = {"skip_ratio": 0.4, "mode": "fixed", "method": "interpolate", "threshold": 0.1, "minimum_steps": 12}
    plain = parts["model"]
    fast = graph.add("JetBlockFastSampler", model=plain, **skips)
    deterministic = graph.add("JetBlockDeterministicModel", model=plain, level="batch_invariant")
    both = graph.add("JetBlockFastSampler", model=deterministic, **skips)
    latent = graph.add("EmptyLatentImage", width=512, height=512, batch_size=4)
    usual = {"seed": 3, "steps": 25, "cfg": 6.5, "sampler_name": "euler", "scheduler": "normal"}
    for model in (fast, deterministic, both):
        measured = graph.add(
            "JetBlockBenchmark",
            **{**parts, "model": model},
            reference=plain,
            latent_image=latent,
            vae=checkpoint[2],
            **usual,
            warmup_runs=1,
            measured_runs=3,
        )
        graph.add("PreviewAny", source=measured)
        graph.add("PreviewImage", images=measured[2])
    return (
        "What skipped steps save, what determinism costs, and both together: each is measured in turns with the plain "
        "model and with the plain model at as many calls.\n\nThe first chart has an error and saves time, the second "
        "has none but roundings and costs time. With both, an image has the same bits in any batch, faster."
    )


EXAMPLES: dict[str, Callable[[Graph], str]] = {
    "nemotron_deterministic": nemotron_deterministic,
    "mamba2_benchmark": mamba2_benchmark,
    "prompt_enhancer": prompt_enhancer,
    "deterministic_batch": deterministic_batch,
    "checksum_compare": checksum_compare,
    "speed_vs_determinism": speed_vs_determinism,
}


def workflow(comfyui: ComfyUI, name: str) -> Workflow:
    graph = comfyui.graph()
    note = EXAMPLES[name](graph)
    return to_ui(graph.prompt, comfyui.nodes.NODE_CLASS_MAPPINGS, note)


def draw(name: str, saved: Workflow, titles: dict[str, str]) -> Any:
    """A picture of a workflow: its nodes and links, as they lie."""
    from PIL import Image, ImageDraw, ImageFont

    nodes = {node["id"]: node for node in saved["nodes"]}
    right = max(node["pos"][0] + node["size"][0] for node in nodes.values()) + 40
    bottom = max(node["pos"][1] + node["size"][1] for node in nodes.values()) + 40
    scale = min(960 / right, 640 / bottom)
    image = Image.new("RGB", (round(right * scale), round(bottom * scale) + 40), "#16181d")
    pen = ImageDraw.Draw(image)
    font, small = ImageFont.load_default(size=20), ImageFont.load_default(size=max(9, round(20 * scale)))
    pen.text((16, 10), name.replace("_", " "), fill="#e8e8e8", font=font)

    def at(x: float, y: float) -> tuple[float, float]:
        return x * scale, y * scale + 40

    for _, source, slot, target, entry, _ in saved["links"]:
        a, b = nodes[source], nodes[target]
        start = at(a["pos"][0] + a["size"][0], a["pos"][1] + 30 + 24 * slot)
        end = at(b["pos"][0], b["pos"][1] + 30 + 24 * entry)
        middle = (start[0] + end[0]) / 2
        pen.line([start, (middle, start[1]), (middle, end[1]), end], fill="#8a93a5", width=2)
    for node in nodes.values():
        (x, y), (w, h) = node["pos"], node["size"]
        own = node["type"].startswith("JetBlock")
        colour = "#2f5d46" if own else "#5a5236" if node["type"] == "MarkdownNote" else "#2b2f38"
        pen.rounded_rectangle((*at(x, y), *at(x + w, y + h)), 6, fill=colour, outline="#59606e")
        title = textwrap.shorten(titles.get(node["type"], node["type"]), 30)
        pen.text(at(x + 12, y + 8), title, fill="#e8e8e8", font=small)
    return image


def main() -> None:
    """Writes all examples."""
    sys.argv = sys.argv[:1]
    comfyui = ComfyUI(Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "comfyui")
    FOLDER.mkdir(exist_ok=True)
    titles = comfyui.nodes.NODE_DISPLAY_NAME_MAPPINGS
    for name in EXAMPLES:
        saved = workflow(comfyui, name)
        Path(FOLDER / f"{name}.json").write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")
        draw(name, saved, titles).save(FOLDER / f"{name}.jpg", quality=85)


if __name__ == "__main__":
    main()
