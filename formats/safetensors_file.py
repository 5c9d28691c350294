"""A safetensors file: its header, read in time and memory that a file of its size deserves."""

import json
import struct
from math import prod
from pathlib import Path

BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "C64": 64,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8,
}  # fmt: skip
PLAIN_HEADER = 2 << 20  # bytes; a longer one must be small beside the data that it describes


def safetensors_header(path: Path) -> dict[str, dict]:
    """The header of a safetensors file: name → dtype, shape, data_offsets; and `__metadata__`, name → text.

    Raises ValueError in words that follow "it" where it cannot be read or is longer than a header of such a file can be.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        begin = file.read(8)
        length = struct.unpack("<Q", begin)[0] if len(begin) == 8 else size
        if length > size - 8:
            raise ValueError("is cut short")
        if length > max(PLAIN_HEADER, size // 8):
            raise ValueError(f"has a header of {length:,} bytes, too long for what it describes")
        text = file.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise ValueError("has a header that cannot be read") from err
    if not isinstance(header, dict) or not all(
        well_formed(entry) for name, entry in header.items() if name != "__metadata__"
    ):
        raise ValueError("has a header that cannot be read")
    if not isinstance(header.get("__metadata__", {}), dict):
        raise ValueError("has a header that cannot be read")
    return header


def well_formed(entry: object) -> bool:
    """Whether a header's entry has a type, a shape and both ends of its data, in whole numbers that a file can have."""
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    numbers = (
        [*shape, *offsets] if isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2 else [""]
    )
    return len(numbers) < 12 and all(type(number) is int and 0 <= number < 1 << 63 for number in numbers)


def safetensors_damage(path: Path) -> str:
    """Why the file is not what its header says, in words that follow "it"; empty where it is. No tensor is read."""
    try:
        header = safetensors_header(path)
    except ValueError as err:
        return str(err)
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
    end = 0
    spans = sorted((*entry["data_offsets"], name) for name, entry in header.items() if name != "__metadata__")
    for start, stop, name in spans:
        bits = BITS.get(header[name]["dtype"])
        size = (prod(header[name]["shape"]) * bits + 7) // 8 if bits else stop - start
        if start != end or stop < start or size != stop - start:
            return f"says of '{name}' what cannot be"
        end = stop
    size, whole = path.stat().st_size, 8 + length + end
    if size == whole:
        return ""
    return "is cut short" if size < whole else f"is {size - whole:,} bytes longer than its header says"


def quantisation_formats(path: Path) -> set[str]:
    """The names of the formats that ComfyUI's own description (`comfy_quant`) gives to layers of a safetensors file."""
    header = safetensors_header(path)
    texts = [
        json.dumps(layer) for layer in layers_of(header.get("__metadata__", {}).get("_quantization_metadata", "{}"))
    ]
    with open(path, "rb") as file:
        base = 8 + struct.unpack("<Q", file.read(8))[0]
        for name, entry in header.items():
            if name.endswith(".comfy_quant"):
                start, end = entry["data_offsets"]
                file.seek(base + start)
                texts.append(file.read(min(end - start, 4096)).decode("utf-8", "replace"))
    return {format_in(text) for text in texts}


def layers_of(text: str) -> list:
    """The descriptions of layers in `_quantization_metadata`, none where it cannot be read."""
    try:
        return list(json.loads(text).get("layers", {}).values())
    except (ValueError, RecursionError, AttributeError):
        return []


def format_in(text: str) -> str:
    """What a layer's description calls its format. ComfyUI-INT8-Fast, for one, has written descriptions without one."""
    try:
        return str(json.loads(text).get("format") or "without a name")
    except (ValueError, RecursionError, AttributeError):
        return "an unreadable description"
