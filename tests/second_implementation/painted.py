"""Writes small Nemotron-H and Llama models with painted weights and awkward sizes, for what no released model has."""

import json
import struct

import numpy as np

from . import arith, paint
from .arith import F32, U32

BASE = {
    "model_type": "nemotron_h",
    "architectures": ["NemotronHForCausalLM"],
    "vocab_size": 91,
    "hidden_size": 67,
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": False,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 17,
    "attention_bias": False,
    "max_position_embeddings": 4096,
    "intermediate_size": 53,
    "mlp_hidden_act": "relu2",
    "mlp_bias": False,
    "use_bias": False,
    "use_conv_bias": True,
    "mamba_num_heads": 6,
    "mamba_head_dim": 7,
    "ssm_state_size": 37,
    "n_groups": 3,
    "conv_kernel": 4,
    "chunk_size": 16,
    "mamba_hidden_act": "silu",
    "n_routed_experts": 10,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 41,
    "moe_shared_expert_intermediate_size": 29,
    "moe_latent_size": None,
    "n_shared_experts": 1,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
    "n_group": 1,
    "topk_group": 1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


# Changes that make it a Llama.
LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "num_hidden_layers": 2,
    "rope_theta": 10000.0,
    "head_dim": 18,
}


def linear(name, out, into, biased=False):
    yield name + ".weight", (out, into), 0.8 / into**0.5, 0.0
    if biased:
        yield name + ".bias", (out,), 0.25, 0.0


def llama_shapes(c):
    """(name, shape, scale, offset) of every tensor."""
    d, v, inner, hd = c["hidden_size"], c["vocab_size"], c["intermediate_size"], c["head_dim"]
    q, kv = (c[f"num_{n}_heads"] * hd for n in ("attention", "key_value"))
    family = c["model_type"]
    yield "model.embed_tokens.weight", (v, d), 0.5, 0.0
    for i in range(c["num_hidden_layers"]):
        name = f"model.layers.{i}."
        yield name + "input_layernorm.weight", (d,), 0.25, 1.0
        yield name + "post_attention_layernorm.weight", (d,), 0.25, 1.0
        for proj, out in (("q", q), ("k", kv), ("v", kv)):
            yield from linear(f"{name}self_attn.{proj}_proj", out, d, c["attention_bias"] or family == "qwen2")
        yield from linear(name + "self_attn.o_proj", d, q, c["attention_bias"])
        if family == "qwen3":
            yield name + "self_attn.q_norm.weight", (hd,), 0.25, 1.0
            yield name + "self_attn.k_norm.weight", (hd,), 0.25, 1.0
        for proj, out, into in (("gate", inner, d), ("up", inner, d), ("down", d, inner)):
            yield from linear(f"{name}mlp.{proj}_proj", out, into, c["mlp_bias"])
    yield "model.norm.weight", (d,), 0.25, 1.0
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", (v, d), 0.8 / d**0.5, 0.0


def tensor_shapes(c):
    """(name, shape, scale, offset) of every tensor."""
    if c["model_type"] != "nemotron_h":
        yield from llama_shapes(c)
        return
    d, v = c["hidden_size"], c["vocab_size"]
    inner = c["mamba_num_heads"] * c["mamba_head_dim"]
    conv = inner + 2 * c["n_groups"] * c["ssm_state_size"]
    heads = c["mamba_num_heads"]
    yield "backbone.embeddings.weight", (v, d), 0.5, 0.0

    def mlp(name, width, into):
        yield from linear(name + ".up_proj", width, into, c["mlp_bias"])
        yield from linear(name + ".down_proj", into, width, c["mlp_bias"])

    for i, kind in enumerate(c["hybrid_override_pattern"]):
        name = f"backbone.layers.{i}.mixer"
        yield f"backbone.layers.{i}.norm.weight", (d,), 0.25, 1.0
        if kind == "M":
            yield from linear(name + ".in_proj", inner + conv + heads, d, c["use_bias"])
            yield name + ".conv1d.weight", (conv, 1, c["conv_kernel"]), 0.5, 0.0
            if c["use_conv_bias"]:
                yield name + ".conv1d.bias", (conv,), 0.25, 0.0
            yield name + ".A_log", (heads,), 1.0, 0.0
            yield name + ".D", (heads,), 1.0, 0.0
            yield name + ".dt_bias", (heads,), 1.0, -3.0
            yield name + ".norm.weight", (inner,), 0.25, 1.0
            yield from linear(name + ".out_proj", d, inner, c["use_bias"])
        elif kind == "*":
            q, kv = (c[f"num_{n}_heads"] * c["head_dim"] for n in ("attention", "key_value"))
            for proj, out, into in (("q", q, d), ("k", kv, d), ("v", kv, d), ("o", d, q)):
                yield from linear(f"{name}.{proj}_proj", out, into, c["attention_bias"])
            for proj, scale in zip("kv", c.get("kv_scales", ())):
                yield f"{name}.{proj}_proj.{proj}_scale", (), 0.0, scale
        elif kind == "-":
            yield from mlp(name, c["intermediate_size"], d)
        else:
            experts, latent = c["n_routed_experts"], c["moe_latent_size"]
            yield name + ".gate.weight", (experts, d), 0.3, 0.0
            yield name + ".gate.e_score_correction_bias", (experts,), 0.1, 0.0
            for e in range(experts):
                yield from mlp(f"{name}.experts.{e}", c["moe_intermediate_size"], latent or d)
            yield from mlp(name + ".shared_experts", c["moe_shared_expert_intermediate_size"], d)
            if latent:
                yield from linear(name + ".fc1_latent_proj", latent, d, c["mlp_bias"])
                yield from linear(name + ".fc2_latent_proj", d, latent, c["mlp_bias"])
    yield "backbone.norm_f.weight", (d,), 0.25, 1.0
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", (v, d), 0.8 / d**0.5, 0.0


STORE = {
    "F32": (4, lambda x: x.astype("<f4").tobytes()),
    "BF16": (2, lambda x: arith.f32_to_bf16(x).astype("<u2").tobytes()),
    "F16": (2, lambda x: arith.f32_to_f16(x).astype("<u2").tobytes()),
}


def write(folder, seed, dtype, changes, edit=None, other=()):
    """`edit(name, values)` may replace a tensor's values; `other` gives some tensors, by the end of their names, a data type of their own."""
    config = {**BASE, **changes}
    if "dtype" not in config:
        config["dtype"] = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}[dtype]
    config = {k: v for k, v in config.items() if v != "absent"}
    if "hybrid_override_pattern" in config:
        config["num_hidden_layers"] = len(config["hybrid_override_pattern"])
    header, data = {}, b""
    for n, (name, shape, scale, offset) in enumerate(tensor_shapes(config)):
        count = int(np.prod(shape))
        x = paint.uniform(seed * 1000 + n, np.arange(count, dtype=U32)) * F32(scale) + F32(offset)
        if edit:
            x = edit(name, x.reshape(shape)).reshape(-1)
        store = next((d for end, d in [("e_score_correction_bias", "F32"), ("_scale", "F32"), *other] if name.endswith(end)), dtype)
        size, pack = STORE[store]
        header[name] = {"dtype": store, "shape": list(shape), "data_offsets": [len(data), len(data) + size * count]}
        data += pack(x)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    return folder


def _same_experts(name, x):
    """Experts 2, 3, 4 and 7 are equally good: the router must break ties."""
    if ".gate." in name:
        x[[3, 4, 7]] = x[2]
    return x


def _huge(name, x):
    """Each output of an MLP is one pair whose even product overflows for some tokens while the sum of the pair does not."""
    if name.endswith("up_proj.weight"):
        x = x * F32(2.0**61)
        x[1::2] = x[0::2]
    if name.endswith("down_proj.weight"):
        keep = np.zeros_like(x)
        pair = 2 * (np.arange(len(x)) % (x.shape[1] // 2))
        keep[np.arange(len(x)), pair + 1] = np.where(np.arange(len(x)) % 3, 1, -1) * F32(2.0**3)
        keep[np.arange(len(x)), pair] = keep[np.arange(len(x)), pair + 1] * F32(-1.5)
        x = keep
    return x


def _infinite(name, x):
    """Token 44 is infinite: everything after it is NaN."""
    if "embeddings" in name:
        x[44] = np.inf
    return x


def _small_rows(name, x):
    """Every other token's row is below the flush threshold of operand()."""
    if "embeddings" in name:
        x[::2] = x[::2] * F32(2.0**-53)
    return x


def _tiny(name, x):
    """Weights around the flush threshold of operand() and down to subnormal numbers."""
    if name.endswith("up_proj.weight"):
        x = x * F32(2.0**-49)
    if name.endswith("down_proj.weight"):
        x = x * F32(2.0**90)
    if name.endswith("in_proj.weight"):
        x = x * F32(2.0**-20)
    return x


MODELS = {
    "odd": ("all layer kinds, odd widths, BF16", "BF16", {"hybrid_override_pattern": "M*-E"}, None),
    "groups": ("5 groups of experts, 3 kept, no renormalisation, F32", "F32", {"hybrid_override_pattern": "EME", "n_group": 5, "topk_group": 3, "num_experts_per_tok": 5, "norm_topk_prob": False}, None),
    "latent": ("latent experts, F16", "F16", {"hybrid_override_pattern": "ME*E", "moe_latent_size": 23}, None),
    "tied": ("tied embeddings, F32", "F32", {"hybrid_override_pattern": "M*-", "tie_word_embeddings": True}, None),
    "small": ("tied embeddings, half the rows below 2^-50, BF16", "BF16", {"hybrid_override_pattern": "M*-", "tie_word_embeddings": True}, _small_rows),
    "wide": ("more than 1024 wide, BF16, dtype absent", "BF16", {"hybrid_override_pattern": "M-*", "hidden_size": 1100, "mamba_head_dim": 350, "n_groups": 2, "ssm_state_size": 70, "intermediate_size": 530, "head_dim": 130, "dtype": "absent"}, None),
    "limits": ("clamped time step, kernel of 2, no conv bias, F32", "F32", {"hybrid_override_pattern": "MM-", "conv_kernel": 2, "use_conv_bias": False, "time_step_limit": [0.0625, 0.125]}, None),
    "bias": ("biases everywhere, BF16", "BF16", {"hybrid_override_pattern": "M*-E", "attention_bias": True, "mlp_bias": True, "use_bias": True}, None),
    "ties": ("four equal experts, BF16", "BF16", {"hybrid_override_pattern": "EM*E"}, _same_experts),
    "huge": ("products that overflow alone, infinities and NaN, BF16", "BF16", {"hybrid_override_pattern": "--", "intermediate_size": 54}, _huge),
    "infinite": ("an infinite token, NaN in the state, BF16", "BF16", {"hybrid_override_pattern": "M*-"}, _infinite),
    "scaled": ("scales of quantized caches, two widths of block, BF16", "BF16", {"hybrid_override_pattern": "M*-*", "head_dim": 48, "kv_scales": (0.37, 1.7)}, None),
    "tiny": ("values at the flush threshold, BF16", "BF16", {"hybrid_override_pattern": "M-M"}, _tiny),
    "llama": ("Llama, odd widths, BF16", "BF16", LLAMA, None),
    "llama3": ("Llama 3 frequencies, biases, a part of each head turned, F32", "F32", {**LLAMA, "attention_bias": True, "mlp_bias": True, "partial_rotary_factor": 0.6, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 48}}, None),
    "qwen2": ("biases of q, k and v, tied, linear frequencies, BF16", "BF16", {**LLAMA, "model_type": "qwen2", "tie_word_embeddings": True, "rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 1e6}}, None),
    "qwen3": ("norms of q and k, tied, F16", "F16", {**LLAMA, "model_type": "qwen3", "tie_word_embeddings": True}, None),
}  # fmt: skip

# What decides the operand kind when the request does not: (the expected kind, data type, config, data types of some tensors)
OWN_KINDS = {
    "BF16 weights, dtype float32": ("f32", "BF16", {"dtype": "float32"}, ()),
    "F32 weights, dtype bfloat16": ("f32", "F32", {"dtype": "bfloat16"}, ()),
    "F32 weights, no dtype": ("f32", "F32", {"dtype": "absent"}, ()),
    "BF16 weights, torch_dtype bfloat16": ("bf16", "BF16", {"dtype": "absent", "torch_dtype": "bfloat16"}, ()),
    "BF16 weights, torch_dtype float16": ("f32", "BF16", {"dtype": "absent", "torch_dtype": "float16"}, ()),
    "one linear weight in F32": ("f32", "BF16", {}, [("experts.1.up_proj.weight", "F32")]),
    "one linear weight in F16": ("f32", "BF16", {}, [("q_proj.weight", "F16")]),
    "lm_head in F32": ("f32", "BF16", {}, [("lm_head.weight", "F32")]),
    "tied embeddings in F32": ("f32", "BF16", {"tie_word_embeddings": True}, [("embeddings.weight", "F32")]),
    "router and embeddings in F32": ("bf16", "BF16", {}, [("gate.weight", "F32"), ("embeddings.weight", "F32")]),
}
