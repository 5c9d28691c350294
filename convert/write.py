"""Writes a conversion: streamed into a file beside the target, read back and compared, then put in place in one step."""

import errno
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import BinaryIO

import torch

from ..base.cancel import IsCancelled, stop_if
from ..base.lock import locked
from ..formats.safetensors_file import BITS, safetensors_damage, safetensors_header
from . import numbers
from .recipe import Description, Part, Step, steps
from .source import Source

FROM, DIGEST, HOW = "steadydancer.converted_from", "steadydancer.source_digest", "steadydancer.converted_to"
WORDS = {
    "int8_convrot": "layers of the blocks as int8, a scale a row, inputs rotated in groups of 256",
    "fp8_scaled": "layers of the blocks as float8_e4m3fn, a scale a layer",
    "bf16": "matrices as bfloat16",
    "fp16": "matrices as float16",
}
CHUNK = 1 << 24
UNSYNCED = 1 << 26  # bytes that wait for the disk: all of them at the end would take minutes, deaf to Cancel
SPARE = 64 << 20  # bytes of the disk that stay free


@dataclass
class Report:
    """What was made: its bytes, how many tensors were changed, and the worst of their errors against the source, relative,
    with its tensor's name. `new` is False where the file was here already and nothing was computed."""

    path: Path
    bytes: int = 0
    changed: int = 0
    worst: float = 0.0
    worst_name: str = ""
    new: bool = True


@dataclass
class Watch:
    """Says how far it is and asks whether to stop: `progress(done, total)` in bytes read and written."""

    progress: Callable[[int, int], None]
    cancelled: IsCancelled
    total: int
    done: int = 0

    def more(self, count: int) -> None:
        """Raises Cancelled where the user wants that."""
        self.done += count
        self.progress(self.done, self.total)
        stop_if(self.cancelled)


@dataclass
class Output:
    """The file that is written: its tensors, where each begins, and the checksum of what was put there."""

    file: BinaryIO
    parts: dict[str, Part]
    places: dict[str, int]
    checksums: dict[str, int] = field(default_factory=dict)
    unsynced: int = 0

    def put(self, name: str, row: int, rows: torch.Tensor) -> None:
        """Rows of a tensor, of which those before `row` were put before."""
        raw = rows.contiguous().reshape(-1).view(torch.uint8).numpy().data
        self.file.seek(self.places[name] + row * size(self.parts[name]) // (self.parts[name].shape or (1,))[0])
        self.file.write(raw)
        self.checksums[name] = zlib.crc32(raw, self.checksums.get(name, 0))
        self.unsynced += len(raw)
        if self.unsynced > UNSYNCED:
            self.sync()

    def sync(self) -> None:
        """Puts onto the disk what was written."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.unsynced = 0


def convert(
    source: Source, target: Path, to: str, progress: Callable[[int, int], None], cancelled: IsCancelled
) -> Report:
    """Makes `target` from the source in the precision `to`, one of recipe.TARGETS, in the memory of a few pieces.

    `progress(done, total)` counts bytes. Raises ValueError with what to do, and Cancelled within a second of
    `cancelled()`; whatever happens, nothing but the whole and compared file gets the target's name.
    """
    recipe = steps(source, to)
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(Path(f"{target}.lock"), meanwhile=partial(stop_if, cancelled)):
            if is_conversion(target, source, to):  # of an earlier run, or of another process just now
                return Report(target, target.stat().st_size, new=False)
            try:
                report = write(part, source, recipe, to, progress, cancelled)
                os.replace(part, target)
            finally:
                part.unlink(missing_ok=True)
    except OSError as err:
        raise ValueError(failure(err, source, target)) from err
    report.path = target
    return report


def failure(err: OSError, source: Source, target: Path) -> str:
    """What an error of a disk means."""
    if err.filename and Path(err.filename) in source.paths:
        return f"{err.filename} cannot be read ({err.strerror}). Check the disk, or fetch the file again."
    advice = "Choose another folder for it."
    if err.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = "The disk is full: free some space, then try again."
    return f"{target.name} could not be written into {target.parent} ({err.strerror}). {advice}"


def is_conversion(target: Path, source: Source, to: str) -> bool:
    """Whether the target is this conversion of this source. Raises ValueError where it is anything else that is whole."""
    if not target.is_file() or safetensors_damage(target):
        return False
    known = safetensors_header(target).get("__metadata__", {})
    if known.get(DIGEST) == source.digest and known.get(HOW, "").split(",")[0] == to:
        return True
    raise ValueError(
        f"{target.name} is here already and was not made from {source.name}. Rename it, or give the new file another name."
    )


def write(
    part: Path, source: Source, recipe: list[Step], to: str, progress: Callable, cancelled: IsCancelled
) -> Report:
    """Fills `part`, and compares it with what the disk gives back."""
    parts = {name: entry for step in recipe for name, entry in step.parts.items()}
    head, places = header(parts, metadata(source, to))
    data = sum(map(size, parts.values()))
    require_room(part, len(head) + data)
    watch, report = Watch(progress, cancelled, source.bytes + data), Report(part, len(head) + data)
    with open(part, "wb") as file:
        file.write(head)
        file.truncate(report.bytes)
        output = Output(file, parts, places)
        for step in recipe:
            try:
                error = convert_tensor(step, output, watch)
            except numbers.Spoilt as err:
                raise ValueError(f"{source.name} cannot be converted to {to}: its '{step.name}' {err}.") from err
            if step.kind != "keep":
                report.changed += 1
                report.worst, report.worst_name = max((report.worst, report.worst_name), (error, step.name))
        output.sync()
        if hasattr(os, "posix_fadvise"):  # so that the disk is read, and not the memory that was just written
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if not same(part, head, output, watch):
        raise ValueError(
            f"The disk does not give back what was written to {part.name}. Check the disk of {part.parent}, then try again."
        )
    return report


def convert_tensor(step: Step, output: Output, watch: Watch) -> float:
    """Writes all that one tensor becomes. Returns its error, relative. Raises numbers.Spoilt."""
    amax, off, whole = 0.0, 0.0, 0.0
    for piece in numbers.largest(step):
        amax = max(amax, piece.item())
        watch.more(0)
    for row, rows in numbers.pieces(step.tensor):
        stored, its_error, its_whole = numbers.converted(step, rows, amax)
        for name, tensor in stored.items():
            if row == 0 or output.parts[name].shape:  # the one scale of all rows is written once
                output.put(name, row, tensor)
        off, whole = off + its_error, whole + its_whole
        watch.more(rows.nbytes)
    for name, entry in step.parts.items():
        if isinstance(entry, Description):
            output.put(name, 0, numbers.description(entry))
    return (off / whole) ** 0.5 if whole else 0.0


def same(path: Path, head: bytes, output: Output, watch: Watch) -> bool:
    """Whether a file holds the header and what was put after it."""
    with open(path, "rb") as file:
        if file.read(len(head)) != head:
            return False
        for name, part in output.parts.items():
            found, left = 0, size(part)
            file.seek(output.places[name])
            while left:
                raw = file.read(min(CHUNK, left))
                if not raw:
                    return False
                found, left = zlib.crc32(raw, found), left - len(raw)
                watch.more(len(raw))
            if found != output.checksums.get(name, 0):
                return False
    return True


def size(part: Part) -> int:
    """Bytes of a tensor."""
    return prod(part.shape) * BITS[part.dtype] // 8


def header(parts: dict[str, Part], words: dict[str, str]) -> tuple[bytes, dict[str, int]]:
    """The beginning of a safetensors file, and where in it each tensor begins."""
    entries: dict[str, dict] = {"__metadata__": words}
    places, end = {}, 0
    # the widest numbers first: every tensor then lies where its numbers may be mapped
    for name in sorted(parts, key=lambda name: -BITS[parts[name].dtype]):
        part = parts[name]
        entries[name] = {"dtype": part.dtype, "shape": list(part.shape), "data_offsets": [end, end + size(part)]}
        places[name], end = end, end + size(part)
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    text = struct.pack("<Q", len(text)) + text
    return text, {name: len(text) + place for name, place in places.items()}


def metadata(source: Source, to: str) -> dict[str, str]:
    """The source's own words, from what the file was made, and how."""
    kept = {key: text for key, text in source.metadata.items() if isinstance(text, str)}
    return {"format": "pt", **kept, FROM: source.name, DIGEST: source.digest, HOW: f"{to}, {WORDS[to]}"}


def require_room(part: Path, needed: int) -> None:
    """Raises ValueError where the disk has no room for the file."""
    left_over = part.stat().st_size if part.exists() else 0  # of a run that was killed, and is written over
    free = shutil.disk_usage(part.parent).free + left_over
    if needed + SPARE > free:
        raise ValueError(
            f"Not enough disk space: {part.name.removesuffix('.part')} needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB "
            f"are free in {part.parent}. Free some space, or choose another folder."
        )
