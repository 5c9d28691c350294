"""What was sent: a text file with one JSON line per step, shared by the save nodes, the sync and the command line.

It saves work and is needed for nothing: what it says of a file's content is compared with the bucket, and where it
cannot be written or read it says so once and the files are sent all the same.
Lines are only ever appended, so a killed process loses at most the line it was writing. A file is known by path, size,
modification and change time: rendered again under the same name, it is a new file. A bucket is known by its address,
endpoint host/name.
"""

import errno
import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..base.lock import locked
from ..base.regular import regular

FILE = "r2_journal.jsonl"  # in ComfyUI's system user folder, which is not served over HTTP

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """What the journal says of a file: the key in the bucket, and whether it arrived."""

    key: str
    sent: bool  # False: begun, and not known to have arrived, or touched since


class Journal:
    """The journal at `path`; its folder is made when needed. Safe for several threads and processes; never raises."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._troubles = {"written": "", "read": ""}  # the last time
        self._lock = threading.Lock()
        self._files: dict[tuple, tuple[str, int]] = {}  # → key, and the change time at which it was sent or 0
        self._services: dict[str, bool] = {}
        self._read = 0  # bytes of the file that are known
        self._inode = 0

    @property
    def problem(self) -> str:
        """Why it could not be written or read the last time, for people."""
        return self._troubles["written"] or self._troubles["read"]

    def find(self, file: Path, stat: os.stat_result, bucket: str) -> Entry | None:
        """What is known of this version of the file in this bucket, also from other processes."""
        with self._lock:
            self._refresh()
            known = self._files.get((str(file), stat.st_size, stat.st_mtime_ns, bucket))
        return known and Entry(known[0], known[1] == stat.st_ctime_ns)

    def begin(self, file: Path, stat: os.stat_result, bucket: str, key: str) -> None:
        """Notes under which key the file is about to be sent."""
        self._note(_file_row(file, stat, bucket, key, sent=False))

    def finish(self, file: Path, stat: os.stat_result, bucket: str, key: str) -> None:
        """Notes that the file arrived and was verified. Only now may it be deleted."""
        self._note(_file_row(file, stat, bucket, key, sent=True))

    def keeps_conditions(self, bucket: str) -> bool | None:
        """Whether the bucket's service refuses to overwrite when asked to; None where `r2 test` has not tried it."""
        with self._lock:
            self._refresh()
            return self._services.get(bucket)

    def note_service(self, bucket: str, keeps_conditions: bool) -> None:
        """Notes whether a bucket's service itself refuses to overwrite, so that the next process need not ask."""
        self._note({"bucket": bucket, "keeps_conditions": keeps_conditions})

    def adopt(self, old: Path, folder: Path) -> None:
        """Takes over what an earlier version noted of files below `folder` in a journal in it, whose file then goes.

        Such a folder may come from somewhere else: what it says of other files and of services is left out.
        """
        try:
            lines = old.read_bytes().split(b"\n")
        except OSError:
            return
        other, written = Journal(old), True
        for line in lines:
            other._learn(line)
        for (path, size, time, bucket), (key, sent) in other._files.items():
            if Path(path).is_relative_to(folder):
                row = {"path": path, "size": size, "time": time, "bucket": bucket, "key": key}
                self._note(row | {"changed": sent, "sent": bool(sent)})
                written = written and not self._troubles["written"]
        if written:
            with suppress(OSError):
                old.unlink()

    def claim(self, file: Path, wait: float = 0) -> AbstractContextManager[bool]:
        """Yields whether the file is ours to send; nobody else, in any process, gets it meanwhile.

        The operating system releases the claim of a killed process. `wait` is in seconds.
        """
        return locked(self._lock_file("file", os.fsencode(file)), wait)

    def turn(self, bucket: str, key: str, poll: Callable[[], object]) -> AbstractContextManager[bool]:
        """Waits until nobody on this machine sends to this key, and keeps it so. `poll()` may end the wait by raising."""
        return locked(self._lock_file("key", f"{bucket}/{key}".encode()), meanwhile=poll)

    def _lock_file(self, kind: str, what: bytes) -> Path:
        """Few names for endless many files and keys: lock files stay. Two that share one only wait for each other."""
        name = hashlib.sha1(what, usedforsecurity=False).hexdigest()[:4]
        return self.path.parent / "claims" / f"{kind}-{name}.lock"

    def _note(self, row: dict) -> None:
        """Remembers a row, and writes it down if the disk lets us."""
        line = json.dumps(row).encode()
        with self._lock:
            self._learn(line)
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with open(self.path, "ab", buffering=0, opener=regular) as file:
                    whole = b"\n" + line + b"\n"  # the first ends a line that somebody could not finish
                    if file.write(whole) < len(whole):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._troubles["written"] = ""
            except OSError as err:
                self._tell("written", err)

    def _refresh(self) -> None:
        """Reads what was appended since the last time, whole lines only."""
        try:
            with open(self.path, "rb", opener=regular) as file:
                stat = os.fstat(file.fileno())
                if stat.st_size < self._read or stat.st_ino != self._inode:
                    self._read, self._inode = 0, stat.st_ino  # it was emptied or replaced
                file.seek(self._read)
                fresh = file.read()
            self._troubles["read"] = ""
        except FileNotFoundError:
            return
        except OSError as err:
            self._tell("read", err)
            return
        *lines, unfinished = fresh.split(b"\n")
        self._read += len(fresh) - len(unfinished)
        for line in lines:
            self._learn(line)

    def _learn(self, line: bytes) -> None:
        """Takes in a row of the form that we write; whatever else a line holds is nothing to us."""
        try:
            row = json.loads(line.strip(b"\0\r "))
        except (ValueError, RecursionError):
            return
        match row:
            case {"path": str(path), "size": int(size), "time": int(time), "bucket": str(bucket), "key": str(key)}:
                sent = row.get("changed") if row.get("sent") is True else 0
                self._files[path, size, time, bucket] = key, sent
            case {"bucket": str(bucket), "keeps_conditions": bool(keeps)}:
                self._services[bucket] = keeps

    def _tell(self, what: str, err: OSError) -> None:
        """Once, until it works again."""
        told, reason = self._troubles[what], err.strerror or "no reason given"
        self._troubles[what] = (
            f"The R2 journal {self.path.name} cannot be {what}: {reason}. Files are sent all the same."
        )
        if not told:
            log.warning("%s After a restart they are compared with the bucket again.", self._troubles[what])


def _file_row(file: Path, stat: os.stat_result, bucket: str, key: str, sent: bool) -> dict:
    row = {"path": str(file), "size": stat.st_size, "time": stat.st_mtime_ns, "changed": stat.st_ctime_ns}
    return row | {"bucket": bucket, "key": key, "sent": sent}
