"""TurboWan's published tensors, sorted into what ComfyUI's Wan models know and what is TurboDiffusion's own.

Source: the published code of TurboDiffusion (Apache-2.0): names of its modules and shapes of their parameters.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch

WRAPPINGS = ("net.", "_checkpoint_wrapped_module.")  # what training puts into names
PROJECTION = re.compile(r"blocks\.(\d+)\.self_attn\.attn_op\.local_attn\.proj_l\.(weight|bias)")
PATCH = (1, 2, 2)


@dataclass
class TurboWeights:
    """A TurboWan file.

    `tensors`: plain ones under ComfyUI's names. `int8`: layer name → codes int8 [N, K] and scales float32
    [⌈N/128⌉, ⌈K/128⌉]. `projections`: block index → `proj_l` weight [128, 128] and bias [128] of the linear attention.
    """

    tensors: dict[str, torch.Tensor]
    int8: dict[str, tuple[torch.Tensor, torch.Tensor]]
    projections: dict[int, tuple[torch.Tensor, torch.Tensor]]


def plain(key: str) -> str:
    """The key without what training put into it."""
    for wrapping in WRAPPINGS:
        key = key.replace(wrapping, "")
    return key


def check(keys: Iterable[str], name: str) -> None:
    """Raises ValueError, naming the file, when its keys are not those of a TurboWan model."""
    keys = {plain(key) for key in keys}
    if any(key.endswith("patch_embedding_fuse.weight") for key in keys):
        raise ValueError(f"{name} is a SteadyDancer model, not TurboDiffusion's. Load it with Load SteadyDancer.")
    if any(map(PROJECTION.fullmatch, keys)):
        return
    if any(re.search(r"blocks\.0\.self_attn\.q\.", key) for key in keys):
        raise ValueError(
            f"{name} is a Wan model without TurboDiffusion's linear attention (no 'proj_l' in it). "
            "Load it with core's Load Diffusion Model, or choose a TurboWan file here."
        )
    raise ValueError(f"{name} is not a TurboDiffusion model. Choose a TurboWan file, or a name of the catalogue.")


def sorted_weights(published: dict[str, torch.Tensor], name: str) -> TurboWeights:
    """Sorts the tensors of the file `name`. Nothing is copied. Raises ValueError for files of other models."""
    check(published, name)
    found = {plain(key): tensor for key, tensor in published.items()}
    sides: dict[int, dict[str, torch.Tensor]] = {}
    weights = TurboWeights({}, {}, {})
    for key, tensor in found.items():
        layer, _, last = key.rpartition(".")
        if side := PROJECTION.fullmatch(key):
            sides.setdefault(int(side[1]), {})[side[2]] = tensor
        elif last == "int8_weight":
            weights.int8[layer] = (tensor, found[f"{layer}.scale"])
        elif last == "scale":
            continue
        elif key == "patch_embedding.weight" and tensor.ndim == 2:
            weights.tensors[key] = tensor.reshape(len(tensor), -1, *PATCH)
        else:
            weights.tensors[key] = tensor
    weights.projections = {block: (side["weight"], side["bias"]) for block, side in sorted(sides.items())}
    return weights
