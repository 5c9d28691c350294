"""Where model files lie on this machine, and whether a file that is there is the one that its publisher meant."""

import contextlib
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ...base.cancel import IsCancelled, stop_if
from ...base.regular import regular
from ...catalog.catalog import ModelFile, catalogue
from ...formats import model_file
from .listing import Names, names_below
from .transfer import BLOCK, Progress

RECORD = ".steadydancer.json"
LONGEST_RECORD = 64 << 20  # bytes: more is none of ours
WHOLE = "."  # the record's entry for a snapshot folder of which every file is there
recording = threading.Lock()
OLD_NAMES = {"diffusion_models": "unet", "text_encoders": "clip", "controlnet": "t2i_adapter"}  # ComfyUI reads both


class Places:
    """A models folder, and what extra_model_paths.yaml adds to it: (kind of models, folder, whether it comes first).

    Inside ComfyUI its own subclass asks ComfyUI (loaders/build).
    """

    def __init__(self, models_dir: Path | str, extra: Iterable[tuple[str, Path, bool]] = ()) -> None:
        self.models_dir = Path(models_dir)
        self.extra = list(extra)

    def folders(self, folder: str) -> list[Path]:
        """Where files of `folder` may lie; the first is where a new one is put."""
        found = [self.models_dir / name for name in dict.fromkeys((folder, OLD_NAMES.get(folder, folder)))]
        for name, path, first in self.extra:
            if name == folder and (first or path not in found):
                found = [path, *(other for other in found if other != path)] if first else [*found, path]
        return sorted(found, key=lambda path: path == self.models_dir / "unet")  # searched, but nothing is put there

    def everywhere(self) -> list[Path]:
        """Every folder that models may lie in, for a name of which nothing says what it is."""
        return [self.models_dir, *(path for _, path, _ in self.extra)]

    def find(self, file: ModelFile) -> Path | None:
        """The file, or the finished snapshot folder, if it is here. Subfolders count: people sort their models.

        One that is damaged counts too where there is no whole one: `look` says what is wrong with it.
        """
        return self.look(file)[0]

    def look(self, file: ModelFile) -> tuple[Path | None, str]:
        """What `find` finds, and why it cannot be what the catalogue means, as `broken` says it."""
        if file.format == "folder":
            found = self.target(file)
            names = read(found).get(WHOLE, {}).get("files")
            return (found if names and all((found / str(name)).is_file() for name in names) else None), ""
        damaged: tuple[Path | None, str] = (None, "")
        for path in self.candidates(file):
            wrong = broken(path, file)
            if not wrong:
                return path, ""
            damaged = damaged if damaged[0] else (path, wrong)
        return damaged

    def usable(self, file: ModelFile) -> Path | None:
        """What `find` finds, unless it is damaged: that is fetched again. Another size than the catalogue's is no damage."""
        path, wrong = self.look(file)
        return None if path and wrong and model_file.damage(path, file.format) else path

    def candidates(self, file: ModelFile) -> Iterator[Path]:
        """Whatever lies under a name of the file, folders and links that lead nowhere among it."""
        for root in self.folders(file.folder):
            if file.name and os.path.lexists(root / file.name):
                yield root / file.name
        for root in self.folders(file.folder):
            for pattern in file.patterns:
                yield from (root / name for name in self.names(root).find(pattern))

    def names(self, root: Path) -> Names:
        """The files below one of the folders."""
        return names_below(root)

    def target(self, file: ModelFile, name: str = "") -> Path:
        """Where a download of the file ends up."""
        return self.folders(file.folder)[0] / (file.name or name)


def finder(where: Places | None, own: Callable[[str], Path | None]) -> Callable[[str], Path | None]:
    """Path of a catalogue file id where it is here and not damaged, else of a user's own file, which `own` finds."""

    def find(name: str) -> Path | None:
        if name in catalogue().files:
            return where.usable(catalogue().files[name]) if where else None
        return own(name)

    return find


def read(folder: Path) -> dict[str, dict]:
    """What we know of a folder's files: name → size, mtime, sha256, and `trusted` where a person vouches for it."""
    with contextlib.suppress(OSError):
        return sound_entries(folder)
    return {}


def sound_entries(folder: Path) -> dict[str, dict]:
    """The entries of a folder's record that are as we write them; the next `write` drops the others.

    Raises OSError where there is a record that cannot be read: then nobody may write over it.
    """
    known = None
    with contextlib.suppress(FileNotFoundError, ValueError, RecursionError):  # not there, or damaged
        with open(folder / RECORD, encoding="utf-8", opener=regular) as file:
            known = json.loads(file.read(LONGEST_RECORD))
    return {name: entry for name, entry in known.items() if sound(name, entry)} if isinstance(known, dict) else {}


def sound(name: str, entry: object) -> bool:
    """Whether an entry of a record is as we write it: such a file may be half written, edited or somebody else's."""
    if not isinstance(entry, dict):
        return False
    if name == WHOLE:
        names = entry.get("files")
        return isinstance(names, list) and all(isinstance(name, str) and stays_inside(name) for name in names)
    numbers = all(type(entry.get(key)) is int for key in ("size", "mtime"))
    sha256 = entry.get("sha256")
    hashed = isinstance(sha256, str) and re.fullmatch("([0-9a-f]{64})?", sha256)
    return bool(numbers and hashed) and isinstance(entry.get("trusted", False), bool)


def stays_inside(name: str) -> bool:
    """Whether a publisher's name for a file cannot lead out of the folder that it is put into."""
    return not os.path.isabs(name) and ".." not in Path(name).parts


def record(path: Path, sha256: str, trusted: bool = False) -> None:
    """Remembers the hash of the file as it is now, so that the next check costs nothing."""
    stat = path.stat()
    entry = {"size": stat.st_size, "mtime": stat.st_mtime_ns, "sha256": sha256, "trusted": trusted}
    write(path.parent, path.name, entry)


def write(folder: Path, name: str, entry: dict) -> None:
    """Sets one entry of a folder's record. Two processes at the same instant cost one entry: a hash is made again."""
    with recording, contextlib.suppress(OSError):  # a folder that may only be read: the hash is made again
        known = sound_entries(folder) | {name: entry}
        fresh = (
            folder / f"{RECORD}.{os.getpid()}-{os.urandom(4).hex()}"
        )  # machines that share a volume have equal numbers
        try:
            fresh.write_text(json.dumps(known, indent=1, sort_keys=True), encoding="utf-8")
            with open(fresh, "rb+") as file:
                os.fsync(file.fileno())  # a name that appears before its bytes is an empty record
            os.replace(fresh, folder / RECORD)
        finally:
            fresh.unlink(missing_ok=True)


def recorded(path: Path) -> dict:
    """What was recorded of the file, or nothing when it has changed since."""
    entry = read(path.parent).get(path.name, {})
    stat = path.stat()
    return entry if (entry.get("size"), entry.get("mtime")) == (stat.st_size, stat.st_mtime_ns) else {}


def broken(path: Path, file: ModelFile) -> str:
    """Why the file at `path` cannot be what the catalogue means, by its size and header alone, in words that follow "it"."""
    if file.format == "folder" and path.is_dir():
        return ""
    entry = recorded(path) if path.is_file() else {}
    if not entry.get("sha256"):  # else it is what was looked at when it was hashed
        reason = model_file.damage(path, "safetensors" if path.name == file.converted else file.format)
        # a conversion was checked when it was made
        if reason or path.name == file.converted or entry.get("trusted"):
            return reason
    if read(path.parent).get(path.name, {}).get("size", 0) > path.stat().st_size:
        return "is cut short"
    size = path.stat().st_size
    return f"has {size:,} bytes instead of {file.bytes:,}" if file.bytes and size != file.bytes else ""


def damage(path: Path, file: ModelFile, progress: Progress, cancelled: IsCancelled) -> str:
    """Why the file at `path` cannot be what the catalogue means, in words that follow "it"; empty when it is fine.

    Reads the whole file once where the catalogue knows its hash; after that the record answers.
    """
    reason = broken(path, file)
    if reason or path.is_dir() or path.name == file.converted or not file.sha256:
        return reason
    entry = recorded(path)
    if entry.get("trusted") or entry.get("sha256", "").startswith(file.sha256):
        return ""
    try:
        sha256 = file_hash(path, progress, cancelled)
    except OSError as err:
        return f"cannot be read ({err.strerror})"
    record(path, sha256)
    return "" if sha256.startswith(file.sha256) else "has another sha256 than the published file"


def bytes_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def cut_short(path: Path, format: str) -> str:
    """Whether the file is not whole by its own header, or by what was recorded of it, in words that follow "it"."""
    if format == "folder":  # a snapshot's files are of any kind
        return ""
    known = read(path.parent).get(path.name, {}).get("size", 0)
    return model_file.damage(path, format) or ("is cut short" if known > path.stat().st_size else "")


def file_hash(path: Path, progress: Progress, cancelled: IsCancelled) -> str:
    """sha256 of a file. Raises Cancelled."""
    digest, buffer, done, size = hashlib.sha256(), memoryview(bytearray(8 * BLOCK)), 0, path.stat().st_size
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            done += count
            progress(done, size)
            stop_if(cancelled)
    return digest.hexdigest()
