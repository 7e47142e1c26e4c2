"""Times the operators of deterministic mode beside PyTorch's own on the CPU, on shapes of models people run.

    python benches/peers/deterministic.py [--threads N] [--dtype float32|bfloat16] [--seconds S] [WORD ...]

The two take turns in one process; a time is the median of its turns in processor time of all threads, so a busy machine
slows both alike. Prints a table in Markdown; below 1 JetBlock is faster. WORDs choose cases that contain one of them.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

import jetblock

Case = tuple[str, Callable[[], torch.Tensor]]


def cases(dtype: torch.dtype) -> Iterator[Case]:
    def x(*shape: int) -> torch.Tensor:
        return torch.randn(shape).to(dtype)

    def weight(*shape: int) -> torch.Tensor:
        scale = math.prod(shape[1:]) ** -0.5
        return torch.nn.Parameter((torch.randn(shape) * scale).to(dtype), requires_grad=False)

    def linear(name: str, rows: int, k: int, n: int) -> Case:
        a, w, b = x(rows, k), weight(n, k), weight(n)
        return f"linear {rows} x {k} -> {n}, {name}", lambda: F.linear(a, w, b)

    def conv(name: str, c: int, n: int, size: int, kernel: int = 3, stride: int = 1) -> Case:
        a, w, b = x(1, c, size, size), weight(n, c, kernel, kernel), weight(n)
        label = f"conv2d {c} -> {n}, {kernel} x {kernel}, {size} x {size}, {name}"
        return label, lambda: F.conv2d(a, w, b, stride=stride, padding=kernel // 2)

    def attention(name: str, heads: int, t: int, s: int, k: int, *, causal: bool = False) -> Case:
        q, key, v = x(1, heads, t, k), x(1, heads, s, k), x(1, heads, s, k)
        label = f"attention {heads} heads of {k}, {t} x {s}, {name}"
        return label, lambda: F.scaled_dot_product_attention(q, key, v, is_causal=causal)

    yield linear("Llama 1B", 1, 2048, 8192)
    yield linear("Llama 1B", 256, 2048, 8192)
    yield linear("SD3", 1024, 1536, 6144)
    yield linear("SD 1.5", 4096, 320, 320)
    a, b = x(8, 512, 64), x(8, 64, 512)
    yield "bmm 8 x 512 x 64 x 512, Mamba-2", lambda: torch.bmm(a, b)
    yield conv("SD 1.5", 320, 320, 64)
    yield conv("SD 1.5", 640, 640, 32)
    yield conv("SD 1.5", 1280, 1280, 16)
    yield conv("SD 1.5", 4, 320, 64)
    yield conv("VAE", 512, 512, 32)
    yield conv("VAE", 128, 128, 128)
    yield conv("VAE", 128, 3, 256)
    yield conv("downsampling", 320, 320, 64, stride=2)
    yield conv("PixArt", 4, 1152, 64, kernel=2, stride=2)
    depthwise = x(1, 1792, 512), weight(1792, 1, 4), weight(1792)
    yield "conv1d 1792 channels, depthwise, 512, Mamba-2", lambda: F.conv1d(*depthwise, padding=3, groups=1792)
    transposed = x(1, 128, 64), weight(128, 64, 16), weight(64)
    yield "conv_transpose1d 128 -> 64, stride 8, HiFi-GAN", lambda: F.conv_transpose1d(*transposed, stride=8, padding=4)
    yield attention("SD 1.5", 8, 1024, 1024, 80)
    yield attention("SD 1.5, text", 8, 4096, 77, 40)
    yield attention("SD3", 24, 1178, 1178, 64)
    yield attention("Llama 1B, causal", 32, 512, 512, 64, causal=True)
    yield attention("Llama 1B, a token", 32, 1, 1024, 64)
    norm = x(1024, 1536), weight(1536), weight(1536)
    yield "layer_norm 1024 x 1536, SD3", lambda: F.layer_norm(norm[0], (1536,), norm[1], norm[2])
    rms = x(256, 2048), weight(2048)
    yield "rms_norm 256 x 2048, Llama 1B", lambda: F.rms_norm(rms[0], (2048,), rms[1], 1e-5)
    image = x(1, 320, 64, 64), weight(320), weight(320)
    yield "group_norm 32 of 320 x 64 x 64, SD 1.5", lambda: F.group_norm(image[0], 32, image[1], image[2])
    large = x(1, 128, 256, 256), weight(128), weight(128)
    yield "group_norm 32 of 128 x 256 x 256, VAE", lambda: F.group_norm(large[0], 32, large[1], large[2])
    wide = x(1024, 6144)
    for name, f in {
        "silu": F.silu,
        "gelu": F.gelu,
        "gelu, tanh": lambda t: F.gelu(t, approximate="tanh"),
        "sigmoid": torch.sigmoid,
        "exp": torch.exp,
        "tanh": torch.tanh,
        "softplus": F.softplus,
        "sin": torch.sin,
        "rsqrt": lambda t: torch.rsqrt(t.abs()),
        "pow 2": lambda t: t.pow(2),
    }.items():
        yield f"{name} 1024 x 6144", lambda f=f: f(wide)
    scores = x(8, 1024, 1024)
    yield "softmax 8 x 1024 x 1024", lambda: scores.softmax(-1)
    logits = x(8, 128256)
    yield "log_softmax 8 x 128256, Llama", lambda: logits.log_softmax(-1)
    yield "topk 50 of 8 x 128256, Llama", lambda: logits.topk(50).values
    hidden = x(256, 2048)
    yield "mean of rows 256 x 2048, Llama 1B", lambda: hidden.mean(-1, keepdim=True)
    yield "mean of squares 256 x 2048, Llama 1B", lambda: hidden.pow(2).mean(-1, keepdim=True)
    yield "sum of columns 256 x 2048", lambda: hidden.sum(0)
    steps = x(8, 64, 24, 256)
    yield "cumsum 8 x 64 x 24 x 256, Mamba-2", lambda: steps.cumsum(-1)
    yield "upsample nearest 320 x 64 x 64, SD 1.5", lambda: F.interpolate(image[0], scale_factor=2.0)
    yield "upsample bilinear 320 x 64 x 64", lambda: F.interpolate(image[0], scale_factor=2.0, mode="bilinear")
    yield "avg_pool2d 320 x 64 x 64", lambda: F.avg_pool2d(image[0], 2)


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def compare(run: Callable[[], torch.Tensor], budget: float) -> tuple[float, float]:
    """Medians of PyTorch's seconds and JetBlock's."""

    def held() -> torch.Tensor:
        with jetblock.deterministic():
            return run()

    expected, given = run(), held()
    difference = (expected.float() - given.float()).abs().max() / expected.float().abs().max().clamp_min(1e-30)
    assert difference < (1e-4 if expected.dtype == torch.float32 else 0.02), difference
    once = seconds(run) + seconds(held)
    turns = max(3, min(200, int(budget / max(once, 1e-6))))
    # Short ones many times in a turn: the clock of processor time is coarse.
    times = [(seconds(run), seconds(held)) for _ in range(turns)]
    own, ours = zip(*times, strict=True)
    return statistics.median(own), statistics.median(ours)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each case")
    options = parser.parse_args()
    torch.manual_seed(1)
    torch.set_num_threads(options.threads)
    jetblock.set_cpu(options.threads)
    print(f"{options.dtype}, {options.threads} thread(s), PyTorch {torch.__version__}, JetBlock {jetblock.get_cpu()[1]}\n")
    print("| operator | PyTorch, ms | JetBlock, ms | ratio |\n|---|---:|---:|---:|")
    ratios = []
    with torch.no_grad():
        for name, run in cases(getattr(torch, options.dtype)):
            if options.words and not any(word in name for word in options.words):
                continue
            own, ours = compare(run, options.seconds)
            ratios.append(ours / own)
            print(f"| {name} | {own * 1e3:.3g} | {ours * 1e3:.3g} | {ours / own:.2f} |", flush=True)
    mean = math.exp(statistics.fmean(map(math.log, ratios)))
    print(f"| **geometric mean of {len(ratios)}** | | | **{mean:.2f}** |")


if __name__ == "__main__":
    main()
