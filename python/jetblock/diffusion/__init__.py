"""What diffusion models need beside the network, on tensors alone: noise, samplers, manifests of runs.

The nodes for ComfyUI are made of these; they need PyTorch and nothing of ComfyUI.

- `noise`: noise that belongs to an image, whatever its batch.
- `samplers`: the walk from noise to image, with such noise, in f32 and in a stated order.
- `skipping`: steps that are continued from those before instead of computed.
- `frames`: frames of a video that follow their neighbours in time.
- `sparse_attention`, `int8`: attention in two paths and linear layers in 8 bits, approximations.
- `metrics`: how alike two pictures are.
- `manifest`: what a run was made of and what came out, and why two runs differ.
"""
