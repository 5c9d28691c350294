"""What becomes of each tensor of a model in another precision, before any of them is read.

Layers of the blocks are quantised: nearly all of a Wan model's weights. What is small, or what the network cannot do
without, stays as it is: norms, biases, modulation, SteadyDancer's pose modules and the embeddings of video and pose.
"""

import json
import re
from dataclasses import dataclass

from .source import Source, Tensor

TARGETS = ("int8_convrot", "fp8_scaled", "bf16", "fp16")
LAYER = re.compile(r"(?:.+\.)?(?:vace_)?blocks\.\d+\.(?!.*norm)(?!.*embed).+\.weight")
POSE = re.compile(r"(?:.+\.)?(?:condition_embedding_|patch_embedding)")
GROUPS = (256, 64, 16)  # comfy-kitchen rotates by these; its kernels for GPUs are made for the first
BITS_16 = {"bf16": "BF16", "fp16": "F16"}


@dataclass(frozen=True)
class Part:
    """A tensor of the new file: safetensors' name of its type, and shape."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """How one tensor of the source is stored: `kind` is keep, cast, int8 or fp8. `group`: weights that are rotated
    together, 0 for none. `parts` are the tensors that it becomes, by name, the weight first."""

    name: str
    tensor: Tensor
    kind: str
    parts: dict[str, Part]
    group: int = 0


def steps(source: Source, to: str) -> list[Step]:
    """What becomes of every tensor. Raises ValueError where there is nothing to quantise, or nothing would change."""
    if not any(LAYER.fullmatch(name) for name in source.tensors):
        raise ValueError(f"{source.name} has no transformer blocks of Wan's kind, and only these are converted here.")
    found = [step(name, tensor, to) for name, tensor in source.tensors.items()]
    if all(each.kind == "keep" for each in found):
        raise ValueError(f"{source.name} is {to} already. There is nothing to convert.")
    return found


def step(name: str, tensor: Tensor, to: str) -> Step:
    """What becomes of one tensor."""
    matrix = len(tensor.shape) == 2 and name.endswith(".weight") and not POSE.match(name)
    if matrix and to not in BITS_16 and LAYER.fullmatch(name):
        return int8(name, tensor) if to == "int8_convrot" else fp8(name, tensor)
    # A file of 16 bits keeps its type; of float32 only large matrices are worth halving.
    wanted = BITS_16.get(to) or ("F16" if tensor.dtype == "F32" else tensor.dtype)
    if matrix and tensor.dtype != wanted:
        return Step(name, tensor, "cast", {name: Part(wanted, tensor.shape)})
    return Step(name, tensor, "keep", {name: Part(tensor.dtype, tensor.shape)})


def int8(name: str, tensor: Tensor) -> Step:
    """ComfyUI's int8_tensorwise with a scale a row, its inputs rotated in the largest group that divides them."""
    rows, inputs = tensor.shape
    group = next((size for size in GROUPS if inputs % size == 0), 0)
    rotation = {"convrot": True, "convrot_groupsize": group} if group else {}
    parts = described(name, "I8", tensor.shape, (rows, 1), {"format": "int8_tensorwise", **rotation})
    return Step(name, tensor, "int8", parts, group)


def fp8(name: str, tensor: Tensor) -> Step:
    """ComfyUI's float8_e4m3fn with one scale."""
    return Step(name, tensor, "fp8", described(name, "F8_E4M3", tensor.shape, (), {"format": "float8_e4m3fn"}))


def described(name: str, dtype: str, shape: tuple[int, ...], scales: tuple[int, ...], words: dict) -> dict[str, Part]:
    """A quantised layer: its weight, its scales in float32, and the words by which ComfyUI knows the format."""
    layer, text = name.removesuffix("weight"), json.dumps(words)
    return {
        name: Part(dtype, shape),
        f"{layer}weight_scale": Part("F32", scales),
        f"{layer}comfy_quant": Description("U8", (len(text),), text),
    }


@dataclass(frozen=True)
class Description(Part):
    """A layer's `comfy_quant`: JSON that says how ComfyUI must read its weight."""

    text: str
