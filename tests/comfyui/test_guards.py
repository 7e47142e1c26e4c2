"""What breaks the promise is refused or warned about, by its name; and the mode switch says so beforehand."""

import logging
import re

import pytest
import torch
from graphs import ksampler, sd3
from harness import ComfyUI, Graph, Node
from test_deterministic_sampling import LEVELS, deterministic

import jetblock


def refused(graph: Graph, model: Node, name: str) -> None:
    with pytest.raises(RuntimeError, match=f"level batch_invariant cannot be held.*{name}"):
        graph.run(deterministic(graph, {**sd3(graph), "model": model}))


def test_autotune(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    refused(graph, sd3(graph)["model"], "--fast autotune")


def test_fast(
    graph: Graph, comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from comfy.cli_args import PerformanceFeature, args

    monkeypatch.setattr(args, "fast", {PerformanceFeature.AutoTune})
    graph = comfyui.graph()
    refused(graph, sd3(graph)["model"], "--fast autotune")
    monkeypatch.setattr(args, "fast", {PerformanceFeature.Fp16Accumulation})
    other = comfyui.graph()
    other.run(deterministic(other, sd3(other)))
    assert "level batch_invariant may not hold. --fast fp16_accumulation" in caplog.text


def test_torch_compile(graph: Graph) -> None:
    model = graph.add("TorchCompileModel", model=sd3(graph)["model"], backend="inductor")
    refused(graph, model, "torch.compile")


@pytest.mark.parametrize("node", ["EasyCache", "LazyCache"])
def test_caches_that_look_at_the_batch(graph: Graph, node: str) -> None:
    settings = {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}
    refused(graph, graph.add(node, model=sd3(graph)["model"], **settings), "EasyCache")


def test_several_gpus(graph: Graph, comfyui: ComfyUI) -> None:
    model = comfyui.graph()
    patcher = model.run(sd3(model)["model"]).clone()
    patcher.is_multigpu_base_clone = True
    clone = patcher.clone

    def keep() -> object:
        copy = clone()
        copy.is_multigpu_base_clone = True
        return copy

    patcher.clone = keep
    refused(graph, graph.give(patcher), "multi-GPU")


def test_lora_in_dynamic_memory(graph: Graph, comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.model_management as management

    loader = comfyui.graph()
    patcher = loader.run(sd3(loader)["model"]).clone()
    weight = "diffusion_model.final_layer.linear.weight"
    assert patcher.add_patches({weight: ("diff", (torch.ones(64, 128),))}) == [weight]
    monkeypatch.setattr(management, "vram_state", management.VRAMState.LOW_VRAM)
    refused(graph, graph.give(patcher), "LoRA with weights in dynamic memory")


def test_controlnet(graph: Graph, comfyui: ComfyUI) -> None:
    from comfy.controlnet import ControlBase

    class Control(ControlBase):
        def get_control(self, x: torch.Tensor, *_: object) -> dict[str, list[torch.Tensor]]:
            return {"output": [torch.zeros_like(x)]}

        def get_models(self) -> list[object]:
            return []

    loader = comfyui.graph()
    [[tokens, extra]] = loader.run(loader.add("TestConditioning", label=3))
    positive = graph.give([[tokens, {**extra, "control": Control()}]])
    with pytest.raises(RuntimeError, match="ControlNet computes on the whole batch"):
        graph.run(deterministic(graph, {**sd3(graph), "positive": positive}))


def test_functions_of_other_nodes(graph: Graph, caplog: pytest.LogCaptureFixture) -> None:
    model = graph.add("RescaleCFG", model=sd3(graph)["model"], multiplier=0.7)
    graph.run(deterministic(graph, {**sd3(graph), "model": model}))
    assert "may not hold. sampler_cfg_function: another node's function sees the whole batch" in caplog.text


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("sampler_name", ["euler", "dpmpp_2m_sde"])
def test_nothing_is_said_of_an_ordinary_model(
    graph: Graph, caplog: pytest.LogCaptureFixture, level: str, sampler_name: str
) -> None:
    graph.run(deterministic(graph, sd3(graph), level=level, sampler_name=sampler_name))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_what_pytorch_computes_around_a_portable_network(
    graph: Graph, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Conditionings are prepared by the contract too; a sampler that draws its noise from PyTorch is warned about."""
    import comfy.samplers

    prepare, sines = comfy.samplers.process_conds, []

    def process_conds(*args: object, **kwargs: object) -> object:
        sines.append(torch.linspace(0, 9, 999).sin())
        return prepare(*args, **kwargs)

    monkeypatch.setattr(comfy.samplers, "process_conds", process_conds)
    parts = sd3(graph)
    parts["model"] = graph.add("JetBlockDeterministicModel", model=parts["model"], level="portable")
    graph.run(ksampler(graph, parts, sampler_name="euler_ancestral"))
    [warning] = [record.message for record in caplog.records if record.name.endswith("_guards")]
    assert re.fullmatch(r"JetBlock: level portable may not hold\. PyTorch computed aten\.randn\S*, .*", warning)
    with torch.no_grad(), jetblock.deterministic():
        expected = torch.linspace(0, 9, 999).sin()
    assert all(torch.equal(sine, expected) for sine in sines)
    assert not torch.equal(torch.linspace(0, 9, 999).sin(), expected)


def test_portable_elsewhere_than_on_the_cpu(comfyui: ComfyUI) -> None:
    guards = comfyui.module("_guards")
    named = [str(breach) for breach in guards.of_the_process(torch.device("cuda"), "portable")]
    assert any(name.startswith("device cuda: portable bits are computed on the CPU") for name in named)
    assert any(name.startswith("no --deterministic") for name in named)
    assert not list(guards.of_the_process(torch.device("cpu"), "portable"))


def test_another_attention(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> None:
    from comfy.cli_args import args

    guards = comfyui.module("_guards")
    monkeypatch.setattr(args, "use_split_cross_attention", True)
    [breach] = guards.of_the_process(torch.device("cpu"), "portable")
    assert not breach.certain
    assert str(breach).startswith("--use-split-cross-attention: a network that does not let its attention be chosen")
    assert not list(guards.of_the_process(torch.device("cpu"), "batch_invariant"))


def test_the_switch_reports(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    model = graph.add("RescaleCFG", model=sd3(graph)["model"], multiplier=0.7)
    report = graph.run(graph.add("JetBlockModeSwitch", model=model, mode="portable")[1])
    first, *lines = report.splitlines()
    assert first == "portable: an image has the same bits in every batch, on every machine."
    assert [line.split(":")[0] for line in lines] == ["refused", "warning"]


def test_the_switch_switches(comfyui: ComfyUI) -> None:
    def sample(*modes: str) -> torch.Tensor:
        graph = comfyui.graph()
        parts = sd3(graph, batch_size=2)
        for mode in modes:
            parts["model"] = graph.add("JetBlockModeSwitch", model=parts["model"], mode=mode)
        return graph.run(ksampler(graph, parts))["samples"]

    speed, apart, portable = (sample(mode) for mode in ("speed", "batch_invariant", "portable"))
    assert torch.equal(sample(), speed)
    assert len({result.numpy().tobytes() for result in (speed, apart, portable)}) == 3
    # The last switch counts.
    assert torch.equal(sample("portable", "batch_invariant"), apart)
    assert torch.equal(sample("portable", "speed"), speed)
