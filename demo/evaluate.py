"""Held-out loss of the exported BF16 weights in f32: nats per token and bits per byte, by source.

    python evaluate.py WORK [--assets DIR] [--checkpoint WORK/model.pt]

--checkpoint also evaluates the f32 training weights, which shows what rounding to BF16 costs.
"""
import argparse
import collections
import math

import torch

import export
from data import Tokens, windows
from model import Model

LENGTH = 512


@torch.no_grad()
def losses(model, tokens):
    """source -> [nats, tokens, bytes]; windows of LENGTH tokens, each from an empty state"""
    out = collections.defaultdict(lambda: [0.0, 0, 0])
    for i in range(len(tokens)):
        out[tokens.sources[tokens.source[i]]][2] += int(tokens.bytes[i])
    for i, row in windows(tokens, LENGTH):
        s = out[tokens.sources[tokens.source[i]]]
        s[0] += model.loss(torch.from_numpy(row)[None]).item()
        s[1] += len(row) - 1
    return out


def report(name, out):
    for source, (nats, n, size) in [*sorted(out.items()), ("total", [sum(x) for x in zip(*out.values())])]:
        print(f"{name:10s} {source:14s} {nats / n:7.4f} nats/token  {nats / math.log(2) / size:7.4f} bits/byte  ({n} tokens, {size} bytes)", flush=True)


def main():
    a = argparse.ArgumentParser()
    a.add_argument("work")
    a.add_argument("--assets", default=export.ASSETS)
    a.add_argument("--checkpoint")
    a = a.parse_args()
    torch.set_num_threads(1)
    c, state = export.read(a.assets)
    models = [("bf16", Model(c), state)]
    if a.checkpoint:
        models.append(("f32", Model(c), torch.load(a.checkpoint, map_location="cpu", weights_only=True)["model"]))
    for name, model, weights in models:
        model.load_state_dict(weights)
        for part in ("eval_text", "eval_chat"):
            report(f"{name} {part[5:]}", losses(model.eval(), Tokens(a.work, part)))


if __name__ == "__main__":
    main()
