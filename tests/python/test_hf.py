"""Drop-ins for transformers: close to the original, the same bits under every schedule, where the original's differ."""

import copy
import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hf_models import CONFIGS, VOCABULARY, make

import jetblock
from conftest import ROOT
from jetblock import hf, ops
from tests.second_implementation import ops as second
from tests.second_implementation import quant, reduce

TOKENS = 21
F32 = np.float32
DEMO_MODEL = ROOT / "assets/demo-model"


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    # One thread: its waiting threads would slow down everything else on a busy machine.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(before)


def ids_of(seed: int, tokens: int = TOKENS) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (1, tokens), generator=torch.Generator().manual_seed(seed))


IDS = ids_of(1)


def positions_of(mask: torch.Tensor) -> torch.Tensor:
    return (mask.cumsum(-1) - 1).clamp(min=0)


def call(model: Any, ids: torch.Tensor, mask: torch.Tensor | None = None, cache: Any = None, *, use_cache: bool) -> Any:
    options: dict[str, Any] = {"use_cache": use_cache}
    if mask is not None:
        options["attention_mask"] = mask
        options["position_ids"] = positions_of(mask)[:, -ids.shape[1] :]
    if cache is not None:
        options["cache_params" if model.config.model_type == "mamba2" else "past_key_values"] = cache
    return model(ids, **options)


def cache_of(output: Any) -> Any:
    return output.get("cache_params") or output.get("past_key_values")


def in_pieces(model: Any, ids: torch.Tensor, pieces: list[int], mask: torch.Tensor | None = None) -> torch.Tensor:
    cache, logits, start = None, [], 0
    for piece in pieces:
        end = start + piece
        output = call(model, ids[:, start:end], None if mask is None else mask[:, :end], cache, use_cache=True)
        cache, start = cache_of(output), end
        logits.append(output.logits)
    assert start == ids.shape[1]
    return torch.cat(logits, dim=1)


def padded(left: int, right: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The row among longer ones, with padding at its sides."""
    length = left + TOKENS + right
    ids = torch.cat([ids_of(2, length), ids_of(3, length), ids_of(4, length)])
    mask = torch.ones_like(ids)
    ids[1], mask[1] = 0, 0
    ids[1, left : left + TOKENS], mask[1, left : left + TOKENS] = IDS[0], 1
    return ids, mask


def schedules(model: Any) -> dict[str, torch.Tensor]:
    """The logits `[T, V]` of one row, computed in many ways."""
    batch = torch.cat([ids_of(2), IDS, ids_of(3), ids_of(4), ids_of(5)])
    left_ids, left_mask = padded(6, 0)
    right_ids, right_mask = padded(0, 5)
    both_ids, both_mask = padded(3, 4)
    return {
        "alone": call(model, IDS, use_cache=False).logits[0],
        "with a cache": call(model, IDS, use_cache=True).logits[0],
        "in a batch": call(model, batch, use_cache=False).logits[1],
        "in another place": call(model, batch.flip(0), use_cache=False).logits[3],
        "padded left": call(model, left_ids, left_mask, use_cache=False).logits[1, 6:],
        "padded right": call(model, right_ids, right_mask, use_cache=True).logits[1, :TOKENS],
        "padded on both sides": call(model, both_ids, both_mask, use_cache=False).logits[1, 3 : 3 + TOKENS],
        "in two pieces": in_pieces(model, IDS, [8, TOKENS - 8])[0],
        "in uneven pieces": in_pieces(model, IDS, [1, 6, 2, 1, TOKENS - 10])[0],
        "token by token": in_pieces(model, IDS, [1] * TOKENS)[0],
        "in a batch, token by token": in_pieces(model, batch, [9, *[1] * (TOKENS - 9)])[1],
        "padded left, in pieces": in_pieces(model, left_ids, [4, 7, *[1] * (TOKENS - 5)], left_mask)[1, 6:],
    }


def bits(tensor: torch.Tensor) -> str:
    return jetblock.checksum(tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CONFIGS)
def test_bits_do_not_depend_on_the_schedule(name: str, dtype: torch.dtype) -> None:
    model = make(name, dtype)
    original = schedules(model)
    ours = schedules(jetblock.optimize(model))
    assert {key: bits(logits) for key, logits in ours.items()} == dict.fromkeys(ours, bits(ours["alone"]))
    # The control: the original's answers differ.
    assert len({bits(logits) for logits in original.values()}) > 1
    # The logits say something of every token.
    assert len({bits(row) for row in ours["alone"]}) == TOKENS


@pytest.mark.parametrize("name", ["llama", "nemotron_h"])
def test_rows_of_many_lengths_run_together(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = jetblock.optimize(make(name))
    real = [slice(0, 21), slice(4, 12), slice(8, 21), slice(13, 21), slice(0, 13), slice(20, 21)]
    ids, mask = torch.zeros(6, TOKENS, dtype=torch.int64), torch.zeros(6, TOKENS, dtype=torch.int64)
    for row, place in enumerate(real):
        ids[row, place], mask[row, place] = ids_of(10 + row)[0, place], 1
    alone = [call(model, ids[row : row + 1, place], use_cache=False).logits[0] for row, place in enumerate(real)]
    batches = []
    attention = ops.attention
    monkeypatch.setattr(
        ops, "attention", lambda q, *rest, **options: batches.append(len(q)) or attention(q, *rest, **options)
    )
    whole = call(model, ids, mask, use_cache=False).logits
    assert batches == [6] * batches.count(6)
    # No single token: transformers has no mask for one, since prompts come before.
    split = in_pieces(model, ids, [9, 2, 10], mask)
    assert 1 < max(batches[-model.config.num_hidden_layers :]) < 6
    for row, place in enumerate(real):
        assert bits(whole[row, place]) == bits(split[row, place]) == bits(alone[row])


@pytest.mark.parametrize("name", CONFIGS)
def test_close_to_the_original(name: str) -> None:
    model = make(name)
    original = call(model, IDS, use_cache=False).logits
    ours = call(jetblock.optimize(model), IDS, use_cache=False).logits
    assert original.abs().max() > 1
    assert (ours - original).abs().max() < 2e-5 * original.abs().max()


@pytest.mark.parametrize("name", ["llama", "mamba2", "nemotron_h", "qwen3"])
def test_bf16_is_as_far_from_f32_as_the_original(name: str) -> None:
    exact = call(make(name), IDS, use_cache=False).logits
    model = make(name, torch.bfloat16)
    original = call(model, IDS, use_cache=False).logits.float()
    ours = call(jetblock.optimize(model), IDS, use_cache=False).logits.float()
    theirs = (original - exact).square().mean().sqrt()
    assert theirs > 1e-3
    assert (ours - exact).square().mean().sqrt() < 1.2 * theirs


def test_time_steps_of_nemotron_h() -> None:
    """Transformers limits those of prompts and not those of single tokens; here neither is."""
    model = make("nemotron_h", time_step_min=0.5)
    whole, cut = call(model, IDS, use_cache=False).logits, in_pieces(model, IDS, [4, *[1] * (TOKENS - 4)])
    assert (whole - cut).abs().max() > 0.1
    plain = call(jetblock.optimize(make("nemotron_h")), IDS, use_cache=False).logits
    assert bits(call(jetblock.optimize(model), IDS, use_cache=False).logits) == bits(plain)


@pytest.mark.parametrize("name", CONFIGS)
def test_generate(name: str) -> None:
    model = jetblock.optimize(make(name))
    options = {"max_new_tokens": 10, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    alone = model.generate(IDS, attention_mask=torch.ones_like(IDS), **options)
    ids, mask = padded(6, 0)
    among = model.generate(ids, attention_mask=mask, **options)
    assert alone.sequences[0, TOKENS:].tolist() == among.sequences[1, 6 + TOKENS :].tolist()
    logits = torch.cat(alone.logits)
    assert bits(logits) == bits(torch.cat([step[1:2] for step in among.logits]))
    whole = call(model, alone.sequences, use_cache=False).logits[0, TOKENS - 1 : -1]
    assert bits(logits) == bits(whole)
    if name != "mamba2":
        fixed = model.generate(IDS, attention_mask=torch.ones_like(IDS), cache_implementation="static", **options)
        assert bits(torch.cat(fixed.logits)) == bits(logits)
        beams = model.generate(IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=4, num_beams=3)
        assert beams.shape == (1, TOKENS + 4)


@pytest.mark.parametrize("name", CONFIGS)
def test_restore(name: str) -> None:
    model = make(name)
    before = schedules(model)
    classes = {key: (module, type(module)) for key, module in model.named_modules()}
    attention = model.config._attn_implementation  # noqa: SLF001
    names = list(model.state_dict())
    assert jetblock.optimize(model) is model
    assert list(model.state_dict()) == names
    assert all(isinstance(module, cls) for module, cls in classes.values())
    assert sum(type(module) is not cls for module, cls in classes.values()) >= 10
    call(model, IDS, use_cache=True)
    assert jetblock.restore(model) is model
    assert {key: (module, type(module)) for key, module in model.named_modules()} == classes
    assert model.config._attn_implementation == attention  # noqa: SLF001
    assert not any("_jetblock_kept" in module.__dict__ for module in model.modules())
    after = schedules(model)
    assert {key: bits(logits) for key, logits in after.items()} == {key: bits(x) for key, x in before.items()}


def test_packed_weights_go_with_the_drop_ins() -> None:
    gc.collect()
    before = ops.weight_cache_stats()["weights"]
    model = jetblock.optimize(make("nemotron_h_moe"))
    call(model, IDS, use_cache=False)
    assert ops.weight_cache_stats()["weights"] > before + 20
    packed = ops.weight_cache_stats()["packed"]
    call(model, IDS, use_cache=False)
    assert ops.weight_cache_stats()["packed"] == packed
    jetblock.restore(model)
    assert ops.weight_cache_stats()["weights"] == before


def test_changed_weights_and_copies_are_followed() -> None:
    model = jetblock.optimize(make("nemotron_h_moe"))
    first = bits(call(model, IDS, use_cache=False).logits)
    other = copy.deepcopy(model)
    for key in ("model.layers.1.mixer.experts.up_proj", "lm_head.weight", "model.layers.0.mixer.A_log"):
        parameter = other.get_parameter(key)
        seen = bits(call(other, IDS, use_cache=False).logits)
        parameter.data.view(-1)[7] += 0.5
        parameter.add_(0)  # `data` hides the change; this one counts
        assert bits(call(other, IDS, use_cache=False).logits) != seen
    other.load_state_dict(model.state_dict())
    assert bits(call(other, IDS, use_cache=False).logits) == first
    assert bits(call(model, IDS, use_cache=False).logits) == first
    jetblock.restore(other)


@pytest.mark.parametrize("kv", ["f32", "nvfp4"])
def test_the_bits_of_the_engine(kv: str) -> None:
    """The bundled model through transformers gives the logits of `jetblock logits`, bit for bit."""
    engine = jetblock.load(operands="f32", kv=kv)
    ids = engine.encode("In the beginning God created the heaven and the earth.")
    expected = engine.logits(ids)
    model = transformers.AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32)
    config = jetblock.JetBlockConfig(enable_nvfp4_kv=kv == "nvfp4")
    given = in_pieces(jetblock.optimize(model, config), torch.tensor([ids]), [5, *[1] * (len(ids) - 5)])
    assert bits(given[0]) == jetblock.checksum(expected)
    jetblock.restore(model)
    assert bits(in_pieces(model, torch.tensor([ids]), [len(ids)])[0]) != jetblock.checksum(expected)


@pytest.mark.parametrize("name", ["llama", "nemotron_h_moe"])
def test_nvfp4_keys_and_values(name: str) -> None:
    model = make(name)
    plain = call(jetblock.optimize(model), IDS, use_cache=False).logits
    jetblock.restore(model)
    jetblock.optimize(model, jetblock.JetBlockConfig(enable_nvfp4_kv=True))
    ours = schedules(model)
    assert {key: bits(logits) for key, logits in ours.items()} == dict.fromkeys(ours, bits(ours["alone"]))
    difference = (ours["alone"] - plain[0]).abs().mean() / plain.abs().mean()
    assert 1e-3 < difference < 0.3
    cache = hf.NVFP4Quantizer(model.config)
    call(model, IDS, cache=cache, use_cache=True)
    layers = sum(isinstance(layer.get_seq_length, object) for layer in cache.layers if hasattr(layer, "stored"))
    elements = 2 * layers * 2 * 32 * TOKENS
    assert cache.memory() == {
        "tokens": TOKENS, "bytes": elements * 9 // 16, "bf16_bytes": 2 * elements, "share": 0.28125
    }  # fmt: skip
    assert (
        model.generate(IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=3, num_beams=2).shape[1] == TOKENS + 3
    )


def test_nvfp4_codes_are_the_contract_s() -> None:
    values = np.random.default_rng(1).standard_normal((4, 3, 64)).astype(F32)
    values[0] *= 1e-6
    values[1] *= 1e5
    values[2, 0, :16] = 0
    values[2, 1, :8] = [6, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5]
    values[2, 1, 8:16] = [-6, -0.25, -0.75, -1.25, -1.75, -2.5, -3.5, -5]
    values[2, 2, 3], values[3, 1, 17], values[3, 2, 5] = np.nan, np.inf, -np.inf
    scales, codes = quant.nvfp4_kv(values.reshape(4, 3, 4, 16))
    given_codes, given_scales = hf.NVFP4Quantizer.quantize(torch.from_numpy(values))
    assert (given_scales.numpy() == scales.reshape(4, 3, 4)).all()
    nibbles = np.stack([given_codes.numpy() & 15, given_codes.numpy() >> 4], -1).reshape(4, 3, 4, 16)
    assert (nibbles == codes).all()
    expected = quant.nvfp4_values(scales, codes).reshape(4, 3, 64)
    given = hf.NVFP4Quantizer.dequantize(given_codes, given_scales).numpy()
    assert np.array_equal(given, expected, equal_nan=True)


def test_nvfp4_cache_operations() -> None:
    cache = hf.NVFP4Quantizer()
    keys, values = torch.randn(2, 2, 5, 32), torch.randn(2, 2, 5, 32)
    whole, _ = cache.update(keys, values, 0)
    other = hf.NVFP4Quantizer()
    for t in range(5):
        pieces, _ = other.update(keys[:, :, t : t + 1], values[:, :, t : t + 1], 0)
    assert bits(pieces) == bits(whole)
    cache.crop(-2)
    assert cache.get_seq_length() == 3
    again, _ = cache.update(keys[:, :, 3:], values[:, :, 3:], 0)
    assert bits(again) == bits(whole)
    cache.reorder_cache(torch.tensor([1, 0]))
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([0, 3]))
    token = torch.zeros(2, 2, 1, 32)
    swapped, _ = cache.update(token, token, 0)
    assert bits(swapped[:, :, :5]) == bits(whole[[1, 0]].contiguous())
    cache.reset()
    assert cache.get_seq_length() == 0


def test_layers_alone() -> None:
    """Each drop-in is a module of its own."""
    x = torch.randn(7, 192, generator=torch.Generator().manual_seed(1))
    norm = hf.BatchInvariantRMSNorm(192)
    assert bits(norm(x)[3:4]) == bits(norm(x[3:4]))
    assert torch.allclose(norm(x), torch.nn.functional.rms_norm(x, (192,), eps=1e-6), atol=1e-5)
    linear = hf.BatchInvariantLinear(192, 33)
    assert bits(linear(x)[3:4]) == bits(linear(x[3:4]))
    assert torch.allclose(linear(x), torch.nn.functional.linear(x, linear.weight, linear.bias), atol=1e-5)
    matmul = hf.BatchInvariantMatMul()
    a, b = torch.randn(2, 3, 5, 40), torch.randn(3, 40, 6)
    assert torch.allclose(matmul(a, b), a @ b, atol=1e-4)
    assert bits(matmul(a, b)[1, 2, 3:4].contiguous()) == bits(matmul(a[1, 2, 3:4], b[2]))
    assert bits(matmul(a, b)[1, 2]) == bits(ops.linear(a[1, 2], b[2].t()))
    assert bits(matmul(a, b[2])[1, 2]) == bits(matmul(a, b)[1, 2])
    assert matmul(a[:0], b).shape == matmul(a[:0], b[2]).shape == (0, 3, 5, 6)
    for ours, theirs in (
        (hf.BatchInvariantSiLU(), torch.nn.functional.silu),
        (hf.BatchInvariantGELU(), torch.nn.functional.gelu),
        (hf.BatchInvariantReLUSquared(), lambda x: x.relu().square()),
        (hf.BatchInvariantGELUTanh(), lambda x: torch.nn.functional.gelu(x, approximate="tanh")),
    ):
        assert torch.allclose(ours(x), theirs(x), atol=1e-6)
        assert bits(ours(x)[:, 5:6].contiguous()) == bits(ours(x[:, 5:6]))


def test_one_mamba_layer() -> None:
    model = make("mamba2")
    layer = model.backbone.layers[0]
    mixer, weights = layer.mixer, list(layer.mixer.parameters())
    before = bits(layer(model.backbone.embeddings(IDS)))
    wrapper = hf.Mamba2LayerWrapper(layer)
    assert layer.mixer is mixer is wrapper.mixer
    assert isinstance(mixer, hf.DeterministicMamba2Mixer)
    assert all(a is b for a, b in zip(mixer.parameters(), weights, strict=True))
    assert bits(layer(model.backbone.embeddings(IDS))) != before
    wrapper.restore()
    assert bits(layer(model.backbone.embeddings(IDS))) == before
    with pytest.raises(jetblock.ArgumentError, match="expected one with a Mamba-2 mixer"):
        hf.Mamba2LayerWrapper(model.lm_head)


def test_the_state_is_f32() -> None:
    model = jetblock.optimize(make("nemotron_h", torch.bfloat16))
    output = call(model, IDS, use_cache=True)
    state = output.past_key_values.layers[0].recurrent_states[0]
    assert state.dtype == torch.float32
    call(model, IDS[:, :1], cache=output.past_key_values, use_cache=True)
    assert output.past_key_values.layers[0].recurrent_states[0] is state


def test_ties_go_to_the_lower_expert() -> None:
    for name in ("nemotron_h_moe", "qwen2_moe", "qwen3_moe"):
        changes = {"qwen2_moe": {"norm_topk_prob": True}, "nemotron_h_moe": {"n_group": 1, "topk_group": 1}}
        model = make(name, **changes.get(name, {}))
        routers = [module for module in model.modules() if type(module).__name__.endswith(("TopkRouter", "TopKRouter"))]
        routers[0].weight[3] = routers[0].weight[6]
        if name == "nemotron_h_moe":
            routers[0].e_score_correction_bias.zero_()
        jetblock.optimize(model)
        assert isinstance(routers[0], hf.DeterministicMoERouter)
        _, weights, experts = routers[0](torch.randn(64, 192, generator=torch.Generator().manual_seed(2)))
        assert (experts.diff(dim=-1) > 0).all()
        has_3, has_6 = ((experts == expert).any(-1) for expert in (3, 6))
        assert (has_3 | ~has_6).all()
        assert (has_3 & ~has_6).any()
        assert torch.allclose(weights.sum(-1), torch.full((64,), 2.5 if name == "nemotron_h_moe" else 1.0))


@pytest.mark.parametrize("norm_topk_prob", [True, False])
def test_the_softmax_router_is_the_contract_s(norm_topk_prob: bool) -> None:  # noqa: FBT001 (pytest's)
    model = jetblock.optimize(make("qwen3_moe", norm_topk_prob=norm_topk_prob))
    router = model.model.layers[0].mlp.gate
    x = torch.randn(9, 192, generator=torch.Generator().manual_seed(2))
    scores = reduce.softmax(second.Linear(router.weight.numpy(), "f32", None)(x.numpy()))
    experts = np.sort(np.argsort(-scores, axis=1, kind="stable")[:, :3], axis=1)
    weights = np.take_along_axis(scores, experts, 1)
    if norm_topk_prob:
        weights /= (((F32(0) + weights[:, 0]) + weights[:, 1]) + weights[:, 2])[:, None]
    _, given_weights, given_experts = router(x)
    assert (given_experts.numpy() == experts).all()
    assert given_weights.numpy().tobytes() == weights.tobytes()
    with pytest.raises(jetblock.ArgumentError, match="NaN"):
        router(x * torch.nan)


def test_the_gate_of_the_shared_expert() -> None:
    model = make("qwen2_moe")
    block = model.model.layers[0].mlp
    x = torch.randn(1, 9, 192, generator=torch.Generator().manual_seed(2))
    original = block(x)
    jetblock.optimize(model, jetblock.JetBlockConfig(deterministic_mode=False, enable_fixed_split_attention=False))
    assert isinstance(block, hf.DeterministicSharedExpert)
    assert torch.allclose(block(x), original, atol=1e-5)
    _, weights, experts = block.gate(x[0])
    gate = ops.sigmoid(ops.linear(x[0], block.shared_expert_gate.weight))
    expected = block.experts(x[0], experts, weights) + gate * block.shared_expert(x[0])
    assert bits(block(x)[0]) == bits(expected)
    assert bits(block(x)[:, 4:5].contiguous()) == bits(block(x[:, 4:5]))
    # The gate is felt.
    block.shared_expert_gate.weight.neg_()
    assert bits(block(x)[0]) != bits(expected)


def test_splits_are_part_of_the_request() -> None:
    ids = ids_of(7, 300)
    answers = set()
    for split in (64, 128, 256):
        model = jetblock.optimize(make("llama"), jetblock.JetBlockConfig(attention_split=split))
        assert f"split_{split}" in model.config._attn_implementation  # noqa: SLF001
        whole = bits(call(model, ids, use_cache=False).logits)
        assert bits(in_pieces(model, ids, [130, 1, 169])) == whole
        answers.add(whole)
    assert len(answers) == 3
    q, k, v = (torch.randn(1, heads, 4, 32) for heads in (4, 2, 2))
    attention = hf.FixedSplitAttention(64)
    expected = ops.attention(*(x.transpose(1, 2) for x in (q, k, v)), split=64)
    assert bits(attention(torch.nn.Identity(), q, k, v, None)[0]) == bits(expected)


def test_float32_attention_in_a_bf16_model() -> None:
    config = jetblock.JetBlockConfig(attention_precision="float32")
    model = jetblock.optimize(make("llama", torch.bfloat16), config)
    assert model.config._attn_implementation == hf.FixedSplitAttention(256, "float32").name  # noqa: SLF001
    assert call(model, IDS, use_cache=False).logits.isfinite().all()
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(1, 2, 200, 64, generator=generator).mul(3).bfloat16() for _ in range(3))
    wide = ops.attention(*(x.float().transpose(1, 2) for x in (q, k, v))).bfloat16()
    answers = [hf.FixedSplitAttention(256, precision)(model, q, k, v, None)[0] for precision in ("model", "float32")]
    assert bits(answers[1]) == bits(wide) != bits(answers[0])


ATTENTION_MISTAKES = [
    ({"attention_mask": torch.ones(1, 1, 4, 4)}, r"shape \[1, 1, 4, 4\], expected \[B, S\]"),
    ({"attention_mask": None, "is_causal": False}, "not causal"),
    ({"attention_mask": None, "sliding_window": 3}, "4 keys exceed the sliding window of 3"),
    ({"attention_mask": None, "softcap": 30.0}, "has softcap"),
    ({"attention_mask": None, "dropout": 0.1}, "dropout is 0.1"),
]


@pytest.mark.parametrize(("arguments", "message"), ATTENTION_MISTAKES)
def test_what_attention_does_not_do_is_refused(arguments: dict[str, Any], message: str) -> None:
    q = torch.randn(1, 2, 4, 32)
    with pytest.raises(jetblock.ArgumentError, match=message):
        hf.FixedSplitAttention()(torch.nn.Identity().train(), q, q, q, **arguments)


def test_packed_sequences_are_refused() -> None:
    model = jetblock.optimize(make("llama"))
    with pytest.raises(jetblock.ArgumentError, match="packed sequences"):
        model(IDS, position_ids=torch.cat([torch.arange(9), torch.arange(12)])[None], use_cache=False)


CONFIG_MISTAKES = [
    ({"cudnn_benchmark": True}, "cudnn_benchmark is True, expected False: it chooses kernels by their speed"),
    ({"allow_tf32": True}, "allow_tf32 is True, expected False"),
    ({"attention_split": 100}, "attention_split is 100, expected 64 or 128 or 256"),
    ({"attention_split": "64"}, "attention_split is '64', expected a value of type int"),
    ({"attention_precision": "float8"}, "attention_precision is 'float8', expected 'model' or 'float32'"),
    ({"ssm_state_precision": "bfloat16"}, "ssm_state_precision is 'bfloat16', expected 'float32'"),
    ({"moe_tie_rule": "random"}, "moe_tie_rule is 'random', expected 'lowest_id'"),
    ({"enable_moe_determinism": False}, "enable_moe_determinism is False, expected True: deterministic_mode"),
    ({"deterministic_mode": 1}, "deterministic_mode is 1, expected a value of type bool"),
]


@pytest.mark.parametrize(("arguments", "message"), CONFIG_MISTAKES)
def test_what_cannot_be_held_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jetblock.JetBlockConfig(**arguments)


def test_parts_of_a_model() -> None:
    model = make("nemotron_h_moe")
    config = jetblock.JetBlockConfig(
        deterministic_mode=False, enable_mamba2_determinism=False, enable_fixed_split_attention=False
    )
    jetblock.optimize(model, config)
    replaced = {key for key, module in model.named_modules() if "_jetblock" in str(vars(type(module)))}
    assert replaced == {
        f"model.layers.{i}.mixer.{part}" for i in (1, 3) for part in ("gate", "experts", "experts.act_fn")
    }
    jetblock.restore(model)


def test_models_that_cannot_be_optimized() -> None:
    def refused(model: Any, message: str, **config: Any) -> None:
        classes = [type(module) for module in model.modules()]
        with pytest.raises(jetblock.ArgumentError, match=message):
            jetblock.optimize(model, jetblock.JetBlockConfig(**config))
        assert [type(module) for module in model.modules()] == classes

    refused(make("llama").train(), "training mode")
    refused(make("llama").double(), "is torch.float64, expected float32")
    refused(make("llama").to("meta"), "is on meta, expected cpu")
    with torch.inference_mode():
        inference = make("llama")
    refused(inference, "was made in torch.inference_mode")
    refused(make("mistral", sliding_window=8), "sliding_window is 8, expected none")
    limit = ops.weight_cache_stats()["limit"]
    ops.set_weight_cache_limit(1 << 20)
    refused(make("llama"), "at most 1048576 bytes are kept packed")
    ops.set_weight_cache_limit(limit)
    refused(torch.nn.Linear(2, 3).eval(), "expected a causal language model")
    refused(make("mamba2"), "has no attention layers", enable_nvfp4_kv=True)
    dynamic = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    refused(make("llama", rope_parameters=dynamic), "no drop-in for model.rotary_emb: LlamaRotaryEmbedding")
    refused(make("llama", hidden_act="mish"), "no drop-in for model.layers.0.mlp.act_fn: MishActivation")
    gemma = transformers.GemmaConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        head_dim=32, vocab_size=32,
    )  # fmt: skip
    refused(transformers.GemmaForCausalLM(gemma).eval(), "model_type is gemma, expected one of")
    model = jetblock.optimize(make("llama"))
    with pytest.raises(jetblock.ArgumentError, match="replaced already"):
        jetblock.optimize(model)
    with pytest.raises(jetblock.ArgumentError, match="did not change"):
        jetblock.restore(make("llama"))


def test_norms_of_another_kind_are_not_taken_for_ours() -> None:
    from transformers.models.gemma.modeling_gemma import GemmaRMSNorm  # noqa: PLC0415

    from jetblock.hf.rms_norm import is_rms_norm  # noqa: PLC0415

    gemma = GemmaRMSNorm(64)
    gemma.weight.copy_(torch.rand(64))
    assert not is_rms_norm(gemma)
    assert is_rms_norm(torch.nn.RMSNorm(64, eps=1e-6))


def test_the_detector() -> None:
    analysis = hf.HybridLayerDetector.analyze(make("nemotron_h_moe"))
    assert (analysis.model_type, analysis.is_known, analysis.pattern) == ("nemotron_h", True, "ME*E")
    assert [layer.kinds for layer in analysis.layers] == [("mamba2",), ("moe",), ("attention",), ("moe",)]
    assert analysis.not_covered == []
    drop_ins = {r.name: r.drop_in for r in analysis.replacements}
    assert drop_ins["model.layers.0.mixer"] is hf.DeterministicMamba2Mixer
    assert drop_ins["model.layers.1.mixer.gate"] is hf.DeterministicMoERouter
    assert drop_ins["model.layers.2.mixer"] is hf.FixedSplitAttention
    assert drop_ins["lm_head"] is hf.BatchInvariantLinear
    inside = sum(layer.parameters for layer in analysis.layers)
    assert analysis.parameters == inside + 2 * VOCABULARY * 192 + 192
    assert str(analysis).startswith("nemotron_h: 4 layers ME*E, ")
    assert hf.HybridLayerDetector.analyze(make("qwen3_moe")).pattern == "*E*E"
    shared = hf.HybridLayerDetector.analyze(make("qwen2_moe"))
    assert (shared.pattern, shared.not_covered) == ("*E*-*E", [])
    drop_ins = {r.name: r.drop_in for r in shared.replacements}
    assert drop_ins["model.layers.0.mlp"] is hf.DeterministicSharedExpert
    assert drop_ins["model.layers.0.mlp.shared_expert_gate"] is hf.BatchInvariantLinear
    assert hf.HybridLayerDetector.analyze(make("llama")).pattern == "*-*-"


@pytest.fixture(scope="module")
def chat() -> tuple[Any, Any, jetblock.Model]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(DEMO_MODEL)
    model = transformers.AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32)
    return tokenizer, jetblock.optimize(model), jetblock.load(operands="f32")


MESSAGES = [{"role": "user", "content": "Who are you?"}]


@pytest.mark.parametrize(("think", "budget"), [("on", None), ("off", None), ("on", 5), ("on", 0), (None, 3)])
def test_cascade_generates_what_the_engine_does(
    chat: tuple[Any, Any, jetblock.Model], think: str | None, budget: int | None
) -> None:
    tokenizer, model, engine = chat
    options = {} if budget is None else {"thinking_budget": budget}
    controller = hf.CascadeModeController(tokenizer, think, **options)
    inputs = controller.inputs(MESSAGES)
    output = model.generate(
        **inputs,
        logits_processor=controller.logits_processor(inputs["input_ids"]),
        max_new_tokens=40,
        do_sample=False,
    )
    given = output[0, inputs["input_ids"].shape[1] :].tolist()
    expected = engine.generate(MESSAGES, max_tokens=40, temperature=0, think=think, **options)
    assert given == list(expected.tokens)
    if budget is not None:
        assert expected[0].forced


def test_cascade_says_what_has_no_effect(chat: tuple[Any, Any, jetblock.Model]) -> None:
    tokenizer, *_ = chat
    with pytest.raises(jetblock.ArgumentError, match="think is 'maybe'"):
        hf.CascadeModeController(tokenizer, "maybe")
    with pytest.raises(jetblock.ArgumentError, match="need a thinking_budget"):
        hf.CascadeModeController(tokenizer, thinking_grace=3)
    with pytest.raises(jetblock.ArgumentError, match="thinking_budget is -1"):
        hf.CascadeModeController(tokenizer, thinking_budget=-1)
    plain = copy.copy(tokenizer)
    plain.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(jetblock.ArgumentError, match="has no switch for it"):
        hf.CascadeModeController(plain, "on")
    with pytest.raises(jetblock.ArgumentError, match="has no medium_effort"):
        hf.CascadeModeController(plain, "medium")
    marked = copy.copy(tokenizer)
    marked.chat_template = (
        "{%- set all = messages | map(attribute='content') | join(' ') -%}"
        "{{ all | replace('/no_think', '') | replace('/think', '') }}"
        "{{ '<think></think>' if '/no_think' in all else '<think>\n' }}"
    )
    assert hf.CascadeModeController(marked, "off").prompt(MESSAGES).endswith("</think>")
    assert hf.CascadeModeController(marked, "on").prompt(MESSAGES).endswith("<think>\n")
