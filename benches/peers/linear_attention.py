"""Linear attention and the other layers of `jetblock.nn` against softmax attention: time over the length, error of a swap.

    python benches/peers/linear_attention.py [--threads 1] [--model FOLDER_OR_GGUF --text assets/persuasion.txt]

Needs the jetblock wheel and torch; with --model also transformers, and gguf for a GGUF file. Prints the tables of
benches/results.
"""

import argparse
import pathlib
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

import jetblock
from jetblock import ops
from jetblock.nn import AttentionPatternCache, JetBlock, LinearAttentionKernel, TemporalCoherenceSkipper

HEADS, WIDTH = 8, 64


def seconds(*functions: Callable[[], object], turns: int = 9) -> list[float]:
    """Median time of each, in turns one after another."""
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(turns + 1):
        for function, own in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            if turn:  # the first one packs weights and touches memory
                own.append(time.perf_counter() - start)
    return [statistics.median(own) for own in times]


def crossover() -> None:
    print(f"\nCausal, {HEADS} heads of {WIDTH}, f32, ms:\n")
    print("| tokens | softmax | torch's softmax | linear | delta rule | softmax / linear |\n|---:|---:|---:|---:|---:|---:|")
    linear = LinearAttentionKernel()
    for tokens in (16, 32, 64, 128, 256, 512, 1024, 2048, 4096):
        q, k, v = torch.randn(3, 1, tokens, HEADS, WIDTH).unbind()
        heads_first = [x.transpose(1, 2).contiguous() for x in (q, k, v)]
        g, beta = -torch.rand(1, tokens, HEADS), torch.rand(1, tokens, HEADS)
        own, torchs, fast, delta = seconds(
            lambda: ops.attention(q, k, v),
            lambda: torch.nn.functional.scaled_dot_product_attention(*heads_first, is_causal=True),
            lambda: linear(q, k, v),
            lambda: ops.gated_delta_rule(q, k, v, g, beta, qk_l2norm=True),
        )
        row = " | ".join(f"{t * 1e3:.2f}" for t in (own, torchs, fast, delta))
        print(f"| {tokens} | {row} | {own / fast:.2f} |")


def pattern_cache() -> None:
    print(f"\nA kept pattern, {HEADS} heads of {WIDTH}, all tokens, ms, and the error where q and k moved by 5 %:\n")
    print("| tokens | computed | reused | relative error |\n|---:|---:|---:|---:|")
    for tokens in (256, 1024):
        q, k, v = torch.randn(3, 1, HEADS, tokens, WIDTH).unbind()
        cache = AttentionPatternCache(reuses=1 << 30)
        exact = AttentionPatternCache(reuses=0)
        cache("layer", q, k, v)
        computed, reused = seconds(lambda: exact("layer", q, k, v), lambda: cache("layer", q, k, v))
        moved = [x + 0.05 * torch.randn_like(x) for x in (q, k)]
        want = exact("layer", *moved, v)
        error = (cache("layer", *moved, v) - want).norm() / want.norm()
        print(f"| {tokens} | {computed * 1e3:.2f} | {reused * 1e3:.2f} | {error:.3f} |")


def skipper() -> None:
    print("\nTemporalCoherenceSkipper around a JetBlock (hidden size 256, 64 tokens), 24 frames that drift by 1 % each:\n")
    print("| threshold | rows computed | time, share | relative error |\n|---:|---:|---:|---:|")
    block = JetBlock(256, num_heads=2, head_dim=64)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.06)

    class First(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return block(x)[0]

    frames = [torch.randn(1, 64, 256)]
    for _ in range(23):
        frames.append(frames[-1] + 0.01 * torch.randn(1, 64, 256))
    exact = [First()(x) for x in frames]
    for threshold, skips in ((0.0, 0), (0.02, 1), (0.05, 3), (0.1, 7)):
        skip = TemporalCoherenceSkipper(First(), threshold, max_skips=skips)
        plain, fast = seconds(
            lambda: [First()(x) for x in frames], lambda: (skip.reset(), [skip(x) for x in frames]), turns=3
        )
        skip.reset()
        given = [skip(x) for x in frames]
        errors = [(a - b).norm() / b.norm() for a, b in zip(given, exact, strict=True)]
        print(f"| {threshold} ({skips}) | {skip.computed} of 24 | {fast / plain:.2f} | {max(errors):.3f} |")


def swap(model_folder: str, text_file: str) -> None:
    """Perplexity of a trained model whose softmax attention is replaced, without training."""
    from transformers import AttentionInterface, AutoModelForCausalLM  # noqa: PLC0415 (only here)

    linear = LinearAttentionKernel()
    mix = 0.0

    def attention(module, query, key, value, mask, **options):  # noqa: ANN001, ANN202, ARG001
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        result = (1 - mix) * ops.attention(q, k, v)
        if mix:
            result = result + mix * linear(q, k, v)[0]
        return result, None

    AttentionInterface.register("linear_mix", attention)
    with open(text_file, encoding="utf-8") as file:
        ids = jetblock.load(model_folder).encode(file.read())
    path = pathlib.Path(model_folder)
    place = {"gguf_file": path.name} if path.is_file() else {}
    folder = path.parent if path.is_file() else path
    model = AutoModelForCausalLM.from_pretrained(
        folder, **place, dtype=torch.float32, attn_implementation="linear_mix"
    )
    model.eval()
    windows = [torch.tensor([ids[start : start + 512]]) for start in range(0, len(ids) - 512, 512)]
    print(f"\n{path.name}, {len(windows)} pieces of 512 tokens of {pathlib.Path(text_file).name}, softmax attention replaced:\n")
    print("| linear part | perplexity |\n|---:|---:|")
    for mix in (0.0, 0.05, 0.1, 0.25, 0.5, 1.0):
        losses = [float(model(window, labels=window).loss) for window in windows]
        print(f"| {mix:.2f} | {torch.tensor(losses).mean().exp():.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model")
    parser.add_argument("--text")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    jetblock.set_cpu(arguments.threads)
    print(f"JetBlock {jetblock.__version__}, torch {torch.__version__}, {arguments.threads} thread(s), {jetblock.get_cpu()[1]}")
    with torch.no_grad():
        if arguments.model:
            swap(arguments.model, arguments.text)
        else:
            crossover()
            pattern_cache()
            skipper()


if __name__ == "__main__":
    main()
