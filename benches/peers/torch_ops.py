"""torch_ops.py [TEXT]: PyTorch's own operators on the shapes of `cargo xtask bench torch_ops`, one thread, in its processor time.

Prints the same lines; with TEXT only those that contain it. Needs torch.
"""

import statistics
import sys
import time

import torch
import torch.nn.functional as F

torch.set_num_threads(1)
torch.set_grad_enabled(False)
ONLY = sys.argv[1] if len(sys.argv) > 1 else ""
CONVS = [
    ("conv 320, 64 x 64", 320, 320, 3, 1, 64, 1, False),
    ("conv 128, 256 x 256", 128, 128, 3, 1, 256, 1, False),
    ("conv 1280, 16 x 16", 1280, 1280, 3, 1, 16, 1, False),
    ("conv 1280, 8 x 8", 1280, 1280, 3, 1, 8, 1, False),
    ("conv 320, pointwise", 320, 320, 1, 1, 64, 1, False),
    ("conv 4 to 320", 4, 320, 3, 1, 64, 1, False),
    ("conv 320 to 4", 320, 4, 3, 1, 64, 1, False),
    ("conv 320, stride 2", 320, 320, 3, 2, 64, 1, False),
    ("conv 320, depthwise", 320, 320, 3, 1, 64, 320, False),
    ("conv 192, depthwise 7 x 7", 192, 192, 7, 1, 56, 192, False),
    ("conv 256, 32 groups", 256, 256, 3, 1, 56, 32, False),
    ("conv 256 to 128, transposed", 256, 128, 4, 2, 64, 1, True),
]
KINDS = [("f32", torch.float32), ("bf16", torch.bfloat16)]


def measure(name, f):
    if ONLY not in name:
        return
    f()
    times = []
    for _ in range(5):
        calls, start = 0, time.thread_time()
        while (passed := time.thread_time() - start) < 0.1 or not calls:
            f()
            calls += 1
        times.append(1e3 * passed / calls)
    print(f"{name:<36} {statistics.median(times):>9.3f} ms (best {min(times):.3f})", flush=True)


def painted(*shape, dtype=torch.float32):
    return (torch.rand(*shape) * 4 - 2).to(dtype)


for name, c, n, kernel, stride, size, groups, transposed in CONVS:
    for kind, dtype in KINDS:
        x = painted(1, c, size, size, dtype=dtype)
        if transposed:
            weight = painted(c, n // groups, kernel, kernel, dtype=dtype)
            run = lambda: F.conv_transpose2d(x, weight, None, stride, 1, 0, groups)
        else:
            weight = painted(n, c // groups, kernel, kernel, dtype=dtype)
            run = lambda: F.conv2d(x, weight, None, stride, kernel // 2, 1, groups)
        measure(f"{name}, {kind}", run)
for kind, dtype in KINDS:
    a = painted(8, 512, 512, dtype=dtype)
    measure(f"bmm 8 x 512, {kind}", lambda: torch.bmm(a, a))
    q = painted(1, 8, 4096, 40, dtype=dtype)
    for keys, what in ((4096, "self"), (77, "cross")):
        k = q[:, :, :keys].contiguous()
        measure(f"{what} attention 8 x 4096 x 40, {kind}", lambda: F.scaled_dot_product_attention(q, k, k))
x, affine = painted(4096, 320), painted(320)
measure("layer_norm 4096 x 320", lambda: F.layer_norm(x, (320,), affine, affine))
image = painted(1, 320, 64, 64)
measure("group_norm 320 x 4096", lambda: F.group_norm(image, 32, affine, affine))
square = painted(1024, 1024)
measure("sum of 1024 rows of 1024", lambda: square.sum(1))
measure("sum of 1024 columns of 1024", lambda: square.sum(0))
row = painted(131072)
measure("sort 131072", lambda: row.sort(dim=0, descending=True, stable=True))
measure("topk 50 of 131072", lambda: row.topk(50))
for mode in ("nearest", "bilinear"):
    measure(f"upsample 320, 64 to 128, {mode}", lambda: F.interpolate(image, (128, 128), mode=mode))
measure("avg_pool 320, 64 to 32", lambda: F.avg_pool2d(image, 2))
