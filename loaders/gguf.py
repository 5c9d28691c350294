"""What is in a GGUF file, as a state dict that ComfyUI's own detection and models understand."""

import ctypes
import re
import struct
import threading
from collections.abc import Callable, Iterable
from math import prod
from pathlib import Path
from typing import Any

import comfy.memory_management
import torch

from ..formats.gguf_file import GGUFError, GGUFFile, TensorPlace, open_gguf, shaped
from ..formats.model_file import parts
from ..formats.sentencepiece import sentencepiece_model
from ..quant.blocks import BLOCKS, dequantise
from ..quant.layout import packed

TEXT_ENCODERS = ("t5", "t5encoder")
LANGUAGE_MODELS = ("llama", "qwen2", "qwen2vl", "qwen3", "qwen3vl", "gemma2", "gemma3", "clip-vision", "mmproj")
# llama.cpp's names of T5's layers → the names that T5 was published with.
T5_LAYERS = {
    "attn_q": "0.SelfAttention.q",
    "attn_k": "0.SelfAttention.k",
    "attn_v": "0.SelfAttention.v",
    "attn_o": "0.SelfAttention.o",
    "attn_rel_b": "0.SelfAttention.relative_attention_bias",
    "attn_norm": "0.layer_norm",
    "ffn_gate": "1.DenseReluDense.wi_0",
    "ffn_up": "1.DenseReluDense.wi_1",
    "ffn_down": "1.DenseReluDense.wo",
    "ffn_norm": "1.layer_norm",
}
T5_ENDS = {"token_embd.weight": "shared.weight", "enc.output_norm.weight": "encoder.final_layer_norm.weight"}


def diffusion_tensors(path: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """All tensors of a diffusion model's file, or of all parts of the model that it is a part of. Packed ones stand for
    `dtype`.

    Raises ValueError when a file is damaged, of an unknown type, or of a text encoder.
    """
    found: dict[str, torch.Tensor] = {}
    for part in parts(path):
        file = open_gguf(part)
        kind = file.metadata.get("general.architecture", "")
        if kind in TEXT_ENCODERS or kind in LANGUAGE_MODELS:
            raise ValueError(
                f"{part.name} is a text encoder ({kind}), not a diffusion model. Put it into models/text_encoders, "
                "and choose a diffusion model here."
            )
        if twice := found.keys() & file.tensors.keys():
            raise ValueError(f"{part.name} has '{min(twice)}' like another part. Download the parts again.")
        found |= tensors(file, dtype)
    return found


def text_encoder_tensors(path: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """All tensors of a T5 or UMT5 encoder under their published names, and its tokenizer as `spiece_model`.

    Raises ValueError when the file is damaged, of an unknown type, or of another model.
    """
    file = open_gguf(path)
    kind = file.metadata.get("general.architecture", "")
    if kind not in TEXT_ENCODERS:
        raise ValueError(
            f"{path.name} is no T5 or UMT5 encoder but '{kind}', which cannot be loaded from GGUF here. "
            "Choose its safetensors file."
        )
    found = {t5_name(name): tensor for name, tensor in tensors(file, dtype)}
    if "tokenizer.ggml.tokens" in file.arrays:
        try:
            model = sentencepiece_model(file)
        except (KeyError, TypeError, AttributeError, ValueError, struct.error) as err:
            raise ValueError(
                f"{path.name} has a tokenizer that cannot be read. Download the file again, or choose its safetensors file."
            ) from err
        found["spiece_model"] = torch.frombuffer(bytearray(model), dtype=torch.uint8)
    return found


def t5_name(name: str) -> str:
    """A GGUF tensor's name as transformers calls it; what has no other name keeps its own."""
    layer = re.fullmatch(r"enc\.blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if layer and layer[2] in T5_LAYERS:
        return f"encoder.block.{layer[1]}.layer.{T5_LAYERS[layer[2]]}.{layer[3]}"
    return T5_ENDS.get(name, name)


def tensors(file: GGUFFile, dtype: torch.dtype) -> Iterable[tuple[str, torch.Tensor]]:
    """Name and tensor. Packed stays what a Linear or an Embedding can work with: a two-dimensional `.weight`."""
    raw = file_slices(file) if comfy.memory_management.aimdo_enabled else file.raw
    for name, place in file.tensors.items():
        shape = true_shape(file, name)
        if not place.is_packed:
            yield name, raw(name).view(shape)
        elif name.endswith(".weight") and len(shape) == 2 and shape == place.shape:
            yield name, packed(raw(name), place.number, dtype)
        else:
            yield name, dequantise(raw(name), BLOCKS[place.number], torch.empty(place.shape)).view(shape)


def true_shape(file: GGUFFile, name: str) -> tuple[int, ...]:
    """The tensor's shape, which some converters note beside it: GGUF has no more than four dimensions."""
    key, stored = f"comfy.gguf.orig_shape.{name}", file.tensors[name].shape
    if key not in file.arrays:
        return stored
    noted = file.array(key)
    if not all(type(size) is int and size >= 0 for size in noted) or prod(noted) != prod(stored):
        raise GGUFError(file.path, f"it notes another shape for '{name}' than it has numbers for")
    return tuple(noted)


def file_slices(file: GGUFFile) -> Callable[[str], torch.Tensor]:
    """`raw` for ComfyUI's dynamic memory: tensors that also say where in the file they lie, so that it can read them
    straight into pinned memory."""
    import comfy_aimdo.model_mmap

    memory = comfy_aimdo.model_mmap.ModelMMAP(str(file.path))
    handle, lock = memory.get_file_handle(), threading.Lock()
    view = memoryview((ctypes.c_uint8 * len(file.buffer)).from_address(memory.get()))

    def raw(name: str) -> torch.Tensor:
        place: TensorPlace = file.tensors[name]
        if not place.bytes:
            return file.raw(name)
        data = torch.frombuffer(view[place.start : place.start + place.bytes], dtype=torch.uint8)
        storage: Any = data.untyped_storage()  # ComfyUI looks for both of what follows under these names
        storage._comfy_tensor_file_slice = comfy.memory_management.TensorFileSlice(
            handle, lock, place.start, place.bytes
        )
        storage._comfy_tensor_mmap_refs = (memory, view)
        return shaped(data, place)

    return raw
