"""How many bytes a diffusion model's blocks have, from file headers or, before there is a file, from the catalogue."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from ..base.toml import read_toml
from ..catalog.catalog import Variant, catalogue
from ..formats.gguf_file import open_gguf
from ..formats.model_file import damage
from ..formats.safetensors_file import safetensors_header

CONVROT = "int8_convrot"  # ComfyUI's own int8, which comfy-kitchen multiplies
BLOCK = re.compile(r"(?:^|\.)(?:transformer_)?blocks\.(\d+)\.")


@dataclass(frozen=True)
class Model:
    """A diffusion model: bytes of a block (the largest) and of what lies outside the blocks, and how it computes.

    `unpacks`: bytes of the buffer that one layer's weights are unpacked into; `layer`, `largest`: bytes as stored and
    weights of the largest layer. `multiplies`: cards with 8-bit units multiply the weights as they are stored.
    Of two `experts`, which take turns, each has these numbers. `attention`: part of dense attention's work that is done.
    """

    id: str
    architecture: str
    precision: str
    blocks: int
    block_bytes: int
    other_bytes: int
    layer: int
    largest: float
    unpacks: int
    multiplies: bool
    dim: int
    context: int
    reference_frames: int
    token_weights: float
    total_weights: float
    experts: int
    attention: float

    @property
    def bytes(self) -> int:
        """Of all its weights as they are stored."""
        return self.blocks * self.block_bytes + self.other_bytes


@lru_cache(maxsize=1)
def kinds() -> dict:
    """What models.toml says of architectures, and of TurboDiffusion's attention."""
    return read_toml(Path(__file__).parent / "models.toml")


def architecture_of(variant: str) -> str:
    """The architecture of a catalogue variant; a file of the user's own is taken for SteadyDancer."""
    book = catalogue()
    if variant not in book.variants:
        return "steadydancer"
    file = book.diffusion(book.variants[variant])
    return file.architecture if file else ""


def kind_of(variant: str) -> dict:
    """What models.toml says of a variant's architecture. Raises ValueError for one that it does not know."""
    found = kinds()["architectures"].get(architecture_of(variant))
    if found is None:
        raise ValueError(f"The planner does not know models like {variant}. It knows SteadyDancer, Wan and TurboWan.")
    turbo = kinds()["turbo"]
    return {**found, "branches": turbo["branches"], "steps": turbo["steps"]} if is_turbo(variant) else found


def is_turbo(variant: str) -> bool:
    """Whether it is a TurboDiffusion model."""
    book = catalogue()
    return variant in book.variants and book.families[book.variants[variant].family].loader == "turbo"


def plannable() -> list[str]:
    """The catalogue's variants that can be planned."""
    known = [name for name, kind in kinds()["architectures"].items() if "token_bytes" not in kind]
    return [variant for variant in catalogue().variants if architecture_of(variant) in known]


def model_of(variant: str, paths: list[Path]) -> Model:
    """A variant, or a user's own file, by the headers of `paths` where there are some. Raises ValueError for bad headers."""
    kind = kind_of(variant)
    weights = kind["weights"]
    entry = catalogue().variants.get(variant)
    experts = entry.experts if entry else 1
    stored = stored_bytes(paths) if paths else published_bytes(catalogue().variants[variant], kind)
    if stored.precision == "fp32":  # float32 shards run in 16 bits
        stored = replace(stored, block_bytes=stored.block_bytes // 2, other_bytes=stored.other_bytes // 2)
    layer = stored.layer or round(stored.block_bytes * weights["largest"] / weights["block"])
    plain = stored.precision in ("fp16", "bf16", "fp32")
    return Model(
        id=variant,
        architecture=architecture_of(variant),
        precision=stored.precision,
        blocks=stored.blocks,
        block_bytes=stored.block_bytes,
        other_bytes=stored.other_bytes,
        layer=layer,
        largest=weights["largest"],
        unpacks=0 if plain else round(2 * weights["largest"]),
        multiplies=stored.precision in ("fp8", "int8", CONVROT) and not stored.full_precision,
        dim=kind["dim"],
        context=kind["context"],
        reference_frames=kind["reference_frames"],
        token_weights=weights["token"],
        total_weights=weights["block"],
        experts=experts,
        attention=kinds()["turbo"]["attention"] if is_turbo(variant) else 1.0,
    )


@dataclass(frozen=True)
class Stored:
    """A model's bytes, by block and beside the blocks; `layer` is 0 where only the catalogue is known."""

    precision: str
    block_bytes: int
    other_bytes: int
    blocks: int
    layer: int
    full_precision: bool


def published_bytes(variant: Variant, kind: dict) -> Stored:
    """What the catalogue says of a variant's files, of which a part is here or nothing."""
    files = [catalogue().files[id] for id in variant.diffusion]
    size = sum(file.size for file in files) // variant.experts
    other = round(kind["weights"]["other"] * (4 if files[0].precision == "fp32" else 2))
    block = (size - other) // kind["blocks"]
    return Stored(files[0].precision, block, other, kind["blocks"], 0, files[0].full_precision)


def stored_bytes(paths: list[Path]) -> Stored:
    """What the headers of a model's file, or of all its shards, say. Raises ValueError for a file that is no model."""
    sizes: dict[int, int] = {}
    other = largest = 0
    full_precision = described = False
    types: dict[str, int] = {}
    for path in paths:
        for name, kind, size in tensors(path):
            block = BLOCK.search(name)
            described |= name.endswith(".comfy_quant")
            if block:
                sizes[int(block[1])] = sizes.get(int(block[1]), 0) + size
                largest = max(largest, size)
                types[kind] = types.get(kind, 0) + size
            else:
                other += size
                full_precision |= name.endswith("scaled_fp8") and size == 2  # as quant/fp8.py reads it
    if not sizes:
        raise ValueError(f"{paths[0].name} has no transformer blocks, so it is no diffusion model that can be planned.")
    precision = max(types, key=types.__getitem__)
    if described and precision == "int8":
        precision = CONVROT
    return Stored(precision, max(sizes.values()), other, len(sizes), largest, full_precision)


def tensors(path: Path) -> Iterator[tuple[str, str, int]]:
    """Name, type and bytes of each tensor, by the file's header alone."""
    floats = {"F16": "fp16", "BF16": "bf16", "F32": "fp32"}
    if path.suffix.lower() == ".gguf":
        for name, place in open_gguf(path).tensors.items():
            yield name, floats.get(place.kind, place.kind), place.bytes
        return
    if path.suffix.lower() != ".safetensors":
        raise ValueError(f"{path.name} has no header that says what is in it. Plan with its variant of the catalogue.")
    names = floats | {"F8_E4M3": "fp8", "F8_E5M2": "fp8", "I8": "int8"}
    for name, entry in header(path).items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            yield name, names.get(entry["dtype"], entry["dtype"]), end - start


def header(path: Path) -> dict:
    """The header that a safetensors file begins with. Raises ValueError where it is cut off or not JSON."""
    try:
        return safetensors_header(path)
    except ValueError as err:
        raise ValueError(f"{path.name} is damaged: it {damage(path) or err}. Download it again.") from err
    except OSError as err:
        raise ValueError(f"{path} cannot be read ({err.strerror}). Choose another file.") from err


def lora_bytes(paths: list[Path]) -> int:
    """Bytes that LoRA files take in 16 bits: each layer's rank · (inputs + outputs) · 2, by their headers.

    Of a pickle (.pt) its own size. Raises ValueError for a file that cannot be read.
    """
    widths = {"F32": 4, "F16": 2, "BF16": 2}
    total = 0
    for path in paths:
        if not path.is_file():
            raise ValueError(f"There is no file {path}. Choose another LoRA.")
        if path.suffix.lower() not in (".safetensors", ".sft"):
            total += path.stat().st_size
            continue
        for name, entry in header(path).items():
            if name != "__metadata__":
                start, end = entry["data_offsets"]
                total += 2 * (end - start) // widths.get(entry["dtype"], 2)
    return total
