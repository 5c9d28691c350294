"""What was sent: a text file with one JSON line per step, shared by the save nodes, the sync and the command line.

Lines are only ever appended, so a killed process loses at most the line it was writing. A file is known by path, size
and modification time: rendered again under the same name, it is a new file. A bucket is known by its address,
endpoint host/name.
"""

import hashlib
import json
import os
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..base.lock import locked

FILE = "r2_journal.jsonl"  # in ComfyUI's system user folder, which is not served over HTTP


@dataclass(frozen=True)
class Entry:
    key: str
    sent: bool  # False: begun, and not known to have arrived


class Journal:
    """The journal at `path`; its folder is made when needed. Safe for several threads and processes."""

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()
        self._entries: dict[tuple, Entry] = {}
        self._read = 0  # bytes of the file that are in _entries
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            self._append(b"\n")  # ends the line that a killed process left unfinished

    def find(self, file: Path, stat: os.stat_result, bucket: str) -> Entry | None:
        """What is known of this version of the file in this bucket, also from other processes."""
        with self._lock:
            self._refresh()
            return self._entries.get((str(file), stat.st_size, stat.st_mtime_ns, bucket))

    def begin(self, file: Path, stat: os.stat_result, bucket: str, key: str) -> None:
        """Notes under which key the file is about to be sent."""
        self._write(file, stat, bucket, key, sent=False)

    def finish(self, file: Path, stat: os.stat_result, bucket: str, key: str) -> None:
        """Notes that the file arrived and was verified. Only now may it be deleted."""
        self._write(file, stat, bucket, key, sent=True)

    @contextmanager
    def claim(self, file: Path, wait: float = 0):
        """Yields whether the file is ours to send; nobody else, in any process, gets it meanwhile.

        The operating system releases the claim of a killed process. `wait` is in seconds.
        """
        name = hashlib.sha1(os.fsencode(file), usedforsecurity=False).hexdigest()
        with locked(self.path.parent / "claims" / f"{name}.lock", wait) as ours:
            yield ours

    def _write(self, file: Path, stat: os.stat_result, bucket: str, key: str, sent: bool) -> None:
        line = {"path": str(file), "size": stat.st_size, "time": stat.st_mtime_ns, "bucket": bucket}
        self._append(json.dumps(line | {"key": key, "sent": sent}).encode() + b"\n")

    def _append(self, line: bytes) -> None:
        with self._lock, self.path.open("ab", buffering=0) as file:
            file.write(line)

    def _refresh(self) -> None:
        """Reads what was appended since the last time, whole lines only."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._read)
                fresh = file.read()
        except FileNotFoundError:
            return
        for line in fresh[: fresh.rfind(b"\n") + 1].splitlines():
            self._read += len(line) + 1
            try:
                row = json.loads(line)
            except ValueError:
                continue
            self._entries[row["path"], row["size"], row["time"], row["bucket"]] = Entry(row["key"], row["sent"])
