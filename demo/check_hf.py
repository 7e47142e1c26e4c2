"""Compare the exported folder with Hugging Face transformers on held-out text, and write the reference logits.

    python check_hf.py WORK [--assets DIR] [--reference DIR]

Both sides use the BF16 weights of model.safetensors upcast to f32. transformers 5.15 to 5.23 clamp dt to time_step_min in
every multi-token pass although the released configs ask for no clamp; the check therefore sets it to 0.
"""
import argparse
import os

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import export
from data import Tokens
from model import Model


def main():
    a = argparse.ArgumentParser()
    a.add_argument("work")
    a.add_argument("--assets", default=export.ASSETS)
    a.add_argument("--reference", help="write ids.npy and logits.npy (48 tokens) here")
    a = a.parse_args()
    torch.set_num_threads(1)
    tok = AutoTokenizer.from_pretrained(a.assets)
    settings = AutoConfig.from_pretrained(a.assets)
    settings.time_step_min = 0.0
    hf = AutoModelForCausalLM.from_pretrained(a.assets, config=settings, dtype=torch.float32).eval()
    c, state = export.read(a.assets)
    mine = Model(c).eval()
    mine.load_state_dict(state)
    print("transformers model:", type(hf).__name__, "parameters", sum(p.numel() for p in hf.parameters()))

    text, chat = Tokens(a.work, "eval_text"), Tokens(a.work, "eval_chat")
    longest = sorted(range(len(text)), key=lambda i: -len(text.row(i)))[:4]
    talks = [i for i in range(len(chat)) if len(chat.row(i)) >= 64][:6]
    cases = [text.row(i)[:n] for i, n in zip(longest, (64, 65, 200, 333))] + [chat.row(i)[:300] for i in talks]
    worst = agree = total = 0
    for ids in cases:
        x = torch.from_numpy(ids)[None]
        with torch.no_grad():
            p, q = hf(x, use_cache=False).logits[0], mine(x)[0]
        d = (p - q).abs().max().item()
        worst, agree, total = max(worst, d), agree + (p.argmax(-1) == q.argmax(-1)).sum().item(), total + len(ids)
        print(f"{len(ids):4d} tokens  max abs difference {d:.2e}  largest logit {p.abs().max().item():.2f}")
    print(f"worst {worst:.2e}, same top token at {agree} of {total} positions")

    messages = [{"role": "user", "content": "Quote Genesis 1:1"}]
    on = tok.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    off = tok.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, enable_thinking=False)
    assert on.endswith("<|im_start|>assistant\n<think>\n") and off.endswith("<|im_start|>assistant\n<think></think>"), (on, off)
    ids = tok(on, add_special_tokens=False)["input_ids"]
    assert ids[0] == 10 and 12 in ids and tok.decode(ids) == on, ids
    x = torch.tensor([ids])
    with torch.no_grad():
        prefill = hf(x, use_cache=False).logits[0]
        state, steps = None, []
        for t in range(x.shape[1]):
            o = hf(x[:, t:t + 1], past_key_values=state, use_cache=True)
            state = o.past_key_values
            steps.append(o.logits[0, 0])
    print(f"transformers, one token at a time against one pass: {(torch.stack(steps) - prefill).abs().max().item():.2e}")
    assert worst <= 1e-3, worst

    if a.reference:
        os.makedirs(a.reference, exist_ok=True)
        ids = np.concatenate([chat.row(talks[0])[:24], text.row(longest[0])[:24]])
        with torch.no_grad():
            logits = hf(torch.from_numpy(ids)[None], use_cache=False).logits[0].numpy()
        np.save(os.path.join(a.reference, "ids.npy"), ids.astype(np.int32))
        np.save(os.path.join(a.reference, "logits.npy"), logits.astype(np.float32))
        print("reference:", logits.shape, tok.decode(ids.tolist())[:200].replace("\n", "\\n"))


if __name__ == "__main__":
    main()
