"""JetBlock's NVFP4 and FP8 beside comfy-kitchen's eager functions: the same tensors in turns, the same bits.

    python benches/peers/kitchen.py [--rows 1024] [--columns 4096] [--rounds 9] [--threads 1]

Needs comfy-kitchen, torch and JetBlock's Python package. Prints medians of wall time and of CPU time of the process, and
their ratios. Both sides compute with the same number of threads.
"""

import argparse
import statistics
import time
from importlib.metadata import version

import torch
from comfy_kitchen.backends import eager

import jetblock
from jetblock import kitchen


def once(call):
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def equal(left, right):
    pairs = zip(left, right) if isinstance(left, tuple) else [(left, right)]
    return all(torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in pairs)


def compare(name, reference, own, rounds):
    times = {"eager": [], "jetblock": []}
    assert equal(reference(), own()), f"{name}: other bits"
    for _ in range(rounds):
        for side, call in (("eager", reference), ("jetblock", own)):
            _, wall, cpu = once(call)
            times[side].append((wall, cpu))
    (ew, ec), (jw, jc) = ([statistics.median(column) for column in zip(*times[side])] for side in times)
    line = f"{name:34} {1e3 * ew:9.2f} {1e3 * jw:9.2f} {ew / jw:7.1f}x {1e3 * ec:9.2f} {1e3 * jc:9.2f} {ec / jc:7.1f}x"
    print(line, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--columns", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    jetblock.set_cpu(options.threads)
    print(
        f"comfy-kitchen {version('comfy-kitchen')}, torch {torch.__version__}, [{options.rows}, {options.columns}], "
        f"{options.threads} threads, {jetblock.get_cpu()[1]}, medians of {options.rounds} in turns, equal bits checked"
    )
    print(f"{'':34} {'wall ms':>28} {'CPU ms':>28}")
    print(f"{'':34} {'eager':>9} {'jetblock':>9} {'':8} {'eager':>9} {'jetblock':>9}")
    x32 = torch.randn(options.rows, options.columns, generator=torch.Generator().manual_seed(0))
    scale = x32.abs().max() / (448 * 6)
    fp8_scale = x32.abs().max() / 448
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x, name = x32.to(dtype), str(dtype).removeprefix("torch.")
        codes = eager.quantize_nvfp4(x, scale)
        fp8 = eager.quantize_per_tensor_fp8(x, fp8_scale)
        for function, arguments in (
            ("quantize_nvfp4", (x, scale)),
            ("dequantize_nvfp4", (codes[0], scale, codes[1], dtype)),
            ("quantize_per_tensor_fp8", (x, fp8_scale)),
            ("dequantize_per_tensor_fp8", (fp8, fp8_scale, dtype)),
        ):
            reference, own = getattr(eager, function), getattr(kitchen, function)
            compare(
                f"{function} {name}", lambda: reference(*arguments), lambda: own(*arguments), options.rounds
            )


if __name__ == "__main__":
    main()
