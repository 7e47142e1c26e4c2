"""Texts to conditionings, images to latents and back: alone as in a batch, and portable whatever ComfyUI chose."""

from typing import Any, ClassVar

import pytest
import torch
from harness import ComfyUI
from test_deterministic_sampling import LEVELS, render

import jetblock


@pytest.mark.parametrize("level", LEVELS)
def test_decoding(comfyui: ComfyUI, level: str) -> None:
    samples = render(comfyui, "sd3", batch=3)

    def decode(rows: list[int]) -> torch.Tensor:
        graph = comfyui.graph()
        vae = graph.add("VAELoader", vae_name="tiny_ae.safetensors")
        latent = graph.give({"samples": samples[rows]})
        return graph.run(graph.add("JetBlockDeterministicDecode", samples=latent, vae=vae, level=level))

    whole = decode([0, 1, 2])
    assert whole.shape == (3, 128, 128, 3)
    assert whole.max() > 0.5
    for rows in ([0], [2], [2, 1]):
        assert torch.equal(decode(rows), whole[rows])


class Decoder:
    """As much of ComfyUI's VAE as decoding needs, with a block of the attention that its autoencoders have."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        from comfy.ldm.modules.diffusionmodules.model import AttnBlock
        from sd3 import fill

        self.first_stage_model = torch.nn.Sequential(AttnBlock(32))
        fill(self.first_stage_model, torch.Generator().manual_seed(3))

    def decode(self, samples: torch.Tensor) -> torch.Tensor:
        return self.first_stage_model(samples)


def test_decoding_does_not_depend_on_the_attention_chosen(comfyui: ComfyUI) -> None:
    samples, vae = torch.randn(2, 32, 8, 8, generator=torch.Generator().manual_seed(1)), Decoder()
    [block] = vae.first_stage_model
    chosen = block.optimized_attention

    def other(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return chosen(q, k, v) * (1 + 2**-10)

    def decode(level: str) -> torch.Tensor:
        graph = comfyui.graph()
        latent = graph.give({"samples": samples})
        return graph.run(graph.add("JetBlockDeterministicDecode", samples=latent, vae=graph.give(vae), level=level))

    usual = {level: decode(level) for level in LEVELS}
    block.optimized_attention = other
    assert torch.equal(decode("portable"), usual["portable"])
    assert block.optimized_attention is other
    assert not torch.equal(decode("batch_invariant"), usual["batch_invariant"])


@pytest.mark.parametrize("level", LEVELS)
def test_encoding(comfyui: ComfyUI, level: str) -> None:
    pixels = torch.rand(3, 64, 48, 4, generator=torch.Generator().manual_seed(2))

    def encode(rows: list[int]) -> torch.Tensor:
        graph = comfyui.graph()
        vae = graph.add("VAELoader", vae_name="tiny_ae.safetensors")
        images = graph.give(pixels[rows])
        return graph.run(graph.add("JetBlockDeterministicEncode", pixels=images, vae=vae, level=level))["samples"]

    whole = encode([0, 1, 2])
    assert whole.shape == (3, 16, 8, 6)
    assert len({latent.numpy().tobytes() for latent in whole}) == 3
    for rows in ([0], [2], [2, 1]):
        assert torch.equal(encode(rows), whole[rows])
    # As ComfyUI's own, but for roundings.
    graph = comfyui.graph()
    vae = graph.add("VAELoader", vae_name="tiny_ae.safetensors")
    torch.testing.assert_close(whole, graph.run(graph.add("VAEEncode", pixels=graph.give(pixels), vae=vae))["samples"])


@pytest.fixture(scope="module")
def clip(comfyui: ComfyUI) -> Any:
    """ComfyUI's text encoder of Stable Diffusion 1 with two small layers and random weights."""
    import comfy.sd
    from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer
    from sd3 import fill

    del comfyui

    class Target:
        params: ClassVar[dict[str, Any]] = {}
        clip = SD1ClipModel
        tokenizer = SD1Tokenizer

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "num_hidden_layers": 2}
    made = comfy.sd.CLIP(Target, model_options={"clip_l_model_config": sizes, "dtype": torch.float32})
    fill(made.cond_stage_model, torch.Generator().manual_seed(4))
    return made


def encoded(comfyui: ComfyUI, clip: Any, level: str | None) -> torch.Tensor:
    """The conditioning of a text and what is pooled of it, in one."""
    graph = comfyui.graph()
    text = "a (handwritten:1.3) three, seven digits " + "and a line " * 40  # more than one piece of 77 tokens
    if level:
        node = graph.add("JetBlockDeterministicTextEncode", clip=graph.give(clip), text=text, level=level)
    else:
        node = graph.add("CLIPTextEncode", clip=graph.give(clip), text=text)
    [[tokens, others]] = graph.run(node)
    assert tokens.shape == (1, 154, 64)
    return torch.cat([tokens.flatten(), others["pooled_output"].flatten()])


def test_texts_are_encoded_as_comfyui_does(comfyui: ComfyUI, clip: Any) -> None:
    usual = encoded(comfyui, clip, None)
    assert torch.equal(encoded(comfyui, clip, "batch_invariant"), usual)
    portable = encoded(comfyui, clip, "portable")
    assert not torch.equal(portable, usual)  # by roundings
    torch.testing.assert_close(portable, usual)


def test_portable_texts_do_not_depend_on_the_machine_or_flags(
    comfyui: ComfyUI, clip: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.model_management

    whole, usual = (encoded(comfyui, clip, level) for level in ("portable", "batch_invariant"))
    before = jetblock.get_cpu()
    try:
        for isa in jetblock.available_isas():
            jetblock.set_cpu(1, isa)
            assert torch.equal(encoded(comfyui, clip, "portable"), whole), isa
    finally:
        jetblock.set_cpu(*before)
    # Flags choose between PyTorch's attention and ComfyUI's basic one; the control is the other level.
    chosen = comfy.model_management.pytorch_attention_enabled()
    monkeypatch.setattr(comfy.model_management, "pytorch_attention_enabled", lambda: not chosen)
    assert torch.equal(encoded(comfyui, clip, "portable"), whole)
    assert not torch.equal(encoded(comfyui, clip, "batch_invariant"), usual)
    # On every machine: this digest was made on an AMD EPYC (Zen 4).
    assert jetblock.checksum(whole)[:16] == "401acd1e69072d8a"


def test_level_portable_is_for_the_cpu(comfyui: ComfyUI) -> None:
    class Elsewhere:
        """An encoder that would compute on a GPU."""

        patcher = type("Patcher", (), {"load_device": torch.device("cuda"), "patches": {}})

    graph = comfyui.graph()
    node = graph.add("JetBlockDeterministicTextEncode", clip=graph.give(Elsewhere), text="", level="portable")
    with pytest.raises(RuntimeError, match=r"level portable cannot be held\. device cuda"):
        graph.run(node)
