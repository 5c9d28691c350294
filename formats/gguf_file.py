"""A GGUF file: its header, read without the arrays in it, and its tensors, mapped and not copied.

Source: the GGUF specification (ggml-org/ggml, docs/gguf.md), versions 2 and 3, little-endian.
"""

import mmap
import os
import struct
import sys
import warnings
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from .ggml_types import FLOATS, PACKED, TORCH_NAMES, type_name

if TYPE_CHECKING:  # a header is read without torch too
    import torch

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
LONGEST_NAME = 1024
LONGEST_TEXT = 1 << 24
LONGEST_HEADER = 1 << 28
MOST_ENTRIES = 100_000  # keys or tensors; models have up to some thousands
MOST_TEXTS = 4_000_000  # in all arrays; the largest vocabularies have a tenth of that
MOST_DIMENSIONS = 8
NO_RESERVE = 0x4000  # Linux's MAP_NORESERVE, which Python names from 3.13 on
TENSOR_START = struct.Struct("<I")
TENSOR_END = struct.Struct("<IQ")
LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class ArrayPlace:
    """An array in the header, not read: `kind` and `count` of its entries, and where they begin."""

    kind: int
    count: int
    start: int


@dataclass(frozen=True)
class TensorPlace:
    """A tensor in the file: shape with the fastest dimension last, ggml type number, absolute start, size in bytes."""

    shape: tuple[int, ...]
    number: int
    start: int
    bytes: int

    @property
    def kind(self) -> str:
        """The name of its type, such as Q4_K or F32."""
        return (FLOATS.get(self.number) or PACKED[self.number])[0]

    @property
    def is_packed(self) -> bool:
        """Whether its weights are packed in blocks, and no plain floats."""
        return self.number in PACKED

    @property
    def dtype(self) -> "torch.dtype":
        """uint8 for blocks, else the floats' own."""
        import torch

        return getattr(torch, TORCH_NAMES.get(self.number, "uint8"))


@dataclass
class GGUFFile:
    """The header of a GGUF file and a map of its bytes."""

    path: Path
    buffer: mmap.mmap
    metadata: dict[str, object] = field(default_factory=dict)
    arrays: dict[str, ArrayPlace] = field(default_factory=dict)
    tensors: dict[str, TensorPlace] = field(default_factory=dict)

    def array(self, key: str) -> list | bytes:
        """The entries of an array of the header: bytes for int8 and uint8, else a list."""
        place = self.arrays[key]
        if place.kind == STRING:
            return Reader(self.buffer, place.start).texts(place.count)
        size = struct.calcsize(SCALARS[place.kind]) * place.count
        if place.kind in (0, 1):
            return self.buffer[place.start : place.start + size]
        return list(struct.unpack_from(f"<{place.count}{SCALARS[place.kind]}", self.buffer, place.start))

    def raw(self, name: str) -> "torch.Tensor":
        """A tensor's data without a copy: floats in their shape, or uint8 blocks [..., bytes of a row]. Read only."""
        import torch

        place = self.tensors[name]
        if not place.bytes:  # Qwen-Image-Edit 2511 has an empty tensor for a mark
            return torch.empty(place.shape, dtype=place.dtype)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given buffer is not writable")
            data = torch.frombuffer(self.buffer, dtype=torch.uint8, count=place.bytes, offset=place.start)
        return shaped(data, place)


def shaped(data: "torch.Tensor", place: TensorPlace) -> "torch.Tensor":
    """The bytes of a tensor, uint8 [bytes], as what they are."""
    if place.is_packed:
        return data.view(*place.shape[:-1], -1)
    return data.view(place.dtype).view(place.shape)


def open_gguf(path: Path) -> GGUFFile:
    """Maps a GGUF file and reads its header.

    Raises GGUFError saying what is wrong with the file; time and memory stay within what a file of its size deserves.
    """
    with open(path, "rb") as file:
        if file.read(4) != b"GGUF":
            raise GGUFError(path, "it does not begin like a GGUF file")
        buffer = mapped(file.fileno())
    found = GGUFFile(path, buffer)
    try:
        read_header(found)
    except (struct.error, OverflowError) as err:
        raise GGUFError(path, "it ends in the middle of its header") from err
    except UnicodeDecodeError as err:
        raise GGUFError(path, "a name in it is not text") from err
    except Wrong as err:
        raise GGUFError(path, *err.args) from err
    return found


def mapped(file: int) -> mmap.mmap:
    """The bytes of a file that may be larger than RAM and swap: no page is set aside for writing, since nothing is written.

    Pages that are copied when written can be locked for fast copies to a GPU, and are asked for where they cost nothing.
    """
    if os.name == "nt":
        return mmap.mmap(file, 0, access=mmap.ACCESS_READ)
    try:
        flags = mmap.MAP_PRIVATE | (NO_RESERVE if sys.platform == "linux" else 0)
        return mmap.mmap(file, 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    except OSError:  # a system that counts such pages all the same, or a limit of a container
        return mmap.mmap(file, 0, access=mmap.ACCESS_READ)


class Wrong(Exception):
    """Why a file cannot be loaded, in words that follow "because", and what to do where it is not damaged."""


class GGUFError(ValueError):
    """A file that cannot be loaded: `why`, in words that follow "because", and whether it is `damaged`."""

    def __init__(self, path: Path, why: str, advice: str = "") -> None:
        super().__init__(
            f"{Path(path).name} cannot be loaded, because {why}. "
            f"{advice or 'Download the file again, or choose another variant.'}"
        )
        self.why, self.damaged = why, not advice


def read_header(file: GGUFFile) -> None:
    """Fills in keys, arrays and tensors. Raises Wrong or, where the file ends too early, struct.error."""
    reader = Reader(file.buffer, 4)
    version, tensor_count, key_count = reader.numbers("IQQ")
    if version not in (2, 3):
        raise Wrong(
            "it was written for big-endian machines"
            if version in (2 << 24, 3 << 24)
            else f"it is of version {version}, and versions 2 and 3 are known"
        )
    # A key needs 13 bytes at least, a tensor 24.
    if key_count * 13 + tensor_count * 24 > len(file.buffer) or max(key_count, tensor_count) > MOST_ENTRIES:
        raise Wrong(f"it claims {key_count:,} keys and {tensor_count:,} tensors, more than fit into it")
    for _ in range(key_count):
        if reader.position > LONGEST_HEADER:
            raise Wrong(f"its header is longer than {LONGEST_HEADER:,} bytes")
        key = reader.text(LONGEST_NAME)
        (kind,) = reader.numbers("I")
        if key in file.metadata or key in file.arrays:
            raise Wrong(f"the key '{key}' is in it twice")
        if kind == ARRAY:
            file.arrays[key] = reader.skip_array()
        elif kind == STRING:
            file.metadata[key] = reader.text(LONGEST_TEXT)
        elif kind in SCALARS:
            (file.metadata[key],) = reader.numbers(SCALARS[kind])
        else:
            raise Wrong(f"the key '{key}' is of the unknown kind {kind}")
    read_tensors(file, reader, tensor_count)


def read_tensors(file: GGUFFile, reader: "Reader", count: int) -> None:
    """Fills in `count` tensors and checks that their data lie in the file and not over each other. Raises Wrong."""
    alignment = file.metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or isinstance(alignment, bool) or alignment < 1 or alignment & (alignment - 1):
        raise Wrong(f"its alignment is {alignment}, which is not a power of two")
    rows = []
    for _ in range(count):
        name = reader.text(LONGEST_NAME)
        (dimensions,) = reader.unpack(TENSOR_START)
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise Wrong(f"'{name}' has {dimensions} dimensions")
        shape = reader.numbers(f"{dimensions}Q")[::-1]
        rows.append((name, shape, *reader.unpack(TENSOR_END)))
    data = -(-reader.position // alignment) * alignment
    spans = []
    for name, shape, number, offset in rows:
        if name in file.tensors:
            raise Wrong(f"the tensor '{name}' is in it twice")
        size = tensor_bytes(name, shape, number)
        start = data + offset
        if offset % alignment:
            raise Wrong(f"'{name}' does not begin at a multiple of {alignment}")
        if start + size > len(file.buffer):
            raise Wrong(f"it ends before the data of '{name}' does")
        spans.append((start, start + size, name))
        file.tensors[name] = TensorPlace(shape, number, start, size)
    spans.sort()
    for (_, end, name), (start, _, following) in zip(spans, spans[1:]):
        if start < end:
            raise Wrong(f"'{name}' and '{following}' lie over each other")


def tensor_bytes(name: str, shape: tuple[int, ...], number: int) -> int:
    """Bytes of a tensor's data. Raises Wrong for a type that is not loaded here, or rows that are no whole blocks."""
    weights = prod(shape)
    if prod(size or 1 for size in shape) >= 1 << 48:
        raise Wrong(f"'{name}' has the shape {list(shape)}")
    if number in FLOATS:
        return weights * FLOATS[number][1]
    if number not in PACKED:
        known = ", ".join(name for name, *_ in PACKED.values())
        raise Wrong(
            f"'{name}' is stored as {type_name(number)}, and known are F32, F16, BF16, {known}",
            "Choose a file of another type, such as Q4_K_M.",
        )
    kind, of_block, size = PACKED[number]
    if shape[-1] % of_block:
        raise Wrong(f"the rows of '{name}' have {shape[-1]} weights, and {kind} holds {of_block} in a block")
    return weights // of_block * size


class Reader:
    """Reads a header from front to back. Past the end, struct.error."""

    def __init__(self, buffer: mmap.mmap, position: int) -> None:
        self.buffer, self.position, self.texts_left = buffer, position, MOST_TEXTS

    def unpack(self, form: struct.Struct) -> tuple:
        """The next values, as `form` says."""
        values = form.unpack_from(self.buffer, self.position)
        self.position += form.size
        return values

    def numbers(self, form: str) -> tuple:
        """The next numbers, by their letters in struct's notation, little-endian."""
        return self.unpack(struct.Struct("<" + form))

    def text(self, longest: int) -> str:
        """The next text. Raises Wrong where it has more than `longest` bytes."""
        (length,) = self.unpack(LENGTH)
        if length > longest:
            raise Wrong(f"a name or text in it has {length:,} bytes")
        if self.position + length > len(self.buffer):
            raise struct.error
        text = self.buffer[self.position : self.position + length].decode("utf-8")
        self.position += length
        return text

    def texts(self, count: int) -> list[str]:
        """The next `count` texts."""
        return [self.text(LONGEST_TEXT) for _ in range(count)]

    def skip_array(self) -> ArrayPlace:
        """Where the next array is, whose entries are not read."""
        kind, count = self.numbers("IQ")
        place = ArrayPlace(kind, count, self.position)
        if kind == STRING:
            self.skip_texts(count)
        elif kind in SCALARS:
            self.position += struct.calcsize("<" + SCALARS[kind]) * count
        else:
            raise Wrong(f"an array in it has entries of the kind {kind}")
        if self.position > len(self.buffer):
            raise struct.error
        return place

    def skip_texts(self, count: int) -> None:
        """Steps over texts. Raises Wrong where there are more in the file than any vocabulary has."""
        if count * LENGTH.size > len(self.buffer) - self.position:
            raise struct.error
        self.texts_left -= count
        if self.texts_left < 0:
            raise Wrong(f"it holds more than {MOST_TEXTS:,} words")
        buffer, position, unpack = self.buffer, self.position, LENGTH.unpack_from
        for _ in range(count):
            position += 8 + unpack(buffer, position)[0]
        self.position = position
