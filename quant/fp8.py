"""Scaled fp8 files of the older layout, told to ComfyUI as what they are.

`<layer>.scale_weight` beside an fp8 weight is what Kijai's and ComfyUI's first scaled files have. ComfyUI 0.30 takes all
of them for e4m3, which ruins e5m2 weights above 448; so the layers' formats are set here, from the tensors themselves.
"""

import json

import torch

FORMATS = {torch.float8_e4m3fn: "float8_e4m3fn", torch.float8_e5m2: "float8_e5m2"}
MARKER = "scaled_fp8"


def with_true_formats(tensors: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The tensors with ComfyUI's present names for scales, and each scaled layer's format beside it.

    A file without old scales is returned as it is. Raises ValueError, naming the file, for scales of blocks or rows.
    """
    for key, tensor in tensors.items():
        weight = tensors.get(f"{key.rpartition('.')[0]}.weight")
        old = key.endswith(".scale_weight") or (key.endswith(".weight_scale") and not described(tensors, key))
        if old and tensor.numel() > 1 and weight is not None and weight.dtype in FORMATS:
            raise ValueError(
                f"{name} has a scale for every block of weights ({list(tensor.shape)} for '{key}'), and ComfyUI "
                "multiplies fp8 with one scale a layer. Choose a file with one, such as steadydancer/fp8, or a GGUF."
            )
    marker = next((key for key in tensors if key == MARKER or key.endswith(f".{MARKER}")), None)
    if marker is None:
        return tensors
    full_precision = tensors[marker].numel() == 2
    out = {}
    for key, tensor in tensors.items():
        layer, _, last = key.rpartition(".")
        if key == marker or (last == "scale_input" and tensor.numel() == 1 and tensor.item() == 1.0):
            continue
        if last == "scale_weight":
            out[f"{layer}.weight_scale"] = tensor
            out[f"{layer}.comfy_quant"] = description(tensors.get(f"{layer}.weight"), layer, name, full_precision)
        else:
            out[f"{layer}.input_scale" if last == "scale_input" else key] = tensor
    return out


def described(tensors: dict[str, torch.Tensor], key: str) -> bool:
    """Whether the layer of a tensor has a description in the newer layout already."""
    return f"{key.rpartition('.')[0]}.comfy_quant" in tensors


def description(weight: torch.Tensor | None, layer: str, name: str, full_precision: bool) -> torch.Tensor:
    """The layer's description in the newer layout: JSON as uint8. Raises ValueError where its weight is not fp8."""
    if weight is None or weight.dtype not in FORMATS:
        raise ValueError(
            f"{name} has a scale for '{layer}', whose weight is not fp8 or not there. Download the file again."
        )
    words: dict[str, str | bool] = {"format": FORMATS[weight.dtype]}
    # GPUs do not multiply e5m2 with e5m2, and ComfyUI would round the layer's input to its weight's format for it.
    if full_precision or weight.dtype == torch.float8_e5m2:
        words["full_precision_matrix_mult"] = True
    return torch.tensor(list(json.dumps(words).encode()), dtype=torch.uint8)
