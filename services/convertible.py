"""What can be converted here: which models, which file of them, and what a loader calls the new one."""

import os
from pathlib import Path

import folder_paths

from ..catalog.catalog import ModelFile, catalogue
from ..convert.source import converted_path
from ..convert.write import Report
from ..loaders import build
from . import loading
from .conversion import make

PLAIN = ("fp32", "fp16", "bf16")
OTHERS = ("z-image", "qwen-image")  # whose layers are called otherwise


def sources() -> list[str]:
    """What can be converted: the catalogue's models of Wan's kind in 16 or 32 bits, then a user's own safetensors files."""
    book = catalogue()
    known = [
        variant for variant in book.variants.values() if variant.experts == 1 and is_plain(book.diffusion(variant))
    ]
    own = [name for name in loading.own_files() if name.endswith(".safetensors")]
    return [*(variant.id for variant in known), *own]


def is_plain(file: ModelFile | None) -> bool:
    """Whether a catalogue file is a model of Wan's kind in 16 or 32 bits, as safetensors."""
    return (
        file is not None
        and file.precision in PLAIN
        and file.format == "safetensors"
        and file.architecture not in OTHERS
    )


def converted(source: str, to: str) -> Report:
    """Makes the file of a variant or of a user's own file, with progress and Cancel on the node that is being executed.

    What is not here is fetched first. Raises ValueError, saying what to do, for what cannot be converted.
    """
    variant = catalogue().variants.get(source)
    path = loading.fetch(*variant.diffusion)[0] if variant else build.own_file("diffusion_models", source)
    return make(path, converted_path(path, to), to)


def fingerprint(source: str, to: str) -> list:
    """Changes when the source does, or when the file that was made of it is no longer there."""
    variant = catalogue().variants.get(source)
    try:
        path = loading.finder()(variant.diffusion[0] if variant else source)
        found = [each.stat() for each in (path, converted_path(path, to))] if path else []
    except (OSError, ValueError):
        found = []
    return [source, to, *((stat.st_size, stat.st_mtime_ns) for stat in found)]


def name_of(path: Path) -> str:
    """What a loader calls a diffusion model's file: the catalogue's variant, else its path in models/diffusion_models."""
    book = catalogue()
    for variant in book.variants.values():
        if len(variant.diffusion) == 1 and path.name in book.files[variant.diffusion[0]].patterns:
            return variant.id
    for root in folder_paths.get_folder_paths("diffusion_models"):
        folder = os.path.abspath(root)
        if path.is_relative_to(folder):
            return str(path.relative_to(folder))
    return path.name
