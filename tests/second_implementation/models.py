"""Compares logits with the command `jetblock logits`, bit for bit, on the demo model, the fixtures and painted models."""

import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from . import gguf, painted, quant
from .arith import F32, bits
from .model import Model, read_safetensors, state_digest, tensor_digest

TEXT = [(37 * i * i + 11 * i + 5) % 4093 for i in range(24)]
SHORT = [(7 * i * i + 3 * i + 1) % 91 for i in range(20)]
LONG = [(31 * i * i + 17 * i + 3) % 97 for i in range(300)]


def find_binary(root):
    for target in (os.environ.get("CARGO_TARGET_DIR"), root / "target"):
        path = target and Path(target) / "release" / "jetblock"
        if path and path.exists():
            return path
    return None


def rust_logits(binary, folder, ids, pieces, kind=None, kv=None, split=None, tie_rule=None, more=()):
    """(logits, digests of logits and state) as the command gives them; a string says why there are none."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "logits.npy"
        command = [str(binary), "logits", str(folder), "--ids", ",".join(map(str, ids)), "--json", "--out", str(out)]
        for name, value in (("prefill", pieces and ",".join(map(str, pieces))), ("operands", kind), ("kv", kv), ("split", split)):
            command += [f"--{name}", str(value)] if value else []
        command += ["--hash-ties"] if tie_rule == "hash" else []
        done = subprocess.run([*command, *more], capture_output=True, text=True)
        if done.returncode:
            return (done.stderr.strip().splitlines() or ["no message"])[-1]
        told = json.loads(done.stdout)
        return np.load(out), told["logits"], told["state"]


def compare(report, name, rust, want, state):
    if isinstance(rust, str):
        report.add(name, False, rust)
        return
    got, logits_told, state_told = rust
    if got.dtype != np.float32 or got.shape != want.shape:
        report.add(name, False, f"{got.dtype} {got.shape}, not {want.shape}")
        return
    different = int((bits(got) != bits(want)).sum())
    wrong = [f"{different} of {want.size} logits differ"] if different else []
    wrong += [] if logits_told == tensor_digest(want).hex() else ["digest of logits"]
    wrong += [] if state_told == state_digest(state).hex() else ["digest of state"]
    report.add(name, not wrong, ", ".join(wrong) or f"{want.size} logits, digests of logits and state")


def check(report, binary, title, folder, ids, splits, kinds=("bf16", "f32"), control=False, **options):
    """`options`: kv, split, tie_rule, given to both sides. Every split is computed by the command, the first two by this side."""
    for kind in kinds:
        model = Model(folder, kind=kind, **options)
        want, state = model.logits(ids)
        told = "".join(f", {k} {v}" for k, v in options.items())
        label = f"{title}, {kind}{told}"
        if len(splits) > 1:
            again, other = model.logits(ids, splits[1])
            same = np.array_equal(bits(again), bits(want)) and state_digest(other) == state_digest(state)
            report.add(f"{label}, own pieces", same, "the logits and the state of this side do not depend on them")
        for pieces in splits:
            shown = "+".join(map(str, pieces)) if len(pieces) < 6 else f"{pieces[0]}, then one by one"
            rust = rust_logits(binary, folder, ids, pieces, kind, **{"kv": "f32", **options})
            compare(report, f"{label}, {shown}", rust, want, state)
        if control and kind == "bf16":
            wrong = Model(folder, kind=kind, odd_first=False, **options).logits(ids)[0]
            different = int((bits(wrong) != bits(want)).sum())
            report.add(f"control: {title}, even element of a pair first, differs", different > 0, f"{different} of {want.size} differ")


def check_defaults(report, binary, title, folder, ids):
    """The command left to itself takes the model's own kind, and the cache's dtype from it."""
    model = Model(folder, kv="f32")
    if model.kind == "bf16":
        model = Model(folder, kv="bf16")
    compare(report, f"{title}, defaults ({model.kind})", rust_logits(binary, folder, ids, None), *model.logits(ids))


def check_quantize(report, name, source, made):
    """What the command wrote, against the rule of section 2.1."""
    before, after = ({} for _ in range(2))
    for tensors, folder in ((before, source), (after, made)):
        for path in sorted(folder.glob("*.safetensors")):
            tensors.update(read_safetensors(path))
    wrong, count = [], 0
    for weight, (stored, codes) in after.items():
        layer = weight.removesuffix(".weight")
        w = before.get(weight, ("", None))[1]
        if stored == "U8":
            scale = quant.weight_scale(quant.amax(w.ravel()))
            blocks, want = quant.nvfp4_weights(w.reshape(len(w), -1, 16), scale)
            same = np.array_equal(quant.pack(want).reshape(codes.shape), codes)
            same &= np.array_equal(quant.e4m3_value(blocks), after[layer + ".weight_scale"][1]) and bits(scale) == bits(after[layer + ".weight_scale_2"][1])
        elif stored == "F8_E4M3" and weight.endswith(".weight"):
            scale = quant.amax(w.ravel()) / F32(448)
            same = np.array_equal(quant.e4m3_value(quant.e4m3(w / scale)), codes) and bits(scale) == bits(after[layer + ".weight_scale"][1])
        else:
            continue
        count += 1
        wrong += [] if same else [weight]
    report.add(f"{name}: codes and scales of {count} matrices", count > 0 and not wrong, ", ".join(wrong))


def check_quantized(report, binary, demo):
    report.section("quantized models")
    with tempfile.TemporaryDirectory() as scratch:
        for form, recipe in (("nvfp4", "all"), ("fp8", "nano")):
            made = Path(scratch) / form
            done = subprocess.run([binary, "quantize", demo, made, "--format", form, "--recipe", recipe], capture_output=True, text=True)
            if done.returncode:
                report.add(f"demo to {form}", False, done.stderr.strip())
                continue
            check_quantize(report, f"demo to {form}", demo, made)
            report.add(f"demo in {form}: its own kind is bf16", Model(made).kind == "bf16")
            check(report, binary, f"demo in {form}", made, TEXT, [[24], [7, 1, 1, 15]])


def run(report, root):
    binary = find_binary(root)
    if binary is None:
        report.section("models")
        report.missing("jetblock", "build it: cargo build --release -p jetblock-cli")
        return
    report.section("assets/demo-model")
    demo = root / "assets/demo-model"
    if (demo / "model.safetensors").exists():
        report.add("the model's own kind is bf16", Model(demo).kind == "bf16")
        check_defaults(report, binary, "demo", demo, TEXT)
        check(report, binary, "demo", demo, TEXT, [[24], [7, 1, 1, 15], [10] + [1] * 14], control=True)
        for kv in ("fp8", "nvfp4"):
            check(report, binary, "demo", demo, TEXT, [[24], [7, 1, 1, 15]], kv=kv)
    else:
        report.missing("demo-model", "no model.safetensors")
    report.section("tests/fixtures/nemotron")
    for name in ("tiny_mlp_moe", "tiny_latent_moe"):
        folder = root / "tests/fixtures/nemotron" / name
        if not (folder / "model.safetensors").exists():
            report.missing(name, "no model.safetensors")
            continue
        ids = np.ravel(np.load(folder / "ids.npy")).tolist()
        n = int(np.load(folder / "n_prefill.npy"))
        check_defaults(report, binary, name, folder, ids)
        check(report, binary, name, folder, ids, [[len(ids)], [11, 2, 9, 23], [n] + [1] * (len(ids) - n)], control=True)
        for kv in ("bf16", "fp8", "nvfp4"):
            check(report, binary, name, folder, ids, [[len(ids)], [11, 2, 9, 23]], kv=kv)
        reference = np.load(folder / "prefill.npy")
        error = float(np.max(np.abs(Model(folder, kind="f32").logits(ids)[0] - reference)))
        report.add(f"{name}, f32: within 2e-4 of the reference library", error < 2e-4, f"{error:.1e}")
    report.section("tests/fixtures/llama")
    for name in ("tiny_llama", "tiny_qwen2", "tiny_qwen3"):
        folder = root / "tests/fixtures/llama" / name
        ids = np.ravel(np.load(folder / "ids.npy")).tolist()
        check_defaults(report, binary, name, folder, ids)
        check(report, binary, name, folder, ids, [[len(ids)], [11, 2, 9, 23]])
        error = float(np.max(np.abs(Model(folder, kind="f32").logits(ids)[0] - np.load(folder / "prefill.npy"))))
        report.add(f"{name}, f32: within 2e-4 of the reference library", error < 2e-4, f"{error:.1e}")
    report.section("GGUF: tests/fixtures/gguf, fuzz/seeds/gguf")
    gguf.check_blocks(report, root / "tests/fixtures/gguf")
    for path, vocabulary in ((root / "tests/fixtures/gguf/tiny_llama.gguf", 97), (root / "fuzz/seeds/gguf/llama_q4_1.gguf", 4)):
        ids = [i % vocabulary for i in SHORT]
        for kind in ("bf16", "f32"):
            want, state = gguf.GgufLlama(path, kind).logits(ids)
            rust = rust_logits(binary, path, ids, [3, 1, 9, 7], kind, kv="f32")
            compare(report, f"{path.name}, {kind}", rust, want, state)
    report.section("longer texts")
    folder = root / "tests/fixtures/llama/tiny_llama"
    check(report, binary, "300 tokens of Llama", folder, LONG, [[300], [130, 1, 69, 100]], kinds=["bf16"], split=64)
    folder = root / "tests/fixtures/nemotron/tiny_mlp_moe"
    for kind, kv, split in (("bf16", "bf16", 64), ("bf16", "f32", 128), ("f32", "f32", 256), ("f32", "bf16", 64), ("bf16", "nvfp4", 64), ("f32", "fp8", 128)):
        check(report, binary, "300 tokens", folder, LONG, [[300], [130, 1, 69, 100]], kinds=[kind], kv=kv, split=split)
    check_quantized(report, binary, demo)
    report.section("painted models")
    with tempfile.TemporaryDirectory() as scratch:
        for n, (name, (what, dtype, changes, edit)) in enumerate(painted.MODELS.items()):
            folder = painted.write(Path(scratch) / name, 50 + n, dtype, changes, edit)
            check_defaults(report, binary, f"{name}: {what}", folder, SHORT)
            check(report, binary, name, folder, SHORT, [[20], [3, 1, 9, 7]])
            if name == "ties":
                check(report, binary, name, folder, SHORT, [[20], [3, 1, 9, 7]], tie_rule="hash")
            if name in ("odd", "infinite", "scaled"):
                check(report, binary, name, folder, SHORT, [[20], [3, 1, 9, 7]], kv="fp8")
            if name == "scaled":
                check(report, binary, name, folder, SHORT, [[20], [3, 1, 9, 7]], kv="nvfp4")
                plain = [Model(folder, kv=kv).logits(SHORT)[0] for kv in ("bf16", "fp8", "nvfp4")]
                differ = len({y.tobytes() for y in plain}) == 3
                report.add("control: three KV dtypes give three different answers", differ)
        report.section("the operand kind that a model's own data types give")
        for n, (what, (kind, dtype, changes, other)) in enumerate(painted.OWN_KINDS.items()):
            folder = painted.write(Path(scratch) / f"kind{n}", 80, dtype, {"hybrid_override_pattern": "M*-E", **changes}, other=other)
            report.add(f"{what}: {kind}", Model(folder).kind == kind)
            check_defaults(report, binary, what, folder, SHORT)
