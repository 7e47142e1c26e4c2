"""Memory that operators take beside their outputs: a few MiB for each thread, whatever the dtype and the size.

The system's own high-water mark is read, in a process of its own that gives freed memory back at once.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

THREADS = 2
LIMIT = 4 * THREADS

MEASURE = """
import json, sys
from pathlib import Path
import torch
from torch.nn import functional as F
import jetblock

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024

def scratch(f):
    f()
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    out = f()
    size = out.nbytes if isinstance(out, torch.Tensor) else sum(part.nbytes for part in out)
    return status("VmHWM") - before - size / 2**20

dtype = getattr(torch, sys.argv[1])
jetblock.set_cpu(int(sys.argv[2]))
x = torch.randn(2048, 4096).to(dtype)
image = torch.randn(1, 128, 192, 192).to(dtype)
heads = torch.randn(1, 2048, 16, 64).to(dtype).transpose(1, 2)
kept = lambda *shape: torch.nn.Parameter(torch.randn(*shape).to(dtype), requires_grad=False)
square, narrow, vector = kept(1024, 4096), kept(4096, 256), kept(128)
taps, lone = kept(128, 128, 3, 3), kept(128, 1, 3, 3)
operators = {
    "linear": lambda: F.linear(x, square),
    "linear, columns of its input": lambda: F.linear(x[:, 128:384], narrow),
    "bmm": lambda: torch.bmm(x.view(8, 1024, 1024), x.view(8, 1024, 1024)),
    "conv2d": lambda: F.conv2d(image, taps, padding=1),
    "conv2d, depthwise": lambda: F.conv2d(image, lone, padding=1, groups=128),
    "conv_transpose2d": lambda: F.conv_transpose2d(image[:, :, :64, :64].contiguous(), taps, stride=2),
    "attention": lambda: F.scaled_dot_product_attention(heads, heads, heads, is_causal=True),
    "softmax": lambda: torch.softmax(x, -1),
    "layer_norm": lambda: F.layer_norm(x, (4096,)),
    "rms_norm": lambda: F.rms_norm(x, (4096,)),
    "group_norm": lambda: F.group_norm(image, 32, vector, vector),
    "silu": lambda: F.silu(x),
    "pow": lambda: x.pow(2),
    "sum of rows": lambda: x.sum(1),
    "sum of columns": lambda: x.sum(0),
    "cumsum of columns": lambda: x.cumsum(0),
    "topk": lambda: torch.topk(x, 5),
    "interpolate": lambda: F.interpolate(image, scale_factor=2, mode="bilinear"),
    "avg_pool2d": lambda: F.avg_pool2d(image, 2),
    "elements of a slice": lambda: F.gelu(x[:, 3:4000]),
}
with torch.no_grad(), jetblock.deterministic():
    figures = {name: scratch(f) for name, f in operators.items()}
figures["control"] = scratch(lambda: x.double().to(dtype))
print(json.dumps(figures))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's high-water mark")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_operators_take_little_memory_beside_their_outputs(dtype: str) -> None:
    environment = os.environ | {
        "MALLOC_TRIM_THRESHOLD_": "0",
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_ARENA_MAX": "1",
    }
    command = [sys.executable, "-c", MEASURE, dtype, str(THREADS)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    figures = json.loads(done.stdout)
    print({name: round(mib, 2) for name, mib in figures.items()})
    # A copy of an array in another dtype must be seen.
    assert figures.pop("control") > LIMIT
    assert {name: mib for name, mib in figures.items() if mib > LIMIT} == {}
    assert len(figures) == 20
