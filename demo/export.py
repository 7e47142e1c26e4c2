"""Write a trained model as a Hugging Face folder: config.json, generation_config.json, model.safetensors (BF16).

    python export.py WORK/model.pt [--assets DIR]
"""
import argparse
import json
import os

import torch
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
ASSETS = os.path.join(HERE, "..", "assets", "demo-model")
KINDS = {"M": "mamba", "E": "moe", "*": "attention", "-": "mlp"}


def tensors(state):
    """Our names -> released names; experts one by one; BF16, but the correction bias F32."""
    out = {}
    for name, t in state.items():
        full = name if name.startswith("lm_head") else "backbone." + name
        if name.endswith(("experts_up", "experts_down")):
            stem, which = full.rsplit("experts_", 1)
            for e in range(t.shape[0]):
                out[f"{stem}experts.{e}.{which}_proj.weight"] = t[e].bfloat16().contiguous()
        elif name.endswith("e_score_correction_bias"):
            out[full] = t.float().contiguous()
        else:
            out[full] = t.bfloat16().contiguous()
    return out


def write(folder, config, state):
    os.makedirs(folder, exist_ok=True)
    c = {k: v for k, v in config.items() if k != "train_block"}
    for name, content in (("config.json", c), ("generation_config.json", {
            "bos_token_id": 1, "eos_token_id": [2, 11], "pad_token_id": 0, "do_sample": True, "temperature": 0.7, "top_p": 0.95})):
        with open(os.path.join(folder, name), "w") as f:
            json.dump(content, f, indent=2)
            f.write("\n")
    part = os.path.join(folder, "model.safetensors.part")
    save_file(tensors(state), part, metadata={"format": "pt"})
    os.replace(part, os.path.join(folder, "model.safetensors"))


def read(folder):
    """The inverse: config and a state dictionary in f32 with stacked experts, from the exported BF16 file."""
    from safetensors.torch import load_file
    with open(os.path.join(folder, "config.json")) as f:
        c = json.load(f)
    raw = {k.removeprefix("backbone."): t.float() for k, t in load_file(os.path.join(folder, "model.safetensors")).items()}
    state = {}
    for k, t in raw.items():
        if ".experts." in k:
            stem, rest = k.split("experts.")
            e, which, _ = rest.split(".", 2)
            if e == "0":
                state[f"{stem}experts_{which.removesuffix('_proj')}"] = torch.stack(
                    [raw[f"{stem}experts.{j}.{which}.weight"] for j in range(c["n_routed_experts"])])
        else:
            state[k] = t
    return c, state


def main():
    a = argparse.ArgumentParser()
    a.add_argument("checkpoint")
    a.add_argument("--assets", default=ASSETS)
    a = a.parse_args()
    saved = torch.load(a.checkpoint, map_location="cpu", weights_only=True)
    write(a.assets, saved["config"], saved["model"])


if __name__ == "__main__":
    main()
