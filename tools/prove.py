"""Run by a new environment's Python, before the environment counts as ready: `prove.py COMFYUI CLI`.

Each line that it prints names what it tries next, so that even a crash is told with its name.
"""

import importlib
import importlib.metadata
import runpy
import sys


def main(comfyui: str, cli: str) -> None:
    """Imports and runs a little of what everything else stands on; raises where something does not work."""
    for name in ("torch", "torchvision", "torchaudio", "av"):
        print(name, importlib.metadata.version(name), flush=True)
        importlib.import_module(name)

    print("a small convolution in torch", importlib.metadata.version("torch"), flush=True)
    import torch

    ones = torch.ones(1, 2, 4, 4)
    if torch.nn.functional.conv2d(ones, torch.ones(3, 2, 3, 3)).sum().item() != 3 * 4 * 18:
        raise ArithmeticError("torch computes wrong numbers")

    print("comfy.sd of the ComfyUI in", comfyui, flush=True)
    sys.path[0] = comfyui  # in place of this script's folder
    sys.argv[1:] = []
    from comfy.cli_args import args

    args.cpu = True
    importlib.import_module("comfy.sd")

    print("this package", flush=True)
    runpy.run_path(cli)["load_package"]()
    importlib.import_module("steadydancer.dancer.model")


if __name__ == "__main__":
    main(*sys.argv[1:])
