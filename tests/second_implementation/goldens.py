"""Compares this implementation with the golden vectors, bit for bit, each file with a wrong variant that must differ."""

import json

import numpy as np

from . import arith, functions, ops, paint, quant, reduce, rng, sampling, torch_ops
from .arith import F32, U32, bits, from_bits

NUMERICS = "crates/jetblock-numerics/golden/v1"
OPS = "crates/jetblock-ops/golden/v1"


def load(path):
    data = json.loads(path.read_text())
    if data["numerics_version"] != 1:
        raise ValueError(f"{path.name}: version {data['numerics_version']}")
    return data["entries"]


def pattern_list(words, dtype=U32):
    return np.array([int(w, 16) for w in words], dtype)


def describe(spec):
    if isinstance(spec, list):
        return f"{len(spec)} values"
    return f"{spec['paint']} seed {spec['seed']}" + (f" times 2^{spec['scale']}" if spec["scale"] else "") + f", {spec['count']} values"


def count_different(got, want):
    return "" if np.array_equal(got, want) else f"{int((got != want).sum())} of {want.size} differ"


def check_functions(report, entries):
    wrong = 0
    for e in entries:
        x = paint.golden_input(e["input"])
        y = getattr(functions, e["function"])(x)
        name = f"{e['function']}: {describe(e['input'])}"
        if "digest" in e:
            got = f"{paint.golden_digest(y):016x}"
            report.add(name, got == e["digest"], "digest")
        else:
            want = pattern_list(e["output"])
            report.add(name, np.array_equal(bits(y), want), count_different(bits(y), want))
        if e["function"] in ("exp", "log", "tanh") and "digest" in e:
            libm = arith.canonical(getattr(np, e["function"])(x.astype(np.float64)).astype(F32))
            wrong += paint.golden_digest(libm) == int(e["digest"], 16)
    report.add("control: correctly rounded exp, log and tanh differ", wrong == 0)


def check_paint(report, entries):
    for e in entries:
        y = paint.PAINTS[e["paint"]](e["seed"], np.array(e["indices"], U32))
        want = pattern_list(e["output"])
        report.add(f"{e['paint']} seed {e['seed']}", np.array_equal(bits(y), want), count_different(bits(y), want))


def check_pow(report, entries):
    for e in entries:
        x, y = paint.golden_input(e["x"]), paint.golden_input(e["y"])
        if e.get("base") == "absolute values":
            x = np.abs(x)
        want = pattern_list(e["output"])
        got = bits(functions.pow(x, y))
        what = describe(e["x"]) if isinstance(e["x"], dict) else "x = " + " ".join(e["x"])
        report.add(f"pow: {what}", np.array_equal(got, want), count_different(got, want))


def _multiply_then_add(a, b):
    total = F32(0)
    for start in range(0, len(a), 256):
        p = F32(0)
        for product in a[start : start + 256] * b[start : start + 256]:
            p = p + product
        total = total + p
    return total


def _ascending(a):
    total = F32(0)
    for x in a:
        total = total + x
    return total


REDUCTIONS = {
    "dot_f32": lambda a, b: reduce.dot_long(a, b, "f32"),
    "dot32": lambda a, b: reduce.dot_long(a, b, "f32", block=32),
    "dot_bf16": lambda a, b: reduce.dot_long(arith.operand(a), arith.operand(b), "bf16"),
    "sum": lambda a, b: reduce.sum_last(a),
    "sum_of_squares": lambda a, b: reduce.sum_of_squares(a),
    "max": lambda a, b: arith.max_last(a),
    "cumsum_last": lambda a, b: reduce.cumsum(a)[-1] if len(a) else F32(0),
}
WRONG = {
    "dot_f32": ("product rounded before the sum", _multiply_then_add),
    "dot32": ("blocks of 256", REDUCTIONS["dot_f32"]),
    "dot_bf16": ("even element of a pair first", lambda a, b: reduce.dot_long(arith.operand(a), arith.operand(b), "bf16", odd_first=False)),
    "sum": ("one ascending chain", lambda a, b: _ascending(a)),
    "cumsum_last": ("one ascending chain", lambda a, b: _ascending(a)),
}


def check_reduce(report, entries):
    for e in entries:
        name, lengths = e["function"], e["lengths"]
        painted = paint.PAINTS[e.get("paint", "uniform")]
        a, b = (painted(seed, np.arange(max(lengths), dtype=U32)) for seed in e["seeds"])
        want = pattern_list(e["output"])
        run = lambda f, ns: np.array([bits(arith.canonical(f(a[:n], b[:n]))) for n in ns], U32)
        got = run(REDUCTIONS[name], lengths)
        name_of_input = f"{name} of {painted.__name__}"
        report.add(f"{name_of_input}: {len(lengths)} lengths up to {max(lengths)}", np.array_equal(got, want), count_different(got, want))
        if name in WRONG:
            what, f = WRONG[name]
            short = [n for n in lengths if n < 50000]
            different = int((run(f, short) != want[: len(short)]).sum())
            report.add(f"control: {name_of_input}, {what}, differs", different > 0, f"at {different} of {len(short)} lengths")


def check_rng(report, entries):
    known = rng.philox((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0))
    report.add("known answer", known == (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1))
    for e in entries:
        if e["function"] == "words":
            at = (int(e["seed"], 16), e["position"], e["sample"], e["domain"])
            same = list(rng.words(*at)) == [int(w, 16) for w in e["words"]]
            report.add(f"words: seed {e['seed']} position {e['position']}", same and rng.draw(*at) == int(e["uniform_u64"], 16))
        else:
            got = [f"{rng.tie_hash(i // 4, 1000 * i, i):08x}" for i in range(len(e["output"]))]
            report.add(f"tie_hash: {e['of']}", got == e["output"])
    report.add("control: nine rounds differ", rng.philox((0, 0, 0, 0), (0, 0), 9) != rng.philox((0, 0, 0, 0), (0, 0)))


def check_round(report, entries):
    for e in entries:
        name = e["function"]
        if name == "f16_to_f32":
            got, want = bits(arith.f16_to_f32(pattern_list(e["input"], np.uint16))), pattern_list(e["output"])
        else:
            f = {"f32_to_bf16": arith.f32_to_bf16, "bf16_operand": arith.operand_bf16, "f32_to_f16": arith.f32_to_f16}[name]
            got, want = f(from_bits(pattern_list(e["input"]))), pattern_list(e["output"], np.uint16)
        report.add(f"{name}: {len(want)} values", np.array_equal(got, want), count_different(got, want))
        if name == "f32_to_bf16":
            cut = (pattern_list(e["input"]) >> 16).astype(np.uint16)
            report.add("control: f32_to_bf16 by cutting differs", not np.array_equal(cut, want))


def f32_of_code(code):
    return code.astype(F32)


BLOCK_PAINTS = {
    "uniform(20, i) * uniform(21, n)": lambda n, i: paint.uniform(20, i) * paint.uniform(21, n),
    "uniform(22, i) * wide(23, n)": lambda n, i: paint.uniform(22, i) * paint.wide(23, n),
    "raw(24, i)": lambda n, i: paint.raw(24, i),
}


def _block_digest(e, floor=False):
    """Of the blocks' bytes; `floor` cuts elements toward zero, for a control."""
    tensor_scale, total = from_bits(int(e["tensor_scale"], 16)), 0
    for first in range(0, e["blocks"], 1 << 16):
        n = np.arange(first, min(first + (1 << 16), e["blocks"]), dtype=U32)[:, None]
        x = BLOCK_PAINTS[e["of"]](n, n * U32(16) + np.arange(16, dtype=U32))
        if floor:
            x = from_bits(bits(x) & U32(0xFFE00000))
        scale, codes = quant.nvfp4_kv(x) if e["function"] == "nvfp4_kv" else quant.nvfp4_weights(x, tensor_scale)
        data = np.concatenate([scale[:, None], quant.pack(codes)], axis=1).ravel().astype(np.uint64)
        at = 9 * first + np.arange(len(data), dtype=np.uint64)
        total += int((data * (np.uint64(2) * at + np.uint64(1))).sum(dtype=np.uint64))
    return f"{total % 2**64:016x}"


def check_nvfp4(report, entries):
    for e in entries:
        name = e["function"]
        if "digest" in e:
            report.add(f"{name}: {e['blocks']} blocks {e['of']}", _block_digest(e) == e["digest"], "digest")
            if e["of"] == "raw(24, i)":
                report.add(f"control: {name} of cut inputs differs", _block_digest(e, floor=True) != e["digest"])
        elif name.endswith("_value"):
            got, want = bits(getattr(quant, name)(np.arange(len(e["output"])))), pattern_list(e["output"])
            report.add(f"{name}: {e['of']}", np.array_equal(got, want), count_different(got, want))
        else:
            got, want = getattr(quant, name)(from_bits(pattern_list(e["input"]))), pattern_list(e["output"], np.uint8)
            report.add(f"{name}: {len(want)} values", np.array_equal(got, want), count_different(got, want))


CODES = {
    "E2m1": (15, lambda c: quant.e2m1_value(c)),
    "E4m3": (255, lambda c: quant.e4m3_value(np.where(c & 0x7F == 0x7F, np.uint8(8), c))),
    "U4": (15, f32_of_code),
    "U4Less8": (15, lambda c: f32_of_code(c) - F32(8)),
    "I8": (255, lambda c: c.view(np.int8).astype(F32)),
}


def _scales(kind, seed, shape):
    i = np.arange(np.prod(shape), dtype=U32).reshape(shape)
    if kind == "E4m3":
        code = (paint.hash32(seed, i) & U32(255)).astype(np.uint8)
        return quant.e4m3_value(np.where(code & 0x7F == 0x7F, np.uint8(0), code))
    x = paint.uniform(seed, i)
    return arith.f16_to_f32(arith.f32_to_f16(x)) if kind == "F16" else x


def quantized_linear_digest(e, folded=False):
    m, n, k, p = e["m"], e["n"], e["k"], e["paint"]
    mask, value = CODES[e["codes"]]
    codes = value((paint.hash32(p, np.arange(n * k, dtype=U32).reshape(n, k)) & U32(mask)).astype(np.uint8))
    shape = (n, k // e["block"]) if e["block"] else None
    scales = _scales(e["scale"], p + 1, shape) if e["scale"] else None
    offsets = _scales(e["offset"], p + 2, shape) if e["offset"] else None
    factors = paint.uniform(p + 5, np.arange(n, dtype=U32))
    x = (paint.uniform(p + 7, np.arange(m * k, dtype=U32)) * F32(2.0 ** e["x_scale"])).reshape(m, k)
    y = ops.QuantizedLinear(codes, e["kind"], factors, scales, offsets, folded=folded)(x)
    return f"{paint.golden_digest(y.ravel()):016x}"


def check_quantized_linear(report, entries):
    told = 0
    for e in entries:
        form = "no scales" if not e["block"] else f"{e['scale']} scales of {e['block']}" + (f", {e['offset']} offsets" if e["offset"] else "")
        name = f"{e['codes']}, {form}, {e['kind']} kind, [{e['m']}, {e['k']}] x [{e['n']}, {e['k']}]"
        report.add(name, quantized_linear_digest(e) == e["digest"], "digest")
        told += bool(e["scale"] and not e["offset"] and quantized_linear_digest(e, folded=True) != e["digest"])
    report.add("control: scales multiplied into weights differ", told > 3, f"in {told} formats")


def _settings(params):
    values = {}
    for name, value in params.items():
        if name == "logit_bias":
            values[name] = {i: float(from_bits(int(b, 16))) for i, b in value}
        else:
            values[name] = value if name == "top_k" else float(from_bits(int(value, 16)))
    return sampling.Settings(**values)


def check_sampling(report, entries):
    moved = 0
    for e in entries:
        logits, s = paint.golden_input(e["logits"]), _settings(e["params"])
        at = (e["seed"], e["position"], e["sample_index"], e["prompt_ids"], e["output_ids"])
        got = sampling.sample(logits, s, *at)
        what = " ".join(f"{name} {value:g}" if not isinstance(value, dict) else name for name, value in vars(s).items() if name in e["params"])
        name = f"{e['logits']['count']} logits, seed {e['seed']}, position {e['position']}, sample {e['sample_index']}" + (f", {what}" if what else "")
        report.add(name, got == e["id"], f"token {got}" if got == e["id"] else f"token {got}, not {e['id']}")
        moved += sampling.sample(logits, s, e["seed"], e["position"] + 1, *at[2:]) != e["id"]
    report.add("control: one position further differs", moved > len(entries) // 2, f"for {moved} of {len(entries)}")


def _painted(seed, shape):
    return paint.uniform(seed, np.arange(np.prod(shape), dtype=U32)).reshape(shape)


def torch_conv(e, wrong=False):
    c, n, g = e["in_channels"], e["out_channels"], e["groups"]
    shape = (c, n // g) if "output_padding" in e else (n, c // g)
    x, weight, bias = _painted(e["seed"], (e["batch"], c, *e["input_size"])), _painted(e["seed"] + 1, (*shape, *e["kernel_size"])), _painted(e["seed"] + 2, (n,))
    return torch_ops.conv(x, weight, bias, e["kind"], e["stride"], e["padding"], e["dilation"], g, e.get("output_padding"), tap_fastest=wrong)


def torch_matmul(e, wrong=False):
    b, m, k, n = e["shape"]
    return torch_ops.matmul(_painted(e["seed"], (b, m, k)), _painted(e["seed"] + 1, (b, k, n)), e["kind"], odd_first=not wrong)


def torch_layer_norm(e, wrong=False):
    n, seed = e["row_len"], e["seed"]
    return torch_ops.layer_norm(_painted(seed, (e["rows"], n)), _painted(seed + 1, (n,)), _painted(seed + 2, (n,)), e["eps"], weight_first=wrong)


def torch_group_norm(e, wrong=False):
    c, seed = e["channels"], e["seed"]
    x = _painted(seed, (e["batch"], c, e["positions"]))
    return torch_ops.group_norm(x, e["groups"], _painted(seed + 1, (c,)), _painted(seed + 2, (c,)), e["eps"], one_pass=wrong)


def _wide(e):
    shape = (e["outer"], e["len"], e["inner"])
    return paint.wide(e["seed"], np.arange(np.prod(shape), dtype=U32)).reshape(shape)


def torch_reduce(e, wrong=False):
    return torch_ops.reduction(e["reduction"], _wide(e), e.get("correction", 0), ascending=wrong)


def torch_cumsum(e, wrong=False):
    return torch_ops.cumsum(_wide(e), block=1 << 20 if wrong else 256)


def _steps(e):
    """Few values, so that there are ties."""
    return np.trunc(_painted(e["seed"], (e["rows"], e["row_len"])) * F32(8))


def torch_argmax(e, wrong=False):
    return torch_ops.argmax(_steps(e), e["largest"], last=wrong).astype(F32)


def torch_sort(e, wrong=False):
    values, indices = torch_ops.sort(_steps(e), e["k"], e["descending"], stable=not wrong)
    return np.concatenate([values.ravel(), indices.ravel().astype(F32)])


def torch_sdpa(e, wrong=False):
    b, h, kvh, t, s, k, v = e["shape"]
    seed, shape, bias = e["seed"], (b, h, t, s), None
    q, key, value = _painted(seed, (b, h, t, k)), _painted(seed + 1, (b, kvh, s, k)), _painted(seed + 2, (b, kvh, s, v))
    admitted = np.ones(shape, bool)
    if e["mask"] == "causal":
        admitted &= np.arange(s) <= np.arange(t)[:, None]
    if e["mask"] == "bool":
        i = np.arange(b * h * t * s, dtype=U32)
        row, j = i // s, i % s
        admitted = ((row % 11 != 3) & ~((row % 7 == 2) & (j >= 256)) & (paint.hash32(9, i) % 3 != 0)).reshape(shape)
    if e["mask"] == "bias":
        bias = _painted(seed + 3, shape)
    return torch_ops.sdpa(q, key, value, e["kind"], admitted, bias, whole=wrong)


def torch_pow(e, wrong=False):
    return torch_ops.pow_scalar(_painted(e["seed"], (e["count"],)), e["exponent"], general=wrong)


def torch_randn(e, wrong=False):
    return torch_ops.randn(e["seed_high"] << 32 | e["seed"], e["image"], e["step"], e["size"], rows_first=wrong)


def torch_similarity(e, wrong=False):
    left, right = (_painted(e["seed"] + i, e["size"]) for i in range(2))
    return torch_ops.similarity(left, right, columns_first=wrong).view(np.float32)


def torch_upsample(e, wrong=False):
    x = _painted(e["seed"], (e["images"], *e["input_size"]))
    return torch_ops.upsample(x, e["output_size"], e["mode"], e["align_corners"], e["scale_factor"], depth_first=wrong)


def torch_pool(e, wrong=False):
    shape = (e["images"], *e["input_size"])
    x = paint.wide(e["seed"], np.arange(np.prod(shape), dtype=U32)).reshape(shape)
    windows = () if "kernel_size" not in e else (e["kernel_size"], e["stride"], e["padding"], e["ceil_mode"], e.get("count_include_pad", 0))
    return torch_ops.pool(x, e["pooling"], e.get("output_size"), *windows, chain=wrong)


# Each gives the output of an entry; `wrong` is another order or formula, for the control.
TORCH = {
    "conv": torch_conv,
    "matmul": torch_matmul,
    "layer_norm": torch_layer_norm,
    "group_norm": torch_group_norm,
    "reduce": torch_reduce,
    "cumsum": torch_cumsum,
    "argmax": torch_argmax,
    "sort": torch_sort,
    "sdpa": torch_sdpa,
    "pow": torch_pow,
    "randn": torch_randn,
    "similarity": torch_similarity,
    "upsample": torch_upsample,
    "pool": torch_pool,
}


def check_torch(report, entries):
    told = {}
    for e in entries:
        digest = lambda wrong: f"{paint.golden_digest(np.ravel(TORCH[e['op']](e, wrong))):016x}"
        what = " ".join(str(v) for k, v in e.items() if k not in ("op", "seed", "digest"))
        report.add(f"{e['op']}: {what}", digest(False) == e["digest"], "digest")
        told[e["op"]] = told.get(e["op"], 0) + (digest(True) != e["digest"])
    for op, count in told.items():
        report.add(f"control: {op} in another way differs", count > 0, f"in {count} entries")


CHECKS = {
    f"{NUMERICS}/functions.json": check_functions,
    f"{NUMERICS}/nvfp4.json": check_nvfp4,
    f"{NUMERICS}/paint.json": check_paint,
    f"{NUMERICS}/pow.json": check_pow,
    f"{NUMERICS}/reduce.json": check_reduce,
    f"{NUMERICS}/rng.json": check_rng,
    f"{NUMERICS}/round.json": check_round,
    f"{OPS}/quantized_linear.json": check_quantized_linear,
    f"{OPS}/sampling.json": check_sampling,
    f"{OPS}/torch.json": check_torch,
}


def run(report, root):
    for name, check in CHECKS.items():
        report.section(name)
        if (root / name).exists():
            check(report, load(root / name))
        else:
            report.missing(name, "no such file")
    for path in sorted(root.glob("crates/*/golden/v1/*.json")):
        name = path.relative_to(root).as_posix()
        if name not in CHECKS:
            report.section(name)
            report.missing(name, "this implementation has no check for that file")
