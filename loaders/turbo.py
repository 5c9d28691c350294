"""From TurboWan files to MODELs: converted once, sorted, and given to ComfyUI's own detection and Wan classes."""

import re
from collections.abc import Callable
from pathlib import Path

import comfy.model_management
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher

from ..base.cancel import IsCancelled, stop_if
from ..quant import int8
from ..quant.layout import packed_int8
from ..quant.patches import with_packed_patches
from ..turbo.keys import check, sorted_weights
from ..turbo.model import as_turbo
from ..turbo.ops import turbo_operations
from . import pickled
from .build import detected, known

EXPERT = re.compile(r"(?<![a-z])(high|low)(?![a-z])", re.IGNORECASE)
PARTNER = {"high": "low", "low": "high"}
SUFFIXES = (".pth", ".safetensors")


def expert(name: str) -> str:
    """`high` or `low`, as the file name says, or nothing."""
    found = EXPERT.search(name)
    return found[1].lower() if found else ""


def both_experts(path: Path) -> list[Path]:
    """The file, and the low-noise expert beside it where the file is a high-noise one.

    Raises ValueError for the low-noise expert alone, and where its partner is missing.
    """
    if not expert(path.name):
        return [path]
    stem = EXPERT.sub(lambda found: PARTNER[found[1].lower()], path.stem, count=1).lower()
    partners = [other for other in path.parent.iterdir() if other.stem.lower() == stem]
    partners = sorted(other for other in partners if other.suffix.lower() in SUFFIXES)
    if expert(path.name) == "low":
        high = partners[0].name if partners else "the file with 'high' in its name"
        raise ValueError(f"{path.name} is the low-noise expert. Choose {high}: the low-noise one is loaded with it.")
    if not partners:
        raise ValueError(
            f"{path.name} is the high-noise expert, and the low-noise one is not beside it. "
            f"Put it into {path.parent} under the same name with 'low'."
        )
    return [path, partners[-1]]


def prepared(path: Path, progress: Callable, cancelled: IsCancelled, say: Callable) -> Path:
    """The safetensors file of `path`, checked to be TurboDiffusion's and the expert that its name says."""
    if path.suffix.lower() != ".safetensors":
        path = pickled.as_safetensors(path, lambda tensors, name: check_file(tensors, name), progress, cancelled, say)
    source = pickled.metadata(path).get(pickled.SOURCE, path.name)
    if expert(source) != expert(path.name):
        raise ValueError(
            f"{path.name} was made from {source}: it holds the {expert(source) or 'only'} expert under another's name. "
            "Give it its own name back, or fetch it again."
        )
    return path


def check_file(tensors: dict[str, torch.Tensor], name: str) -> None:
    """Raises ValueError for another kind of model, and for an expert whose name does not say which."""
    check(tensors, name)
    channels = next((t.shape[1] for key, t in tensors.items() if key.endswith("patch_embedding.weight")), 0)
    if channels in (36, 36 * 4) and not expert(name):
        raise ValueError(
            f"{name} is one of the two experts for image to video, and its name does not say which. "
            "Put 'high' or 'low' into its name."
        )


def load_turbo(paths: list[Path], precision: str, progress: Callable, cancelled: IsCancelled) -> list[tuple]:
    """(MODEL, projections) of every prepared file; see turbo/keys.py for the projections.

    `precision`: `auto` as the file is, computing in bfloat16; `bf16` and `fp32` with plain weights; `int8` with weights
    quantised where they are not yet. Raises ValueError for two files with the same expert.
    """
    loaded = [load_one(str(path), precision, progress=progress, cancelled=cancelled) for path in paths]
    heads = [model.model.diffusion_model.head.modulation for model, _ in loaded]
    if len(heads) == 2 and torch.equal(heads[0], heads[1]):
        raise ValueError(
            f"{paths[0].name} and {paths[1].name} hold the same expert. Fetch the one that was overwritten again."
        )
    return loaded


def load_one(
    path: str,
    precision: str,
    disable_dynamic: bool = False,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> tuple:
    """(MODEL, projections) of one expert's file; `precision` as for load_turbo."""
    published = comfy.utils.load_torch_file(path)
    model, projections = build(published, Path(path).name, precision, disable_dynamic, progress, cancelled)
    model.cached_patcher_init = (load_again, (path, precision))
    return model, projections


def build(
    published: dict[str, torch.Tensor],
    name: str,
    precision: str,
    disable_dynamic: bool = False,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> tuple:
    """(MODEL, projections) of the tensors of the file `name`; `precision` as for load_turbo."""
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    check_file(published, name)
    weights = sorted_weights(published, name)
    tensors = weights.tensors
    for layer, (codes, scale) in weights.int8.items():
        if precision in ("auto", "int8"):
            tensors[f"{layer}.weight"] = packed_int8(codes, scale, dtype)
        else:
            tensors[f"{layer}.weight"] = int8.dequantise(codes, scale, torch.empty(codes.shape, dtype=dtype))
    if precision == "int8" and not weights.int8:
        quantise_blocks(tensors, dtype, progress, cancelled)
    options = {"custom_operations": turbo_operations(), "dtype": dtype}
    model = known(detected(tensors, name, model_options=options, disable_dynamic=disable_dynamic), name, load_again)
    return as_turbo(with_packed_patches(model)), weights.projections


def load_again(path: str, precision: str, disable_dynamic: bool = False) -> ModelPatcher:
    """What ComfyUI calls to make the MODEL anew from its file."""
    return load_one(path, precision, disable_dynamic)[0]


def quantise_blocks(
    tensors: dict,
    dtype: torch.dtype,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> None:
    """Replaces the weights of all layers in the blocks by 8-bit ones, as the published quantiser does."""
    device = comfy.model_management.get_torch_device()
    layers = [
        key for key, t in tensors.items() if key.startswith("blocks.") and key.endswith(".weight") and t.ndim == 2
    ]
    # A layer and its tiles in float32; ComfyUI puts models away that leave no room for them.
    needed = max((12 * tensors[key].numel() for key in layers), default=0)
    comfy.model_management.free_memory(needed + comfy.model_management.minimum_inference_memory(), device)
    for done, key in enumerate(layers, 1):
        codes, scale = int8.quantise(tensors[key].to(device))
        tensors[key] = packed_int8(codes.cpu(), scale.cpu(), dtype)
        if progress:
            progress(done, len(layers))
        if cancelled:
            stop_if(cancelled)
