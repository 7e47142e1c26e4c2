"""drop_ins.py MODEL [--threads 1,2] [--reps 5]: transformers with JetBlock's drop-ins against transformers alone.

Both models are in one process and take turns, in the checkpoint's dtype: a prompt of 512 tokens, and 32 cached steps of one sequence
after a prompt of 128. Prints the median of seconds for each, by the clock and by processor time, and the ratio.
"""

import argparse
import copy
import statistics
import time

import torch
import transformers

import jetblock
from jetblock import hf, ops

transformers.logging.set_verbosity_error()


def ids(model, length):
    generator = torch.Generator().manual_seed(7)
    return torch.randint(model.config.vocab_size, (1, length), generator=generator)


def prefill(model):
    model(ids(model, 512), use_cache=True, logits_to_keep=1)


def decode(model, cache):
    cache = copy.deepcopy(cache)
    tokens = ids(model, 32)
    start = time.perf_counter(), time.process_time()
    for step in range(32):
        model(tokens[:, step : step + 1], past_key_values=cache, use_cache=True)
    return time.perf_counter() - start[0], time.process_time() - start[1]


def timed(run):
    start = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def works(model):
    """What is measured: name, tokens, and a function that gives seconds by the clock and by processor time."""
    cache = model(ids(model, 128), use_cache=True).past_key_values
    yield "prefill 512", 512, lambda: timed(lambda: prefill(model))
    yield "decode 32 after 128", 32, lambda: decode(model, cache)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--reps", type=int, default=5)
    options = parser.parse_args()
    load = transformers.AutoModelForCausalLM.from_pretrained
    theirs, ours = (load(options.model, dtype="auto").eval() for _ in range(2))
    analysis = hf.HybridLayerDetector.analyze(ours)
    jetblock.optimize(ours)
    print(f"transformers {transformers.__version__}, torch {torch.__version__}, jetblock {jetblock.__version__}")
    print(analysis)
    print(f"\n{'':22}{'threads':>8}{'transformers':>14}{'drop-ins':>10}{'ratio':>7}{'ratio of CPU time':>19}")
    with torch.no_grad():
        for threads in map(int, options.threads.split(",")):
            torch.set_num_threads(threads)
            jetblock.set_cpu(threads)
            for (name, tokens, their_run), (_, _, our_run) in zip(works(theirs), works(ours), strict=True):
                their_run(), our_run()
                pairs = [(their_run(), our_run()) for _ in range(options.reps)]
                wall = [statistics.median(pair[who][0] for pair in pairs) for who in (0, 1)]
                ratio = statistics.median(a[0] / b[0] for a, b in pairs)
                cpu = statistics.median(a[1] / b[1] for a, b in pairs)
                speeds = [tokens / seconds for seconds in wall]
                print(f"{name:22}{threads:8}{speeds[0]:14.1f}{speeds[1]:10.1f}{ratio:7.2f}{cpu:19.2f}", flush=True)
    print(f"\ntokens/s; packed weights kept: {ops.weight_cache_stats()['bytes'] / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
