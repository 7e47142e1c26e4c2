"""Makes the tiny models that the tests give to ComfyUI.

    python make.py sd3 [--steps 4000]            trains tiny_sd3.safetensors, which is committed (needs scikit-learn)
    python make.py flux [--steps 2000] FOLDER    trains FOLDER/diffusion_models/tiny_flux.safetensors (7 minutes)
    python make.py others FOLDER                 builds the others, which the tests do themselves; Flux untrained

ComfyUI must be importable.
"""

import argparse
import importlib
import sys
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
FLUX = Path("diffusion_models") / "tiny_flux.safetensors"


def start_comfyui() -> None:
    sys.argv = sys.argv[:1]
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    from harness import comfyui_folder

    sys.path.insert(0, str(comfyui_folder()))
    from comfy.cli_args import args

    args.cpu = True


def save(path: Path, modules: dict[str, object]) -> None:
    """Writes modules in f16, the names of each behind its prefix."""
    import torch
    from safetensors.torch import save_file

    states = [(prefix, module.state_dict()) for prefix, module in modules.items()]
    tensors = [(prefix + name, value) for prefix, state in states for name, value in state.items()]
    state = {name: value.detach().to(torch.float16).contiguous() for name, value in tensors}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path)


def train(module: ModuleType, latent_format: object, path: Path, steps: int, batch: int) -> None:
    import sd3
    import torch

    generator = torch.Generator().manual_seed(1)
    net = module.new(generator)
    sd3.train(net, module.predict, latent_format, steps, batch, generator, lambda trained: save(path, {"": trained}))


def build_others(folder: Path) -> None:
    import codec
    import cosmos
    import flux
    import torch
    import unet

    save(folder / "vae" / "tiny_ae.safetensors", {"": codec.autoencoder(16)})
    checkpoint = folder / "checkpoints" / "tiny_unet.safetensors"
    if not checkpoint.exists():
        net = unet.new(torch.Generator().manual_seed(1))
        save(checkpoint, {"model.diffusion_model.": net, "first_stage_model.": codec.autoencoder(unet.CHANNELS)})
    untrained = folder / FLUX
    if not untrained.exists():
        save(untrained, {"": flux.new(torch.Generator().manual_seed(1))})
    video = folder / "diffusion_models" / "tiny_cosmos.safetensors"
    if not video.exists():
        generator = torch.Generator().manual_seed(1)
        net = cosmos.new(generator)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as fast for a model of this size, and not slowed down by what else runs
        cosmos.train(net, 240, generator)
        torch.set_num_threads(threads)
        save(video, {"": net})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, steps in (("sd3", 4000), ("flux", 2000)):
        trained = commands.add_parser(name)
        trained.add_argument("--steps", type=int, default=steps)
        trained.add_argument("--batch", type=int, default=24)
    others = commands.add_parser("others")
    for command in (trained, others):
        command.add_argument("folder", type=Path)
    options = parser.parse_args()
    start_comfyui()
    if options.command == "others":
        build_others(options.folder)
        return
    from comfy import latent_formats

    module = importlib.import_module(options.command)
    if options.command == "sd3":
        train(module, latent_formats.SD3(), HERE / "tiny_sd3.safetensors", options.steps, options.batch)
    else:
        train(module, latent_formats.Flux(), options.folder / FLUX, options.steps, options.batch)


if __name__ == "__main__":
    main()
