"""transformers_worker.py MODEL: times Hugging Face transformers for `cargo xtask bench model`.

Reads requests, one JSON object a line, and answers each with the seconds its work took:
    {"prefill": 512, "threads": 1}                            one prompt, logits of the last token
    {"decode": 32, "batch": 8, "context": 128, "threads": 1}  32 cached steps of 8 sequences, after prompts of 128
The model runs in bf16 with the library's own choice of attention and experts. The first line it writes is its version.
"""

import copy
import json
import sys
import time

import torch
import transformers
from transformers import NemotronHForCausalLM

# Answers go to the real standard output; whatever a library prints goes to standard error.
answers, sys.stdout = sys.stdout, sys.stderr
transformers.logging.set_verbosity_error()


def answer(**fields):
    print(json.dumps(fields), file=answers, flush=True)


class Worker:
    def __init__(self, folder):
        self.model = NemotronHForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        self.generator = torch.Generator().manual_seed(7)
        self.prompted = {}  # (batch, context): cache after the prompts

    def ids(self, batch, length):
        return torch.randint(self.model.config.vocab_size, (batch, length), generator=self.generator)

    def forward(self, ids, cache=None):
        return self.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)

    def prefill(self, tokens):
        ids = self.ids(1, tokens)
        start = time.perf_counter()
        self.forward(ids)
        return time.perf_counter() - start

    def decode(self, steps, batch, context):
        if (batch, context) not in self.prompted:
            self.prompted[batch, context] = self.forward(self.ids(batch, context)).past_key_values
        cache = copy.deepcopy(self.prompted[batch, context])
        ids = self.ids(batch, steps)
        start = time.perf_counter()
        for step in range(steps):
            cache = self.forward(ids[:, step : step + 1], cache).past_key_values
        return time.perf_counter() - start

    def seconds(self, request):
        torch.set_num_threads(request["threads"])
        if "prefill" in request:
            return self.prefill(request["prefill"])
        return self.decode(request["decode"], request["batch"], request["context"])


with torch.inference_mode():
    worker = Worker(sys.argv[1])
    answer(version=f"{transformers.__version__}, torch {torch.__version__}")
    for line in sys.stdin:
        answer(seconds=worker.seconds(json.loads(line)))
