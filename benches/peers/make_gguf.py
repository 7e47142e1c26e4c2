"""make_gguf.py LLAMA_CPP MODEL FILE.gguf: converts a model of make_model.py with llama.cpp's own converter, to bf16.

LLAMA_CPP is a checkout of llama.cpp. Needs its Python requirements. Two things of our models are unlike the published
ones and are bridged here: there is no tokenizer, and transformers writes the layers as a list and fields of experts
into models that have none.
"""

import json
import runpy
import sys
import tempfile
from pathlib import Path

llama_cpp, model, out = (Path(arg).resolve() for arg in sys.argv[1:])
LETTERS = {"linear_attention": "M", "moe": "E", "full_attention": "*", "mlp": "-"}
EXPERT_FIELDS = {"n_group", "topk_group", "norm_topk_prob", "routed_scaling_factor"}


def published(config):
    """The configuration as in published models."""
    layers = config.pop("layers_block_type")
    config.pop("layer_types", None)
    config["hybrid_override_pattern"] = "".join(LETTERS[layer] for layer in layers)
    config["num_hidden_layers"] = len(layers)
    if "moe" in layers:
        return config
    about_experts = lambda name: name in EXPERT_FIELDS or "expert" in name or name.startswith("moe_")
    return {name: value for name, value in config.items() if not about_experts(name)}


sys.path[:0] = [str(llama_cpp), str(llama_cpp / "gguf-py")]
import conversion.base  # noqa: E402
import conversion.nemotron  # noqa: E402


def set_vocab(self):
    self._set_vocab_none()
    if not any("vocab_size" in key for data in self.gguf_writer.kv_data for key in data):
        self.gguf_writer.add_vocab_size(self.hparams["vocab_size"])


def load_hparams(folder, is_mistral_format):
    """The configuration as it is written; transformers would fill in what `published` takes out."""
    return json.loads((Path(folder) / "config.json").read_text())


conversion.nemotron.NemotronHModel.set_vocab = set_vocab
conversion.base.ModelBase.load_hparams = staticmethod(load_hparams)

with tempfile.TemporaryDirectory() as folder:
    for file in model.glob("*.safetensors"):
        (Path(folder) / file.name).symlink_to(file)
    config = json.loads((model / "config.json").read_text())
    (Path(folder) / "config.json").write_text(json.dumps(published(config)))
    sys.argv = ["convert_hf_to_gguf.py", folder, "--outfile", str(out), "--outtype", "bf16"]
    runpy.run_path(str(llama_cpp / "convert_hf_to_gguf.py"), run_name="__main__")
