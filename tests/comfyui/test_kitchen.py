"""JetBlock as a backend of comfy-kitchen: the bits of its eager functions, and nothing that it does not know."""

import importlib.util
import sys
import threading
from typing import Any

import comfy_kitchen as ck
import numpy as np
import pytest
import torch
from comfy_kitchen.backends import eager
from comfy_kitchen.registry import registry
from harness import ROOT

import jetblock
from jetblock import _core, kitchen

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
SHAPES = ((1, 16), (3, 48), (128, 64), (129, 80), (300, 1040))


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Registered; the names of the compiled functions that were called and did it."""
    done: list[str] = []

    def counted(name: str) -> Any:
        function = getattr(_core, name)

        def call(*arguments: Any) -> bool:
            is_done = function(*arguments)
            done.extend([name] * is_done)
            return is_done

        return call

    for name in ("quantize_nvfp4", "dequantize_nvfp4", "quantize_e4m3", "dequantize_e4m3"):
        monkeypatch.setattr(_core, name, counted(name))
    kitchen.register()
    return done


def raw(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


def awkward(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Values of all magnitudes: blocks that are large, tiny, zero, or on the ties of E2M1; zeros of both signs."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    rows = torch.arange(shape[0])[:, None]
    x = torch.where(rows % 5 == 1, x * 1e4, torch.where(rows % 5 == 2, x * 1e-6, x))
    x = torch.where(rows % 5 == 3, (x * 4).round() / 4, x)
    x[..., ::7] = 0.0
    x[..., 3::7] = -0.0
    x[-1] = 0.0
    return x.to(dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_nvfp4_has_the_bits_of_eager(shape: tuple[int, int], dtype: torch.dtype, calls: list[str]) -> None:
    x = awkward(shape, dtype)
    for hi_first in (True, False):
        for scale in (torch.tensor(0.01), torch.tensor([1.0]), torch.tensor(3e-5)):
            want = eager.quantize_nvfp4(x, scale, hi_first=hi_first)
            got = ck.quantize_nvfp4(x, scale, hi_first=hi_first)
            assert all(torch.equal(raw(a), raw(b)) and a.dtype == b.dtype for a, b in zip(want, got, strict=True))
            codes, scales = want
            for out in FLOATS:
                back = ck.dequantize_nvfp4(codes, scale, scales, output_type=out, hi_first=hi_first)
                plain = eager.dequantize_nvfp4(codes, scale, scales, out, hi_first)
                assert back.dtype == out
                assert torch.equal(raw(back), raw(plain))
    assert calls.count("quantize_nvfp4") == 6
    assert calls.count("dequantize_nvfp4") == 18


@pytest.mark.parametrize("dtype", FLOATS)
def test_fp8_has_the_bits_of_eager(dtype: torch.dtype, calls: list[str]) -> None:
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    every = bits.view(dtype) if dtype != torch.float32 else torch.randn(70_000) * torch.logspace(-12, 12, 70_000)
    every = every[every.isfinite()]
    for scale in (1.0, 0.0123, 17.0):
        want = eager.quantize_per_tensor_fp8(every, torch.tensor(scale))
        assert torch.equal(raw(ck.quantize_per_tensor_fp8(every, torch.tensor(scale))), raw(want))
        codes = torch.arange(256, dtype=torch.uint8)
        codes = codes[(codes & 0x7F) != 0x7F].repeat(300).view(torch.float8_e4m3fn)
        want = eager.dequantize_per_tensor_fp8(codes, torch.tensor(scale), dtype)
        got = ck.dequantize_per_tensor_fp8(codes, torch.tensor(scale), output_type=dtype)
        assert got.dtype == dtype
        assert torch.equal(raw(got), raw(want))
    assert calls == ["quantize_e4m3", "dequantize_e4m3"] * 3


def test_every_level_and_thread_count(calls: list[str]) -> None:
    x, scale = awkward((700, 1040), torch.bfloat16), torch.tensor(0.02)
    codes, scales = eager.quantize_nvfp4(x, scale)
    plain = eager.dequantize_nvfp4(codes, scale, scales)
    fp8 = eager.quantize_per_tensor_fp8(x, scale)
    before = jetblock.get_cpu()
    try:
        for isa in jetblock.available_isas():
            for threads in (1, 2, 3):
                jetblock.set_cpu(threads, isa)
                got = kitchen.quantize_nvfp4(x, scale)
                assert torch.equal(got[0], codes)
                assert torch.equal(raw(got[1]), raw(scales))
                assert torch.equal(kitchen.dequantize_nvfp4(codes, scale, scales), plain)
                assert torch.equal(raw(kitchen.quantize_per_tensor_fp8(x, scale)), raw(fp8))
    finally:
        jetblock.set_cpu(*before)
    assert len(calls) == 9 * len(jetblock.available_isas())


def test_padding_and_strides(calls: list[str]) -> None:
    x, scale = awkward((37, 53), torch.float32), torch.tensor(0.02)
    for y in (x, x.T, x[::2, ::3]):
        want, got = eager.quantize_nvfp4(y, scale, pad_16x=True), ck.quantize_nvfp4(y, scale, pad_16x=True)
        assert all(torch.equal(raw(a), raw(b)) for a, b in zip(want, got, strict=True))
        want, got = eager.quantize_per_tensor_fp8(y, scale), ck.quantize_per_tensor_fp8(y, scale)
        assert got.stride() == want.stride()
        assert torch.equal(raw(got), raw(want))
    assert calls == ["quantize_nvfp4", "quantize_e4m3", "quantize_nvfp4", "quantize_nvfp4"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_left_to_eager(value: float, calls: list[str]) -> None:
    x = awkward((32, 64), torch.float32)
    x[5, 7] = value
    scale = torch.tensor(0.02)
    want, got = eager.quantize_nvfp4(x, scale), ck.quantize_nvfp4(x, scale)
    assert all(torch.equal(raw(a), raw(b)) for a, b in zip(want, got, strict=True))
    assert torch.equal(raw(ck.quantize_per_tensor_fp8(x, scale)), raw(eager.quantize_per_tensor_fp8(x, scale)))
    assert "quantize_nvfp4" not in calls
    codes, scales = eager.quantize_nvfp4(awkward((32, 64), torch.float32), scale)
    scales.view(torch.uint8)[0, 0] = 0x7F
    back = ck.dequantize_nvfp4(codes, scale, scales)
    assert torch.equal(raw(back), raw(eager.dequantize_nvfp4(codes, scale, scales)))
    assert back.isnan().any()
    assert "dequantize_nvfp4" not in calls


def test_keywords_of_newer_versions(monkeypatch: pytest.MonkeyPatch, calls: list[str]) -> None:
    x, scale = awkward((16, 32), torch.float32), torch.tensor(0.02)
    asked = []

    def newer(*arguments: Any, rounding: str = "even", **keywords: Any) -> Any:
        asked.append(rounding)
        return original(*arguments, **keywords)

    original = eager.quantize_nvfp4
    monkeypatch.setattr(eager, "quantize_nvfp4", newer)
    kitchen.quantize_nvfp4(x=x, per_tensor_scale=scale, rounding="even")
    assert (calls, asked) == (["quantize_nvfp4"], [])
    kitchen.quantize_nvfp4(x=x, per_tensor_scale=scale, rounding="stochastic")
    assert (calls, asked) == (["quantize_nvfp4"], ["stochastic"])
    with pytest.raises(TypeError, match="unheard_of"):
        kitchen.dequantize_per_tensor_fp8(x.to(torch.float8_e4m3fn), scale, unheard_of=1)


def test_what_it_does_not_know_is_not_asked_of_it() -> None:
    x, scale = torch.ones(16, 16), torch.tensor(1.0)
    kinds: dict[str, Any] = {"x": x, "scale": scale, "output_type": torch.float8_e5m2}
    assert registry.get_capable_backend("quantize_per_tensor_fp8", kinds) == "eager"
    assert registry.get_capable_backend("quantize_per_tensor_fp8", {**kinds, "output_type": kitchen.E4M3}) == "jetblock"
    meta = {"x": x.to("meta"), "scale": scale, "output_type": kitchen.E4M3}
    assert registry.get_capable_backend("quantize_per_tensor_fp8", meta) == "eager"
    with ck.use_backend("eager"):
        assert registry.get_capable_backend("quantize_nvfp4", {"x": x, "per_tensor_scale": scale}) == "eager"


def test_threads_share_it() -> None:
    x, scale = awkward((300, 1040), torch.bfloat16), torch.tensor(0.02)
    want = eager.quantize_nvfp4(x, scale)[0]
    got: list[torch.Tensor] = []
    threads = [threading.Thread(target=lambda: got.append(ck.quantize_nvfp4(x, scale)[0])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 4
    assert all(torch.equal(codes, want) for codes in got)


def test_the_pack_registers_it_where_comfyui_uses_comfy_kitchen(comfyui: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    registered = []
    monkeypatch.setattr(kitchen, "register", lambda: registered.append(True))
    pack = str(comfyui.base / "custom_nodes" / "jetblock")
    assert comfyui.loop.run_until_complete(comfyui.nodes.load_custom_node(pack))
    assert registered == [True]
    monkeypatch.delitem(sys.modules, "comfy_kitchen")
    assert comfyui.loop.run_until_complete(comfyui.nodes.load_custom_node(pack))
    assert registered == [True]


@pytest.mark.parametrize("dtype", FLOATS)
def test_rotations_and_norms_are_taken_apart(dtype: torch.dtype) -> None:
    """The operators that newer versions of ComfyUI call: in deterministic mode what they are made of."""
    generator = torch.Generator().manual_seed(1)
    q, k = (torch.randn(2, 3, 10, 64, generator=generator).to(dtype) for _ in range(2))
    scale, shift = (torch.randn(64, generator=generator).to(dtype) for _ in range(2))
    angles = torch.randn(1, 1, 10, 32, generator=generator)
    turns = torch.stack([angles.cos(), -angles.sin(), angles.sin(), angles.cos()], -1).unflatten(-1, (2, 2))

    def rotated(x: torch.Tensor, *, halves: bool) -> torch.Tensor:
        x = x.float()
        one, two = x.chunk(2, -1) if halves else (x[..., ::2], x[..., 1::2])
        parts = [turns[..., row, 0] * one + turns[..., row, 1] * two for row in (0, 1)]
        return (torch.cat(parts, -1) if halves else torch.stack(parts, -1).flatten(-2)).to(dtype)

    with torch.no_grad(), jetblock.deterministic() as report:
        normal = [torch.nn.functional.rms_norm(x, (64,), scale, 1e-6) for x in (q, k)]
        results = [
            (ck.apply_rope(q, k, turns), [rotated(x, halves=False) for x in (q, k)]),
            (ck.apply_rope_split_half(q, k, turns), [rotated(x, halves=True) for x in (q, k)]),
            (ck.rms_rope(q, k, turns, scale), [rotated(x, halves=False) for x in normal]),
            (ck.rms_rope_split_half(q, k, turns, scale), [rotated(x, halves=True) for x in normal]),
            ([ck.apply_rope1(q, turns)], [rotated(q, halves=False)]),
            ([ck.apply_rope1_(k.clone(), turns)], [rotated(k, halves=False)]),
            ([ck.rms_adaln(q, scale, shift)], [torch.nn.functional.rms_norm(q, (64,), eps=1e-6) * (1 + scale) + shift]),
            ([ck.rms_rope1(q[:1, :, :4], turns[:, :, :4], scale)], [rotated(normal[0], halves=False)[:1, :, :4]]),
        ]
        with pytest.raises(jetblock.UncoveredOperatorError, match=r"comfy_kitchen\.quantize_nvfp4"):
            ck.quantize_nvfp4(q[0, 0], torch.tensor(1.0))
    assert not any(row.name.startswith("comfy_kitchen") for row in report.rows)
    for got, want in results:
        assert all(torch.equal(raw(a), raw(b)) for a, b in zip(got, want, strict=True))


def second_implementation() -> Any:
    """What numpy makes of NUMERICS.md alone."""
    folder = ROOT / "tests" / "second_implementation"
    spec = importlib.util.spec_from_file_location(
        "second_implementation", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    return importlib.import_module("second_implementation.quant")


@pytest.mark.parametrize("dtype", FLOATS)
def test_numerics_md_says_the_same(dtype: torch.dtype) -> None:
    quant, scale = second_implementation(), 0.013

    def rounded(x: Any) -> Any:
        return torch.from_numpy(np.ascontiguousarray(x)).to(dtype).float().numpy()

    x = awkward((131, 80), dtype)
    codes, scales = kitchen.quantize_nvfp4(x, torch.tensor(scale), hi_first=False)
    own_scales, own_codes = quant.kitchen_nvfp4(x.float().numpy(), scale)
    assert np.array_equal(codes.numpy(), quant.pack(own_codes))
    rows, columns = np.indices(own_scales.shape)
    placed = scales.view(torch.uint8).flatten().numpy()
    assert np.array_equal(placed[quant.kitchen_place(rows, columns, 5)], own_scales)
    assert placed.sum(dtype=int) == own_scales.sum(dtype=int)  # the rest is 0
    back = kitchen.dequantize_nvfp4(codes, torch.tensor(scale), scales, dtype, hi_first=False)
    own_back = quant.kitchen_nvfp4_values(own_scales, own_codes, scale, rounded)
    assert np.array_equal(back.float().numpy().view("u4"), own_back.view("u4"))
    fp8 = kitchen.quantize_per_tensor_fp8(x, torch.tensor(scale))
    own = quant.kitchen_e4m3(x.float().numpy(), scale, rounded)
    assert np.array_equal(fp8.view(torch.uint8).numpy(), own)
    values = kitchen.dequantize_per_tensor_fp8(fp8, torch.tensor(scale), dtype)
    own_values = quant.kitchen_e4m3_values(own, scale, rounded)
    assert np.array_equal(values.float().numpy().view("u4"), own_values.view("u4"))
