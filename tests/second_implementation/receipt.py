"""Receipts (docs/receipt.md): checks every digest of one against a model folder.

By hand: python -m tests.second_implementation.receipt RECEIPT.json MODEL_FOLDER
"""

import copy
import hashlib
import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from . import sampling
from .model import Model, tensor_digest

WIDTHS = {"F32": "f32", "BF16": "bf16", "F16": "f16", "F8_E4M3": "f8_e4m3", "U8": "u8"}


def tensor_digests(folder):
    """{name: digest} of the bytes as they are stored."""
    digests = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        data = path.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        for name, entry in json.loads(data[8 : 8 + length]).items():
            if name == "__metadata__":
                continue
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            h = hashlib.sha256(f"{WIDTHS[entry['dtype']]}[{','.join(map(str, entry['shape']))}]\n".encode())
            for start in range(begin, end, 1 << 20):
                h.update(hashlib.sha256(data[start : min(start + (1 << 20), end)]).digest())
            digests[name] = h.digest()
    return digests


def weights_digest(tensors):
    h = hashlib.sha256(f"weights {len(tensors)}\n".encode())
    for name in sorted(tensors, key=str.encode):
        h.update(f"{name}\n".encode() + tensors[name])
    return h.hexdigest()


def byte_of():
    """The bytes behind the characters of a byte-level vocabulary."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}


def text_digest(folder, tokens, stop_tokens):
    tokenizer = json.loads((Path(folder) / "tokenizer.json").read_text())
    pieces = {i: token for token, i in tokenizer["model"]["vocab"].items()}
    added = {entry["id"]: entry["content"] for entry in tokenizer["added_tokens"]}
    if tokens[-1] in stop_tokens:
        tokens = tokens[:-1]
    bytes_of = byte_of()
    data = b"".join(added[t].encode() if t in added else bytes(bytes_of[c] for c in pieces[t]) for t in tokens)
    return hashlib.sha256(data.decode("utf-8", "replace").encode()).hexdigest()


def wrong(receipt, folder):
    """What a receipt says that is not so, in words."""
    folder, found = Path(folder), []
    expect = lambda what, told, own: None if told == own else found.append(f"{what} is {own}, not {told}")
    contract, model, request = receipt["contract"], receipt["model"], receipt["request"]
    expect("format", receipt["receipt"], 1)
    expect("numerics_version", contract["numerics_version"], 1)
    tensors = tensor_digests(folder)
    expect("config", model["config"], hashlib.sha256((folder / "config.json").read_bytes()).hexdigest())
    expect("weights", model["weights"], weights_digest(tensors))
    for name in sorted(tensors.keys() | model["tensors"].keys()):
        expect(f"tensor {name}", model["tensors"].get(name), tensors[name].hex() if name in tensors else None)

    tie_rule = "hash" if contract["hash_ties"] else "lowest_id"
    own = Model(folder, contract["operands"], contract["kv"], contract["split"], tie_rule)
    prompt, tokens = request["prompt_tokens"], receipt["output"]["tokens"]
    expect("number of steps", len(receipt["steps"]), len(tokens))
    own.seen = []
    logits, _ = own.logits(prompt + tokens[:-1])
    settings = {**request["sampling"], "logit_bias": dict(request["sampling"]["logit_bias"])}
    settings, forced = sampling.Settings(**settings), receipt["output"].get("forced", [])
    for n, (token, step) in enumerate(zip(tokens, receipt["steps"])):
        at = len(prompt) + n
        if "layers" in step:
            layers = [tensor_digest(h[at - 1]).hex()[:16] for h in own.seen]
            expect(f"layers of step {n}", step["layers"], layers)
        expect(f"logits of step {n}", step["logits"], tensor_digest(logits[at - 1]).hex())
        if n not in forced:
            index = request["sample_index"]
            expect(f"token {n}", token, sampling.sample(logits[at - 1], settings, request["seed"], at, index, prompt, tokens[:n]))
    expect("text", receipt["output"]["text"], text_digest(folder, tokens, request["stop_tokens"]))
    return found


def tampered(receipt):
    """(name, receipt) with one fact changed in each; every one of them must be found."""
    flipped = lambda digest: ("0" if digest[0] != "0" else "1") + digest[1:]

    def changed(change):
        other = copy.deepcopy(receipt)
        change(other)
        return other

    def set_in(*path, value=flipped):
        def change(other):
            *way, last = path
            for key in way:
                other = other[key]
            other[last] = value(other[last])

        return changed(change)

    tensor = sorted(receipt["model"]["tensors"])[3]
    yield "one tensor", set_in("model", "tensors", tensor)
    yield "the weights", set_in("model", "weights")
    yield "the configuration", set_in("model", "config")
    yield "logits of a step", set_in("steps", 5, "logits")
    yield "a layer of a step", set_in("steps", 5, "layers", 2)
    yield "the seed", set_in("request", "seed", value=lambda seed: seed + 1)
    yield "a token", set_in("output", "tokens", 4, value=lambda token: token ^ 1)
    yield "the text", set_in("output", "text")
    yield "the cache's dtype", set_in("contract", "kv", value=lambda kv: {"bf16": "fp8"}.get(kv, "bf16"))
    yield "a prompt token", set_in("request", "prompt_tokens", 1, value=lambda token: token ^ 1)


def run(report, root, binary):
    report.section("receipts")
    folder = root / "assets/demo-model"
    with tempfile.TemporaryDirectory() as scratch:
        def generate(*options):
            path = Path(scratch) / "receipt.json"
            command = [str(binary), "generate", "--quiet", "--receipt", str(path), "--receipt-detail", "layers", *options]
            subprocess.run(command, check=True, capture_output=True)
            return json.loads(path.read_text())

        def one(name, receipt):
            found = wrong(receipt, folder)
            steps = len(receipt["steps"])
            report.add(name, not found, ", ".join(found[:3]) or f"{steps} steps, {len(receipt['model']['layers'])} layers each")

        plain = generate("--prompt", "In the beginning", "--max-tokens", "12", "--seed", "3", "--temperature", "0.8", "--top-p", "0.9")
        one("text", plain)
        one("chat with a thinking budget, nvfp4 cache, splits of 64", generate(
            "--chat", "-p", "Who are you?", "--seed", "1", "--thinking-budget", "4", "--thinking-grace", "0",
            "--max-tokens", "16", "--kv", "nvfp4", "--split", "64", "--repetition-penalty", "1.1"))  # fmt: skip
        for name, other in tampered(plain):
            report.add(f"finds out: {name}", bool(wrong(other, folder)))


if __name__ == "__main__":
    problems = wrong(json.loads(Path(sys.argv[1]).read_text()), sys.argv[2])
    print("\n".join(problems) or "every digest holds")
    sys.exit(bool(problems))
