"""Tiny SteadyDancer files in every GGUF type, with what is odd about the published ones."""

from pathlib import Path

import numpy as np

from . import tiny
from .gguf_writer import BY_NAME, quantise, write_gguf

HIGH_PRECISION = ("patch_embedding", "text_embedding", "time_", "img_emb", "head", "modulation")


def write_steadydancer_gguf(path: Path, kind: str, lora: Path | None = None) -> Path:
    """SteadyDancer as llama.cpp's tools write it: leading dimensions of 1 lost, the pose's attention quantised too."""
    tensors = {}
    for key, tensor in tiny.weights("steadydancer_tiny.keys.tsv").items():
        values = tensor.float().numpy()
        tensors[key] = stored(key, values, kind)
    return write_gguf(path, tensors)


def stored(key: str, values: np.ndarray, kind: str) -> tuple[str, tuple[int, ...], bytes]:
    shape = values.shape
    if key.startswith("condition_embedding_") and values.ndim < 5:
        while len(shape) > 1 and shape[0] == 1:
            shape = shape[1:]
    kind = type_for(key, shape, kind)
    return kind, shape, quantise(values, kind)


def type_for(key: str, shape: tuple[int, ...], kind: str) -> str:
    """What llama.cpp would store it as: rows that a K-quant's 256 does not divide get a type of 32 instead."""
    if len(shape) != 2 or any(word in key for word in HIGH_PRECISION):
        return "F32"
    if kind not in BY_NAME:
        return kind
    for choice in (kind, "Q8_0"):
        if shape[-1] % BY_NAME[choice].weights == 0:
            return choice
    return "F16"
