"""Where model files lie on this machine, and whether a file that is there is the one that its publisher meant."""

import contextlib
import hashlib
import json
import os
import struct
import threading
import zipfile
from pathlib import Path

from ..catalog.catalog import ModelFile
from .errors import DownloadCancelled
from .listing import Names, names_below
from .transfer import BLOCK, Cancelled, Progress

RECORD = ".steadydancer.json"
WHOLE = "."  # the record's entry for a snapshot folder of which every file is there
recording = threading.Lock()


class Places:
    """The models folder. A ComfyUI with further folders has its own subclass (loaders/build)."""

    def __init__(self, models_dir: Path | str):
        self.models_dir = Path(models_dir)

    def folders(self, folder: str) -> list[Path]:
        """Where files of `folder` may lie; the first is where a new one is put."""
        return [self.models_dir / folder]

    def find(self, file: ModelFile) -> Path | None:
        """The file, or the finished snapshot folder, if it is here. Subfolders count: people sort their models."""
        if file.format == "folder":
            found = self.target(file)
            names = read(found).get(WHOLE, {}).get("files", [])
            return found if names and all((found / name).is_file() for name in names) else None
        for root in self.folders(file.folder):
            if file.name and (root / file.name).is_file():
                return root / file.name
        for root in self.folders(file.folder):
            for pattern in file.patterns:
                if found := self.names(root).find(pattern):
                    return root / found[0]
        return None

    def names(self, root: Path) -> Names:
        """The files below one of the folders."""
        return names_below(root)

    def target(self, file: ModelFile, name: str = "") -> Path:
        """Where a download of the file ends up."""
        return self.folders(file.folder)[0] / (file.name or name)


def read(folder: Path) -> dict[str, dict]:
    """What we know of a folder's files: name → size, mtime, sha256, and `trusted` where a person vouches for it."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return {}


def record(path: Path, sha256: str, trusted: bool = False) -> None:
    """Remembers the hash of the file as it is now, so that the next check costs nothing."""
    stat = path.stat()
    entry = {"size": stat.st_size, "mtime": stat.st_mtime_ns, "sha256": sha256, "trusted": trusted}
    write(path.parent, path.name, entry)


def write(folder: Path, name: str, entry: dict) -> None:
    """Sets one entry of a folder's record. Two processes at the same instant cost one entry: a hash is made again."""
    with recording, contextlib.suppress(OSError):  # a folder that may only be read: the hash is made again
        known = read(folder) | {name: entry}
        fresh = folder / f"{RECORD}.{os.getpid()}"
        fresh.write_text(json.dumps(known, indent=1, sort_keys=True), encoding="utf-8")
        os.replace(fresh, folder / RECORD)


def recorded(path: Path) -> dict:
    """What was recorded of the file, or nothing when it has changed since."""
    entry = read(path.parent).get(path.name, {})
    stat = path.stat()
    return entry if (entry.get("size"), entry.get("mtime")) == (stat.st_size, stat.st_mtime_ns) else {}


def damage(path: Path, file: ModelFile, progress: Progress, cancelled: Cancelled) -> str:
    """Why the file at `path` cannot be what the catalogue means, in words that follow "it"; empty when it is fine.

    Reads the whole file once where the catalogue knows its hash; after that the record answers.
    """
    if path.is_dir() or path.name == file.converted:  # the conversion was checked when it was made
        return ""
    entry = recorded(path)
    if entry.get("trusted") or (entry and file.sha256 and entry["sha256"].startswith(file.sha256)):
        return ""
    size = path.stat().st_size
    if file.bytes and size != file.bytes:
        return f"has {size:,} bytes instead of {file.bytes:,}"
    reason = cut_short(path, file.format)
    if reason or not file.sha256:
        return reason
    sha256 = file_hash(path, progress, cancelled)
    record(path, sha256)
    return "" if sha256.startswith(file.sha256) else "has another sha256 than the published file"


def cut_short(path: Path, format: str) -> str:
    """Whether the file ends before its own header, or what was recorded of it, says it does."""
    if read(path.parent).get(path.name, {}).get("size", 0) > path.stat().st_size:
        return "is cut short"
    if format == "safetensors":
        with (
            open(path, "rb") as file,
            contextlib.suppress(ValueError, struct.error, KeyError, TypeError, AttributeError),
        ):
            size = path.stat().st_size
            (length,) = struct.unpack("<Q", file.read(8))
            if length + 8 <= size:
                header = json.loads(file.read(length))
                ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
                if size == 8 + length + max(ends, default=0):
                    return ""
        return "is cut short"
    if format == "gguf":
        with open(path, "rb") as file:
            return "" if file.read(4) == b"GGUF" else "is not a GGUF file"
    if format == "pickle":
        with open(path, "rb") as file:
            zipped = file.read(2) == b"PK"
        return "is cut short" if zipped and not zipfile.is_zipfile(path) else ""
    return "is empty" if format == "onnx" and not path.stat().st_size else ""


def file_hash(path: Path, progress: Progress, cancelled: Cancelled) -> str:
    """sha256 of a file. Raises DownloadCancelled."""
    digest, buffer, done, size = hashlib.sha256(), memoryview(bytearray(8 * BLOCK)), 0, path.stat().st_size
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            done += count
            progress(done, size)
            if cancelled():
                raise DownloadCancelled
    return digest.hexdigest()
