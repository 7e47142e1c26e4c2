"""Section 10, the forward pass of Nemotron-H and Llama from their folders, and section 12, digests."""

import hashlib
import json
import struct
from pathlib import Path

import numpy as np

from . import functions, ops, quant, reduce
from .arith import F32, bf16_to_f32, canonical, f16_to_f32, f32, operand

KINDS = {
    "M": "mamba", "mamba": "mamba", "linear_attention": "mamba",
    "*": "attention", "attention": "attention", "full_attention": "attention",
    "-": "mlp", "mlp": "mlp",
    "E": "moe", "moe": "moe",
}  # fmt: skip
LINEAR = ("in_proj", "out_proj", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "fc1_latent_proj", "fc2_latent_proj", "lm_head")
READERS = {
    "F32": ("<f4", f32), "BF16": ("<u2", bf16_to_f32), "F16": ("<u2", f16_to_f32),
    "F8_E4M3": ("u1", quant.e4m3_value), "U8": ("u1", lambda pairs: pairs),
}  # fmt: skip


def read_safetensors(path):
    """{name: (dtype, f32 array)}"""
    data = Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        store, widen = READERS[entry["dtype"]]
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        tensors[name] = (entry["dtype"], widen(np.frombuffer(data[begin:end], store).reshape(entry["shape"])))
    return tensors


def _number(value):
    return float(value["__float__"]) if isinstance(value, dict) else float(value)


def model_kind(config, tensors):
    """The operand kind that the model's own data types give."""
    dtype = config.get("dtype", config.get("torch_dtype"))
    tied = config.get("tie_word_embeddings", False)
    linear = LINEAR[:-1] + (("embeddings", "embed_tokens") if tied else ("lm_head",))
    stored = {kind for name, (kind, _) in tensors.items() if name.split(".")[-2] in linear and name.endswith(".weight")}
    return "bf16" if dtype in (None, "bfloat16") and stored <= {"BF16", "F8_E4M3", "U8"} else "f32"


class Model:
    """`kv` and `split` are the attention's cache dtype and block; `odd_first=False` is a wrong order, for a control."""

    seen = None                            # a list is given the hidden states of a step after each layer

    def __init__(self, folder, kind=None, kv="f32", split=256, tie_rule="lowest_id", odd_first=True):
        folder = Path(folder)
        self.config = json.loads((folder / "config.json").read_text())
        tensors = {}
        for path in sorted(folder.glob("*.safetensors")):
            tensors.update(read_safetensors(path))
        self.kind = kind or model_kind(self.config, tensors)
        self.tensors = {name: value for name, (_, value) in tensors.items()}
        self.formats = {name: kind for name, (kind, _) in tensors.items()}
        self.kv, self.split, self.tie_rule, self.odd_first = kv, split, tie_rule, odd_first
        c = self.config
        self.q_heads = c["num_attention_heads"]
        self.kv_heads = c.get("num_key_value_heads") or self.q_heads
        self.hd = c.get("head_dim") or c["hidden_size"] // self.q_heads
        self.frequencies = None
        self.llama = c["model_type"] != "nemotron_h"
        if self.llama:
            self._describe_llama()
        else:
            self._describe_nemotron_h()
        self.mixers = [self._load(i, kind) for i, kind in enumerate(self.layers)]
        table = "model.embed_tokens" if self.llama else "backbone.embeddings"
        self.embedding = self.tensors[table + ".weight"]
        tied = c.get("tie_word_embeddings", False)
        if tied and self.kind == "bf16":
            self.embedding = operand(self.embedding)
        self.head = self._linear(table if tied else "lm_head")

    def _describe_nemotron_h(self):
        c = self.config
        kinds = c.get("layers_block_type") or c["hybrid_override_pattern"]
        self.layers = [KINDS[name] for name in kinds]
        self.norms = [f"backbone.layers.{i}.norm.weight" for i in range(len(kinds))]
        self.names = [f"backbone.layers.{i}.mixer" for i in range(len(kinds))]
        self.last_norm = "backbone.norm_f.weight"
        self.eps = c["layer_norm_epsilon"]
        self.heads, self.head_width = c["mamba_num_heads"], c["mamba_head_dim"]
        self.ssm_state, self.groups, self.kernel = c["ssm_state_size"], c["n_groups"], c["conv_kernel"]
        self.inner = self.heads * self.head_width
        self.conv_dim = self.inner + 2 * self.groups * self.ssm_state
        low, high = c.get("time_step_limit") or (0.0, float("inf"))
        self.dt_limits = _number(low), _number(high)

    def _describe_llama(self):
        """Each layer of the files is two of the stack."""
        c = self.config
        self.layers, self.norms, self.names = [], [], []
        for n in range(c["num_hidden_layers"]):
            name = f"model.layers.{n}."
            self.layers += ["attention", "mlp"]
            self.norms += [name + "input_layernorm.weight", name + "post_attention_layernorm.weight"]
            self.names += [name + "self_attn", name + "mlp"]
        self.last_norm = "model.norm.weight"
        self.eps = c["rms_norm_eps"]
        scaling = c.get("rope_parameters") or c.get("rope_scaling") or {}
        theta = scaling.get("rope_theta") or c.get("rope_theta") or 10000.0
        self.frequencies = ops.rope_frequencies(theta, int(self.hd * c.get("partial_rotary_factor", 1.0)), scaling)

    def _linear(self, name):
        weight, bias = self.tensors[name + ".weight"], self.tensors.get(name + ".bias")
        rows = np.ones(len(weight), F32)
        if self.formats[name + ".weight"] == "F8_E4M3":
            return ops.QuantizedLinear(weight, self.kind, rows * self.tensors[name + ".weight_scale"], bias=bias)
        if self.formats[name + ".weight"] == "U8":
            factors = rows * self.tensors[name + ".weight_scale_2"]
            return ops.QuantizedLinear(quant.unpack(weight), self.kind, factors, self.tensors[name + ".weight_scale"], bias=bias)
        return ops.Linear(self.tensors[name + ".weight"], self.kind, self.tensors.get(name + ".bias"), self.odd_first)

    def _mlp(self, name):
        gate = self._linear(name + ".gate_proj") if self.llama else None
        return ops.Mlp(self._linear(name + ".up_proj"), self._linear(name + ".down_proj"), gate)

    def _load(self, i, kind):
        name, c = self.names[i], self.config
        if kind == "mamba":
            return {k: self._linear(f"{name}.{k}") for k in ("in_proj", "out_proj")}
        if kind == "attention":
            return {k: self._linear(f"{name}.{k}_proj") for k in "qkvo"}
        if kind == "mlp":
            return self._mlp(name)
        gate, correction = self.tensors[name + ".gate.weight"], self.tensors[name + ".gate.e_score_correction_bias"]
        router = ops.Router(
            gate, correction, c["num_experts_per_tok"], c.get("n_group", 1), c.get("topk_group", 1), c.get("norm_topk_prob", True),
            c.get("routed_scaling_factor", 1.0), i, self.tie_rule,
        )  # fmt: skip
        experts = [self._mlp(f"{name}.experts.{e}") for e in range(len(gate))]
        latent = [self._linear(f"{name}.fc{n}_latent_proj") for n in (1, 2)] if c.get("moe_latent_size") else (None, None)
        return ops.Moe(router, experts, self._mlp(name + ".shared_experts"), *latent)

    def _kv_scale(self, name):
        """The checkpoint's scale of a quantized cache, else 1; other caches have none."""
        quantized = self.kv in ("fp8", "nvfp4")
        return np.ravel(self.tensors[name])[0] if quantized and name in self.tensors else F32(1)

    def start(self):
        """The state before the first token."""
        layers = []
        for kind in self.layers:
            if kind == "mamba":
                conv = np.zeros((self.kernel - 1, self.conv_dim), F32)
                layers.append([conv, np.zeros((self.heads, self.head_width, self.ssm_state), F32)])
            elif kind == "attention":
                scales = [self._kv_scale(f"backbone.layers.{len(layers)}.mixer.{name}_proj.{name}_scale") for name in "kv"]
                layers.append(ops.KvCache(self.kv_heads, self.hd, self.kind, self.kv, scales))
            else:
                layers.append(None)
        return {"tokens": 0, "layers": layers}

    def _mamba(self, i, u, state):
        name, mixer = self.names[i] + ".", self.mixers[i]
        conv_state, ssm_state = state["layers"][i]
        p = mixer["in_proj"](u)
        z, xbc, dt_raw = np.split(p, [self.inner, self.inner + self.conv_dim], axis=1)
        rows = np.concatenate([conv_state, xbc])
        weight = self.tensors[name + "conv1d.weight"].reshape(self.conv_dim, self.kernel)
        c = ops.causal_conv1d(rows, weight, self.tensors.get(name + "conv1d.bias"), self.kernel)
        width = self.groups * self.ssm_state
        x, b, c = np.split(c, [self.inner, self.inner + width], axis=1)
        x = x.reshape(-1, self.heads, self.head_width)
        of_head = np.arange(self.heads) // (self.heads // self.groups)
        b, c = (v.reshape(-1, self.groups, self.ssm_state)[:, of_head] for v in (b, c))
        dt = ops.time_step(dt_raw, self.tensors[name + "dt_bias"], *self.dt_limits)
        a = -functions.exp(self.tensors[name + "A_log"])
        y, ssm_state = ops.ssm_scan(x, dt, functions.exp(dt * a), b, c, self.tensors[name + "D"], ssm_state)
        state["layers"][i] = [rows[len(u) :], ssm_state]
        y = reduce.gated_rms_norm(y.reshape(len(u), self.inner), z, self.tensors[name + "norm.weight"], self.groups, self.eps)
        return mixer["out_proj"](y)

    def _attention(self, i, u, state):
        mixer, cache = self.mixers[i], state["layers"][i]
        q = mixer["q"](u).reshape(-1, self.q_heads, self.hd)
        k, v = (mixer[name](u).reshape(-1, self.kv_heads, self.hd) for name in "kv")
        norms = [self.tensors.get(f"{self.names[i]}.{name}_norm.weight") for name in "qk"]
        if norms[0] is not None:
            q, k = (reduce.rms_norm(x, weight, self.eps) for x, weight in zip((q, k), norms))
        if self.frequencies:
            q, k = (ops.rope(x, self.frequencies, state["tokens"]) for x in (q, k))
        cache.append(k, v)
        return mixer["o"](ops.attention(q, cache, self.kind, self.split))

    def step(self, ids, state):
        """Logits of every token of a piece; the state advances."""
        h = self.embedding[np.asarray(ids)]
        for i, kind in enumerate(self.layers):
            u = reduce.rms_norm(h, self.tensors[self.norms[i]], self.eps)
            if kind == "mamba":
                y = self._mamba(i, u, state)
            elif kind == "attention":
                y = self._attention(i, u, state)
            elif kind == "moe":
                y = self.mixers[i](u, state["tokens"])
            else:
                y = self.mixers[i](u)
            h = canonical(h + y)
            if self.seen is not None:
                self.seen.append(h)
        state["tokens"] += len(ids)
        return self.head(reduce.rms_norm(h, self.tensors[self.last_norm], self.eps))

    def logits(self, ids, pieces=None):
        """Logits [len(ids), V] of a text taken in pieces of the given lengths, and the state after it."""
        state, rows, at = self.start(), [], 0
        for count in pieces or [len(ids)]:
            rows.append(self.step(ids[at : at + count], state))
            at += count
        assert at == len(ids)
        return np.concatenate(rows), state


CHUNK = 1 << 20


def tensor_digest(array, dtype="f32", shape=None):
    """f32, bf16 given as u16 patterns, or rows of codes as bytes, of which `shape` tells the elements."""
    stored = {"f32": "<f4", "bf16": "<u2"}.get(dtype, "u1")
    data = np.ascontiguousarray(array).astype(stored).tobytes()
    h = hashlib.sha256(f"{dtype}[{','.join(str(n) for n in shape or array.shape)}]\n".encode())
    for start in range(0, len(data), CHUNK):
        h.update(hashlib.sha256(data[start : start + CHUNK]).digest())
    return h.digest()


def state_digest(state):
    h = hashlib.sha256(f"state {state['tokens']}\n".encode())
    for layer in state["layers"]:
        if layer is None:
            continue
        if isinstance(layer, ops.KvCache):
            for tensor in (layer.k, layer.v):
                h.update(tensor_digest(tensor, layer.dtype, (*tensor.shape[:2], layer.width)))
        else:
            for tensor in layer:
                h.update(tensor_digest(tensor))
    return h.digest()
