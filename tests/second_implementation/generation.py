"""Section 11 end to end: tokens that `jetblock generate` drew or forced, against the logits of this side."""

import json
import subprocess

from . import sampling
from .model import Model

END_THINK = 13                             # `</think>` of the demo model's tokenizer
NEWLINE, BLANK_LINE = "Ċ", "ĊĊ"            # byte-level BPE writes "\n" so


def newline_ids(vocabulary):
    return {i for token, i in vocabulary.items() if token.endswith(NEWLINE)}


def forced(output, budget, grace, closing, newlines):
    """The token that a thinking budget puts after this output, None where it is drawn."""
    n = len(output)
    starts = [s for s in range(budget, min(n, budget + grace) + 1)
              if s == budget + grace or (s > 0 and output[s - 1] in newlines)]
    if not starts or END_THINK in output[: starts[0]]:
        return None
    s = starts[0]
    k = max(k for k in range(min(len(closing), s) + 1) if output[s - k : s] == closing[:k])
    return closing[k + n - s] if k + n - s < len(closing) else None


def generate(binary, *options):
    command = [str(binary), "generate", "--json", "--quiet", "--chat", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
    return json.loads(done.stdout)


def check(report, model, binary, newlines, closing, name, settings, question, budget=None, wants=None):
    """`settings`: those of the sampler. `budget`: tokens and grace. `wants`: how closing must have begun, or the example is no test."""
    seed, count = 7, 24
    options = ["--temperature", settings.temperature, "--top-p", settings.top_p, "--seed", seed, "--max-tokens", count]
    options += ["--repetition-penalty", settings.repetition_penalty, "-p", question]
    options += ["--thinking-budget", budget[0], "--thinking-grace", budget[1]] if budget else []
    told = generate(binary, *map(str, options))
    prompt, sample = told["prompt_tokens"], told["samples"][0]
    output = sample["tokens"]
    logits, _ = model.logits(prompt + output[:-1])
    wrong, told_forced = [], []
    for n, token in enumerate(output):
        want = forced(output[:n], *budget, closing, newlines) if budget else None
        if want is not None:
            told_forced.append(n)
        else:
            at = len(prompt) + n
            want = sampling.sample(logits[at - 1], settings, seed, at, prompt=prompt, output=output[:n])
        if token != want:
            wrong.append(f"token {n} is {token}, not {want}")
    if sample.get("forced", []) != told_forced:
        wrong.append(f"told as forced: {sample.get('forced')}, not {told_forced}")
    if wants and not wants(output, told_forced):
        wrong.append(f"the example shows nothing: forced {told_forced} of {output}")
    report.add(name, not wrong, ", ".join(wrong) or f"{len(output)} tokens, {len(told_forced)} forced")


def run(report, root, binary):
    report.section("generation")
    folder = root / "assets/demo-model"
    model = Model(folder, kv="bf16")
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    newlines = newline_ids(vocabulary)
    closing = [vocabulary[BLANK_LINE], END_THINK]
    plain = sampling.Settings(temperature=0.7, top_p=0.95)
    penalised = sampling.Settings(temperature=0.9, repetition_penalty=1.25)
    greedy = sampling.Settings(temperature=0)
    one = lambda *a, **k: check(report, model, binary, newlines, closing, *a, **k)
    one("chat", plain, "Who are you?")
    one("chat, repetition penalty", penalised, "Define love.")
    one("budget 4, grace 2: closed after the grace", plain, "Who are you?", (4, 2), lambda out, f: f == [6, 7])
    one("budget 2, grace 20: closed at a newline", greedy, "Who are you?", (2, 20),
        lambda out, f: len(f) in (1, 2) and f[0] > 2 and f[0] < 22 and out[f[0] - 1] in newlines)
    one("budget 0, grace 0", penalised, "Who are you?", (0, 0), lambda out, f: f == [0, 1])
    one("budget 90: not reached", plain, "Who are you?", (90, 9), lambda out, f: not f)
