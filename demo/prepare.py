"""Corpus, tokenizer and token files.

    python prepare.py WORK [--assets DIR]

writes WORK/{train_text,train_chat,eval_text,eval_chat}.npz and DIR/tokenizer.json (+ tokenizer_config.json).
"""
import argparse
import json
import os
import random

import jinja2
import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

import chats
import sources

HERE = os.path.dirname(os.path.abspath(__file__))
ASSETS = os.path.join(HERE, "..", "assets", "demo-model")
VOCAB = 4096
# The low ids are those of the Nemotron 3 releases.
SPECIAL = ["<unk>", "<s>", "</s>"] + [f"<SPECIAL_{i}>" for i in range(3, 10)] + \
    ["<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>"]
VISIBLE = {"<think>", "</think>", "<tool_call>", "</tool_call>"}   # stay in decoded text
SPLIT = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
         r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def train_tokenizer(texts):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=[AddedToken(t, special=True, normalized=False) for t in SPECIAL],
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False, min_frequency=2)
    tok.train_from_iterator(texts, trainer)
    spec = json.loads(tok.to_str())
    for t in spec["added_tokens"]:
        t["special"] = t["content"] not in VISIBLE
    return Tokenizer.from_str(json.dumps(spec, ensure_ascii=False))


def renderer(path):
    env = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    env.filters["tojson"] = lambda v: json.dumps(v, ensure_ascii=False)
    template = env.from_string(open(path).read())
    return lambda c: template.render(messages=c["messages"], tools=c["tools"], add_generation_prompt=False)


def save(path, rows, sources_):
    """Token rows of different lengths as one array plus offsets; `bytes` is the UTF-8 length of the encoded text."""
    ids = np.concatenate([np.asarray(r[0], np.uint16) for r in rows])
    ends = np.cumsum([len(r[0]) for r in rows])
    np.savez(path, ids=ids, ends=ends, bytes=np.array([r[1] for r in rows]),
             source=np.array([sources_.index(r[2]) for r in rows], np.uint8), sources=np.array(sources_))
    return f"{os.path.basename(path)}: {len(rows)} rows, {len(ids)} tokens, {sum(r[1] for r in rows)} bytes"


def main():
    a = argparse.ArgumentParser()
    a.add_argument("work")
    a.add_argument("--assets", default=ASSETS)
    a = a.parse_args()
    os.makedirs(a.work, exist_ok=True)
    docs = sources.documents(a.work)
    talk = chats.chats(docs)
    render = renderer(os.path.join(a.assets, "chat_template.jinja"))
    texts = [(d["text"], d["source"], d["held_out"]) for d in docs]
    texts += [(render(c), "chat-" + c["kind"], c["held_out"]) for c in talk]
    random.Random(7).shuffle(texts)

    tok = train_tokenizer(t for t, _, out in texts if not out)
    tok.save(os.path.join(a.assets, "tokenizer.json"))
    named = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"}
    with open(os.path.join(a.assets, "tokenizer_config.json"), "w") as f:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", **named, "add_bos_token": False, "add_eos_token": False,
                   "clean_up_tokenization_spaces": False, "model_max_length": 4096, "added_tokens_decoder": {
                       str(i): {"content": t, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False,
                                "special": t not in VISIBLE} for i, t in enumerate(SPECIAL)}}, f, indent=2)
        f.write("\n")

    split = {k: [] for k in ("train_text", "train_chat", "eval_text", "eval_chat")}
    for (text, source, out), e in zip(texts, tok.encode_batch([t for t, _, _ in texts], add_special_tokens=False)):
        chat = source.startswith("chat-")
        split[("eval_" if out else "train_") + ("chat" if chat else "text")].append((e.ids if chat else [1, *e.ids, 2], len(text.encode()), source))
    names = sorted({s for _, s, _ in texts})
    for k, rows in split.items():
        print(save(os.path.join(a.work, k + ".npz"), rows, names), flush=True)


if __name__ == "__main__":
    main()
