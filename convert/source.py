"""The model that is converted: one safetensors file or all of its shards, read in pieces and never whole.

Needs nothing but the standard library.
"""

import hashlib
import json
import os
import re
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path

from ..formats.model_file import FORMATS, parts, require_complete, require_diffusion
from ..formats.safetensors_file import BITS, safetensors_header

FLOATS = ("F32", "F16", "BF16")
SAMPLE = 32  # bytes
INDEX = ".safetensors.index.json"
SHARD = re.compile(r"-\d{1,5}-of-\d{1,5}$")
PRECISION = re.compile(r"[-_.](fp32|fp16|bf16|float32|float16|bfloat16)(?=[-_.]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies: file, safetensors' name of its type, shape, and the bytes from `start` on."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def rows(self) -> int:
        """The first dimension; 1 of a scalar."""
        return self.shape[0] if self.shape else 1

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return prod(self.shape[1:]) * BITS[self.dtype] // 8

    @property
    def bytes(self) -> int:
        """Bytes of all rows."""
        return self.rows * self.row_bytes


@dataclass(frozen=True)
class Source:
    """A model's tensors by name, and what tells it from another: `digest` is of the headers and of some bytes of every
    matrix, since two trainings of one network have the same headers."""

    paths: tuple[Path, ...]
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    digest: str

    @property
    def name(self) -> str:
        """The file's name, or the folder's and the first shard's."""
        first = self.paths[0]
        return first.name if len(self.paths) == 1 else f"{first.parent.name}/{first.name}"

    @property
    def bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.bytes for tensor in self.tensors.values())


def open_source(path: Path) -> Source:
    """The model of a safetensors file, of a shard's whole set, of an index file, or of a folder that holds one of these.

    Raises ValueError, saying what to do, where it is damaged, incomplete, no diffusion model, or quantised already.
    """
    paths = shards(path)
    if wrong := next((path for path in paths if FORMATS.get(path.suffix.lower()) != "safetensors"), None):
        raise ValueError(f"{wrong.name} is no safetensors file. Convert from a model's fp16, bf16 or fp32 safetensors.")
    require_diffusion(paths)
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    digest = hashlib.sha256()
    for path in paths:
        header = safetensors_header(path)
        digest.update(json.dumps(header, sort_keys=True).encode())
        metadata |= header.pop("__metadata__", {})
        with open(path, "rb") as file:
            base = 8 + struct.unpack("<Q", file.read(8))[0]
        for name, entry in header.items():
            if name in tensors:
                raise ValueError(
                    f"{path.name} has '{name}' like another shard of the model. Download the shards again."
                )
            tensors[name] = Tensor(path, entry["dtype"], tuple(entry["shape"]), base + entry["data_offsets"][0])
        with open(path, "rb") as file:
            for name in header:
                if len(tensors[name].shape) > 1:
                    file.seek(tensors[name].start + tensors[name].bytes // 2)
                    digest.update(file.read(SAMPLE))
    name = paths[0].name
    if packed := next(
        (key for key, tensor in tensors.items() if tensor.dtype not in FLOATS and len(tensor.shape) > 1), None
    ):
        raise ValueError(
            f"{name} is quantised already: '{packed}' is {tensors[packed].dtype}. What it has lost cannot be brought back: "
            "convert from the fp16, bf16 or fp32 file."
        )
    require_complete(tensors, name)
    return Source(tuple(paths), tensors, metadata, digest.hexdigest())


def shards(path: Path) -> list[Path]:
    """All files of a model. Raises ValueError where it is not clear which they are, or some are missing."""
    if path.is_dir():
        return shards(the_model_in(path))
    if not path.is_file():
        raise ValueError(
            f"There is no file or folder {path}. Give the model's safetensors file, or the folder of its shards."
        )
    if not path.name.endswith(".json"):
        return parts(path)
    try:
        names = sorted(set(json.loads(path.read_text("utf-8"))["weight_map"].values()))
        found = [path.parent / name for name in names]
    except (ValueError, KeyError, AttributeError, TypeError) as err:
        raise ValueError(
            f"{path.name} is no index of a model's shards. Choose one whose name ends in {INDEX}."
        ) from err
    if any(file.parent != path.parent for file in found):
        raise ValueError(f"{path.name} names files that do not lie beside it. Put all shards into {path.parent}.")
    if missing := [file.name for file in found if not file.is_file()]:
        raise ValueError(
            f"{', '.join(missing[:3])} of {path.name} is not beside it. Put all shards into {path.parent}."
        )
    return found


def the_model_in(folder: Path) -> Path:
    """The one index or safetensors file of a folder, or the first of one set of shards."""
    for pattern in (f"*{INDEX}", "*.safetensors"):
        found = sorted(folder.glob(pattern))
        if len({SHARD.sub("", path.stem) for path in found}) == 1:
            return found[0]
        if found:
            raise ValueError(f"{folder} holds several models. Give one file of the one that is meant.")
    raise ValueError(f"There is no safetensors file in {folder}. Give the model's file, or the folder of its shards.")


def converted_path(path: Path, to: str) -> Path:
    """Where a conversion goes, named as the field does: `Wan21_fp16.safetensors` → `Wan21_int8_convrot.safetensors` beside it.

    Shards, whose own names say little, are called by their folder, and what they become lies beside that.
    """
    path = Path(os.path.abspath(path))  # not resolved: beside a link, and not beside what it leads to
    of_folder = path.is_dir() or path.name.endswith(INDEX) or SHARD.search(path.stem)
    named = path if path.is_dir() or not of_folder else path.parent
    stem = named.name if of_folder else named.stem
    return named.with_name(f"{PRECISION.sub('', stem)}_{to}.safetensors")
