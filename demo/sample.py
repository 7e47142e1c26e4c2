"""Sample from the exported folder with our own module (f32, recomputing the whole prefix; slow but simple).

    python sample.py [--assets DIR] [--seed 1] [--temperature 0.7] [--top-p 0.95] [PROMPT ...]

A prompt that starts with "text:" is continued as plain text, anything else is a chat message.
"""
import argparse

import torch
from transformers import AutoTokenizer

import export
from model import Model

PROMPTS = ["text:In the beginning", "text:It is a truth universally acknowledged, that", "text:The LORD is my shepherd;",
           "Hello!", "Who are you?", "Quote Genesis 1:1", "Quote Psalms 23:1.", "Quote John 11:35", "Define love.", "Define politics.",
           "What is kernel in hacker jargon?", "Continue: Elizabeth looked at Mr. Darcy, and smiled.", "Who wrote this: \"Emma was not sorry to have such an opportunity.\"",
           "What is 3 plus 4?", "Write a few lines in the style of the King James Bible."]


@torch.no_grad()
def generate(model, ids, limit, temperature, top_p, gen):
    ids, out = list(ids), []
    for _ in range(limit):
        logits = model.lm_head(model.hidden(torch.tensor([ids]))[0, -1])
        if temperature == 0:
            t = int(logits.argmax())
        else:
            p, order = (logits / temperature).softmax(-1).sort(descending=True)
            p[(p.cumsum(-1) - p) > top_p] = 0
            t = int(order[torch.multinomial(p, 1, generator=gen)])
        if t in (2, 11):
            break
        ids.append(t)
        out.append(t)
    return out


def main():
    a = argparse.ArgumentParser()
    a.add_argument("prompts", nargs="*")
    a.add_argument("--assets", default=export.ASSETS)
    a.add_argument("--seed", type=int, default=1)
    a.add_argument("--tokens", type=int, default=90)
    a.add_argument("--temperature", type=float, default=0.7)
    a.add_argument("--top-p", type=float, default=0.95)
    a.add_argument("--no-thinking", action="store_true")
    a = a.parse_args()
    torch.set_num_threads(1)
    tok = AutoTokenizer.from_pretrained(a.assets)
    c, state = export.read(a.assets)
    model = Model(c).eval()
    model.load_state_dict(state)
    gen = torch.Generator().manual_seed(a.seed)
    for prompt in a.prompts or PROMPTS:
        if prompt.startswith("text:"):
            prompt = prompt[5:]
            ids = [1] + tok(prompt, add_special_tokens=False)["input_ids"]
        else:
            ids = tok(tok.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False,
                                              enable_thinking=not a.no_thinking), add_special_tokens=False)["input_ids"]
        text = tok.decode(generate(model, ids, a.tokens, a.temperature, a.top_p, gen))
        print(f"### {prompt}\n{text}\n", flush=True)


if __name__ == "__main__":
    main()
