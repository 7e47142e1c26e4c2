"""Sections 3.2 and 10.2: a model from a GGUF file, its quantized matrices as codes with scales."""

import struct
from pathlib import Path

import numpy as np

from . import functions, ops
from .arith import F32, bf16_to_f32, bits, f16_to_f32, f32_to_bf16
from .model import Model

KINDS = "BbHhIif?s[QqdQ"                                               # by number of the value's type; s text, [ array
PLAIN = {0: ("F32", 4), 1: ("F16", 2), 30: ("BF16", 2)}
BLOCKS = {2: (32, 18), 3: (32, 20), 8: (32, 34), 12: (256, 144), 14: (256, 210)}


class _Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, letter):
        return struct.unpack("<" + letter, self.take(struct.calcsize("<" + letter)))[0]

    def text(self):
        return bytes(self.take(self.number("Q"))).decode()

    def value(self, kind):
        if KINDS[kind] == "s":
            return self.text()
        if KINDS[kind] == "[":
            inner, count = self.number("I"), self.number("Q")
            return [self.value(inner) for _ in range(count)]
        return self.number(KINDS[kind])


def read(path):
    """(metadata, {name: (type, shape outermost first, bytes)})"""
    r = _Reader(memoryview(Path(path).read_bytes()))
    assert bytes(r.take(4)) == b"GGUF" and r.number("I") in (2, 3)
    tensors, pairs = r.number("Q"), r.number("Q")
    metadata = {}
    for _ in range(pairs):
        key = r.text()
        metadata[key] = r.value(r.number("I"))
    table = []
    for _ in range(tensors):
        name, rank = r.text(), r.number("I")
        extents = [r.number("Q") for _ in range(rank)]
        table.append((name, extents[::-1], r.number("I"), r.number("Q")))
    align = metadata.get("general.alignment", 32)
    start = -(-r.at // align) * align
    out = {}
    for name, shape, kind, offset in table:
        elements, size = BLOCKS.get(kind) or (1, PLAIN[kind][1])
        length = int(np.prod(shape)) // elements * size
        out[name] = (kind, shape, np.frombuffer(r.data[start + offset : start + offset + length], np.uint8))
    return metadata, out


def plain(kind, shape, data):
    store, widen = {"F32": ("<f4", lambda x: x.astype(F32)), "F16": ("<u2", f16_to_f32), "BF16": ("<u2", bf16_to_f32)}[PLAIN[kind][0]]
    return widen(data.view(store).reshape(shape))


def blocks(kind, rows, data):
    """(codes, scales, offsets or None), rows first."""
    elements, size = BLOCKS[kind]
    b = data.reshape(-1, size)
    half = lambda at: f16_to_f32(np.ascontiguousarray(b[:, at : at + 2]).view("<u2"))
    nibbles = lambda q: np.concatenate([q & 15, q >> 4], axis=-1)
    offsets = None
    if kind in (2, 3):
        codes = nibbles(b[:, size - 16 :]).astype(F32) - F32(8 if kind == 2 else 0)
        scales = half(0)
        offsets = half(2) if kind == 3 else None
    elif kind == 8:
        codes, scales = b[:, 2:].view(np.int8).astype(F32), half(0)
    elif kind == 12:
        p = b[:, 4:16]
        low, high = p[:, :4], p[:, 4:8]
        sc = np.concatenate([low & 63, p[:, 8:] & 15 | low >> 6 << 4], axis=1)
        mn = np.concatenate([high & 63, p[:, 8:] >> 4 | high >> 6 << 4], axis=1)
        scales, offsets = half(0) * sc.astype(F32), -(half(2) * mn.astype(F32))
        codes = nibbles(b[:, 16:].reshape(-1, 4, 32)).reshape(-1, 256).astype(F32)
    else:
        low, high = b[:, :128].reshape(-1, 2, 2, 32), b[:, 128:192].reshape(-1, 2, 1, 32)
        nibble = np.stack([low[:, :, 0] & 15, low[:, :, 1] & 15, low[:, :, 0] >> 4, low[:, :, 1] >> 4], axis=2)
        pair = high >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & 3
        codes = (nibble | pair << 4).reshape(-1, 256).astype(F32) - F32(32)
        scales = half(208) * b[:, 192:208].view(np.int8).astype(F32)
    table = lambda v: None if v is None else v.reshape(rows, -1)
    return table(codes), table(scales), table(offsets)


def in_order(rows, width):
    """Row numbers of the file for the rows of the model."""
    index = np.arange(rows)
    head, i, half = index // width, index % width, width // 2
    return head * width + 2 * (i % half) + i // half


class GgufLlama(Model):
    """A `llama` file."""

    def __init__(self, path, kind="bf16", kv="f32", split=256):
        metadata, self.stored = read(path)
        get = lambda name, default=None: metadata.get("llama." + name, default)
        self.kind, self.kv, self.split, self.odd_first, self.llama = kind, kv, split, True, True
        self.q_heads = get("attention.head_count")
        self.kv_heads = get("attention.head_count_kv", self.q_heads)
        self.hd = get("attention.key_length") or get("embedding_length") // self.q_heads
        self.eps = get("attention.layer_norm_rms_epsilon")
        self.frequencies = ops.rope_frequencies(get("rope.freq_base", 10000.0), self.hd)
        self.tensors, self.layers, self.norms, self.names, self.mixers = {}, [], [], [], []
        for n in range(get("block_count")):
            name = f"blk.{n}."
            self.layers += ["attention", "mlp"]
            self.norms += [name + "attn_norm.weight", name + "ffn_norm.weight"]
            self.names += [name, name]
            heads = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output"}
            self.mixers.append({k: self._matrix(name + own, own in ("attn_q", "attn_k")) for k, own in heads.items()})
            self.mixers.append(ops.Mlp(*(self._matrix(name + "ffn_" + own) for own in ("up", "down", "gate"))))
        self.last_norm = "output_norm.weight"
        for name in [*self.norms, self.last_norm]:
            self.tensors[name] = plain(*self.stored[name])
        self.head = self._matrix("output" if "output.weight" in self.stored else "token_embd")
        self.embedding = self

    def __getitem__(self, ids):
        """Rows of the embedding table."""
        kind, shape, data = self.stored["token_embd.weight"]
        if kind in BLOCKS:
            return ops.QuantizedLinear(*_parts(kind, shape, data, self.kind)).rows(ids)
        table = plain(kind, shape, data)[ids]
        tied = "output.weight" not in self.stored
        return ops.operand(table) if tied and self.kind == "bf16" else table

    def _matrix(self, name, permuted=False):
        kind, shape, data = self.stored[name + ".weight"]
        data = data.reshape(shape[0], -1)
        if permuted:
            data = np.ascontiguousarray(data[in_order(shape[0], self.hd)])
        if kind in BLOCKS:
            return ops.QuantizedLinear(*_parts(kind, shape, data, self.kind))
        return ops.Linear(plain(kind, shape, data.reshape(-1)), self.kind)


def _parts(kind, shape, data, operands):
    codes, scales, offsets = blocks(kind, shape[0], data.reshape(-1))
    return codes, operands, np.ones(shape[0], F32), scales, offsets


def decay_rates(stored):
    """A of a Nemotron-H file."""
    a_log = bf16_to_f32(f32_to_bf16(functions.log(-stored)))
    own = -functions.exp(a_log)
    near = np.abs(own - stored) <= np.abs(stored) * F32(2.0**-22)
    return np.where(near, own, stored)


def check_blocks(report, fixture):
    """The codes and scales of the fixture give the values of the reference package."""
    import json

    names = {"Q4_0": 2, "Q4_1": 3, "Q8_0": 8, "Q4_K": 12, "Q6_K": 14}
    told = json.loads((fixture / "blocks.json").read_text())
    for name, kind in names.items():
        data = np.frombuffer(bytes.fromhex(told[name]["blocks"]), np.uint8)
        codes, scales, offsets = blocks(kind, 1, data)
        wide = lambda v: np.repeat(v, codes.shape[1] // v.shape[1], axis=1)
        value = wide(scales) * codes
        value = value if offsets is None else value + wide(offsets)
        want = np.array([int(v, 16) for v in told[name]["values"]], np.uint32)
        report.add(f"{name}: values of the reference package", np.array_equal(bits(value[0]), want), f"{want.size} values")
