"""Pickled checkpoints, converted once to safetensors beside them: such a file is mapped, and nothing in it can run."""

import errno
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open

from ..base.cancel import IsCancelled, stop_if
from ..base.lock import locked
from ..formats import model_file, pickle_file
from .download.places import cut_short

SOURCE, CONTENTS = "steadydancer.source", "steadydancer.contents"
CHUNK = 1 << 24


def as_safetensors(
    path: Path,
    check: Callable[[dict[str, torch.Tensor], str], None],
    progress: Callable[[int, int], None],
    cancelled: IsCancelled,
    say: Callable[[str], None],
) -> Path:
    """The safetensors file with the tensors of the pickled `path`, made beside it if it is not there.

    `check(tensors, name)` may refuse the file before anything is written. Raises ValueError with what to do, and
    Cancelled within a second of `cancelled()`; neither leaves a file that could be taken for whole.
    """
    target = path.with_suffix(".safetensors")
    if is_conversion(target, path):
        return target
    tensors = read(path)
    check(tensors, path.name)
    part = target.with_name(target.name + ".part")
    try:
        with locked(Path(f"{target}.lock"), meanwhile=partial(stop_if, cancelled)):
            try:
                if not is_conversion(target, path):  # else another process has just made it
                    say(f"{path.name} is converted once to {target.name}. The .pth is not needed after that.")
                    convert(path, tensors, part, progress, cancelled)
                    os.replace(part, target)
            finally:
                part.unlink(missing_ok=True)
    except OSError as err:
        advice = "Make the folder writable, or convert the file on another machine."
        if err.errno == errno.ENOSPC:
            advice = "The disk is full: free some space, then try again."
        raise ValueError(f"{target.name} could not be written into {target.parent} ({err.strerror}). {advice}") from err
    return target


def metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file. Raises ValueError when it is damaged."""
    if reason := cut_short(path, "safetensors"):
        raise ValueError(
            f"{path.name} cannot be loaded, because it {reason}. Delete it, and fetch or convert it again."
        )
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def is_conversion(target: Path, path: Path) -> bool:
    """Whether `target` has the contents of the pickled `path`. Raises ValueError where it is somebody's own file."""
    if not target.is_file():
        return False
    if cut_short(target, "safetensors"):
        return False
    known = metadata(target)
    if CONTENTS not in known:
        raise ValueError(
            f"{target.name} lies beside {path.name} but was not made from it. Choose {target.name}, or rename one of them."
        )
    return known[CONTENTS] == contents(path)


def contents(path: Path) -> str:
    """Tells one pickled file from another by the checksums in its directory, without reading it.

    Raises ValueError where there is none: the file is cut short, or PyTorch's format before 1.6.
    """
    try:
        listed = model_file.zip_entries(path)
    except model_file.Wrong as err:
        raise ValueError(f"{path.name} is damaged or no checkpoint of PyTorch. Delete it and fetch it again.") from err
    entries = sorted((entry.filename.partition("/")[2], entry.CRC, entry.file_size) for entry in listed)
    return f"{zlib.crc32(repr(entries).encode()):08x}-{path.stat().st_size}"


def read(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a pickled file that holds nothing else, mapped. Raises ValueError with what to do."""
    found = pickle_file.unpickled(path)
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise ValueError(f"{path.name} is not a plain list of tensors. Choose the published TurboWan file.")
    return pickle_file.require_plain(found, path)


def convert(
    path: Path,
    tensors: dict[str, torch.Tensor],
    part: Path,
    progress: Callable[[int, int], None],
    cancelled: IsCancelled,
) -> None:
    """Writes `part`, and compares it with the tensors byte by byte."""
    header: dict[str, dict] = {"__metadata__": {"format": "pt", SOURCE: path.name, CONTENTS: contents(path)}}
    end = 0
    # the widest numbers first: every tensor then lies where its numbers may be mapped
    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    for name in names:
        tensor = tensors[name]
        header[name] = {
            "dtype": pickle_file.NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [end, end + tensor.nbytes],
        }
        end += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    free = shutil.disk_usage(part.parent).free
    if len(text) + end > free:
        raise ValueError(
            f"Not enough disk space to convert {path.name}: it needs {end / 1e9:.1f} GB, {free / 1e9:.1f} GB are free in "
            f"{part.parent}. Free some space, or choose the int8 file, which is half as large."
        )
    with open(part, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for done, chunk in chunks(tensors, names):
            file.write(chunk)
            progress(done, 2 * end)
            stop_if(cancelled)
        file.flush()
        os.fsync(file.fileno())
    with open(part, "rb") as file:
        file.seek(8 + len(text))
        for done, chunk in chunks(tensors, names):
            if file.read(len(chunk)) != chunk:
                raise ValueError(
                    f"{path.name} was not written correctly into {part.parent}. Check the disk, then try again."
                )
            progress(end + done, 2 * end)
            stop_if(cancelled)


def chunks(tensors: dict[str, torch.Tensor], names: list[str]) -> Iterator[tuple[int, memoryview]]:
    """All bytes in order, in chunks, with how many there are up to the end of each."""
    done = 0
    for name in names:
        for chunk in tensors[name].contiguous().reshape(-1).view(torch.uint8).split(CHUNK):
            done += len(chunk)
            yield done, memoryview(chunk.numpy())
