"""Makes a smaller file of a model's fp16, bf16 or fp32 safetensors, in a format that ComfyUI itself loads.

int8_convrot is half of fp16, closer to it than fp8, and multiplied by NVIDIA cards from the RTX 20 series on. It needs
PyTorch and comfy-kitchen, so run it with ComfyUI's Python. No GPU is used; memory stays below 1 GB.
"""

import argparse
from pathlib import Path

from ..base.progress import TerminalLine
from ..catalog.catalog import catalogue
from ..convert.recipe import TARGETS
from ..convert.source import converted_path, open_source
from .machine import add_models_dir, models


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = subparsers.add_parser("convert", help="make a smaller file of a model", description=__doc__)
    parser.add_argument("source", help="a safetensors file, a folder of shards, their index, or a variant that is here")
    parser.add_argument("--to", required=True, choices=TARGETS)
    parser.add_argument("--output", type=Path, help="file or folder (default: beside the source, named after it)")
    add_models_dir(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Makes the file, or says that it was here already. 0; raises ValueError where it cannot be made."""
    path = source_path(args)
    source = open_source(path)
    target = args.output or converted_path(path, args.to)
    if target.is_dir():
        target = target / converted_path(path, args.to).name
    try:
        from ..convert.write import convert
    except ModuleNotFoundError as err:
        raise ValueError(
            f"Converting needs the Python package {err.name}, which comes with ComfyUI. Run this with ComfyUI's Python."
        ) from err
    report = convert(source, target, args.to, TerminalLine(target.name), lambda: False)
    print(f"{report.bytes:>16,}  {report.path}" + ("" if report.new else " was here already, made from the same file"))
    if report.new:
        print(f"{report.changed} tensors were changed, the most by {report.worst:.2%}: {report.worst_name}")
    return 0


def source_path(args: argparse.Namespace) -> Path:
    """The file or folder that was named, or the first file of a variant of the catalogue. Raises ValueError where it is
    not here."""
    variant = catalogue().variants.get(args.source)
    if variant is None:
        return Path(args.source).expanduser()
    where = models(args)
    found = [where.find(catalogue().files[id]) for id in variant.diffusion]
    if found[0] is None or None in found:
        raise ValueError(f"{args.source} is not here. Fetch it first: cli.py download {' '.join(variant.diffusion)}")
    return found[0]
