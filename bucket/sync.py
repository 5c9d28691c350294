"""A whole folder into a bucket, once or for as long as the server runs. Each finished file is sent exactly once.

The folder is looked through every few seconds instead of listening for file events: that misses nothing across
restarts, sees files moved in, and works on the network volumes of rented machines, where events do not arrive.
"""

import logging
import os
import stat as modes
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..base.cancel import Cancelled, IsCancelled
from ..base.plain import one_line
from ..base.progress import program_ends
from .client import REQUESTS, Bucket, StorageError
from .journal import Journal
from .keys import FOLDER_TEMPLATE, file_names, file_times, fill, lies_below
from .upload import deliver

MEDIA = frozenset(
    ".png .jpg .jpeg .webp .avif .gif .apng .bmp .tif .tiff .exr .svg "
    ".mp4 .webm .mov .mkv .avi .m4v .flac .mp3 .wav .ogg .opus .m4a .aac".split()
)
SETTLED = 3.0  # seconds without a change after which a file counts as finished
INTERVAL = 2.0  # seconds between two looks
LONGEST_WAIT = 600.0  # seconds between two tries of a file that keeps failing
NAMED = 5  # files that one line of the log names

EMPTY = "It is empty."
BEING_WRITTEN = "It is still being written."
BEING_SENT = "Another ComfyUI or command is sending it."
PASSING = {BEING_WRITTEN: 60.0, BEING_SENT: 60.0}  # seconds after which the log has it too

log = logging.getLogger(__name__)


@dataclass
class Failure:
    """Why a file could not be sent, how often that was tried, and when it is tried again."""

    reason: str
    tries: int
    again_at: float  # time.monotonic()


class Sync:
    """Sends the media files of `folder` to `bucket` and keeps account of it."""

    def __init__(self, folder: Path, bucket: Bucket, journal: Journal, settled: float = SETTLED) -> None:
        self.folder = folder.resolve()
        self.bucket = bucket
        self.journal = journal
        self.settled = settled
        self.sent = 0
        self.waiting = 0  # not sent yet, at the last look
        self.unfinished = 0  # of these, still being written
        self.sending: set[str] = set()
        self.failures: dict[Path, Failure] = {}
        self._under_way: set[Path] = set()
        self.left_out: dict[Path, str] = {}  # what is no file of this folder, and why; at the last look
        self.held: dict[Path, str] = {}  # files that are not tried yet, and why
        self._reasons: set[str] = set()  # of failures since they were logged
        self._since: dict[tuple[Path, str], float] = {}  # of what is left out or held: since when it is, or 0 once told
        self._first_seen: dict[tuple, float] = {}  # for files whose time lies in the future

    def run(self, stop: threading.Event, on_sent: Callable | None = None) -> None:
        """Looks and sends until `stop` is set. A failure never ends it: it is logged and tried again later.

        A slow upload does not keep it from looking and from sending other files.
        """
        with self._workers(stop.is_set, on_sent) as submit:
            while not stop.is_set() and not program_ends():
                started = time.monotonic()
                try:
                    self._look(submit)
                    self._log_failures()
                except Exception:  # a full disk, a folder unmounted, a mistake of ours: later files must still be sent
                    log.exception("R2 sync could not look through %s. It tries again.", self.folder)
                stop.wait(max(INTERVAL, 10 * (time.monotonic() - started)) if not self.waiting else INTERVAL)

    def round(self, cancelled: IsCancelled = lambda: False, on_sent: Callable | None = None) -> int:
        """Sends everything that is finished, not sent yet and due. Returns how many files were sent.

        `on_sent(path, key)` is told of each.
        """
        with self._workers(cancelled, on_sent) as submit:
            sent = sum(future.result() for future in self._look(submit))
        self._log_failures()
        return sent

    @contextmanager
    def _workers(self, cancelled: IsCancelled, on_sent: Callable | None) -> Iterator[Callable]:
        """Yields submit(path), whose future tells whether the file was sent."""
        stopped = threading.Event()
        with ThreadPoolExecutor(REQUESTS, thread_name_prefix="r2-sync") as pool:
            try:
                yield lambda path: pool.submit(self._send, path, lambda: cancelled() or stopped.is_set(), on_sent)
            except BaseException:
                stopped.set()  # Ctrl-C: what is under way is aborted instead of waited for
                raise

    def _look(self, submit: Callable[[Path], Future]) -> list[Future]:
        """Submits what is finished, not sent yet, due and not under way."""
        held: dict[Path, str] = {}
        left_out: dict[Path, str] = {}
        due, waiting, unfinished = [], 0, 0
        present = dict(media_files(self.folder, left_out))
        for path in [path for path in list(self.failures) if path not in present]:
            self.failures.pop(path, None)
        for path, stat in present.items():
            entry = self.journal.find(path, stat, self.bucket.address)
            if entry and entry.sent:
                continue
            waiting += 1
            failure = self.failures.get(path)
            if not self._is_settled(path, stat):
                held[path] = BEING_WRITTEN
                unfinished += stat.st_size > 0
            elif stat.st_size == 0:
                held[path] = EMPTY
            elif path not in self._under_way and not (failure and failure.again_at > time.monotonic()):
                due.append(path)
        being_written = open_for_writing() if due else set()
        futures: list[Future] = []
        self.held, self.left_out = held, left_out  # before the first worker may add to them
        for path in due:
            if str(path) in being_written:
                held[path] = BEING_WRITTEN
                unfinished += 1
                continue
            self._under_way.add(path)
            futures.append(submit(path))

            def ended(_: Future, path: Path = path) -> None:
                self._under_way.discard(path)

            futures[-1].add_done_callback(ended)
        self.waiting, self.unfinished = waiting, unfinished
        self._log_held()
        return futures

    def _log_failures(self) -> None:
        """Once a look, not once a file."""
        reasons, self._reasons = self._reasons, set()
        for reason in reasons:
            paths = sorted(path for path, failure in list(self.failures.items()) if failure.reason == reason)
            log.warning("R2 sync: %d file(s) wait for another try: %s. %s", len(paths), self._names(paths), reason)

    def _log_held(self) -> None:
        """Each file once for each reason, and what passes by itself only when it does not."""
        news: dict[str, list[Path]] = {}
        now = time.monotonic()
        items = {*self.held.copy().items(), *self.left_out.items()}
        self._since = {item: self._since.get(item, now) for item in items}
        for item in sorted(items):
            if self._since[item] and now - self._since[item] >= PASSING.get(item[1], 0.0):
                self._since[item] = 0
                news.setdefault(item[1], []).append(item[0])
        for reason, paths in news.items():
            log.warning("R2 sync: not sent: %s. %s", self._names(paths), reason)

    def status(self) -> dict:
        """Counts, and each file that is not sent with the reason; holds no key, endpoint or absolute path."""
        now = time.monotonic()
        failed = [
            {
                "file": self._name(path),
                "reason": failure.reason,
                "tries": failure.tries,
                "again_in_seconds": max(0, round(failure.again_at - now)),
            }
            for path, failure in list(self.failures.items())
        ]
        failed += [
            {"file": self._name(path), "reason": reason, "tries": 0, "again_in_seconds": 0}
            for path, reason in sorted((self.held.copy() | self.left_out).items())
        ]
        return {"sent": self.sent, "waiting": self.waiting, "sending": sorted(self.sending), "failed": failed}

    def key(self, path: Path, stat: os.stat_result) -> str:
        """The key of a file of the folder: the day it was made, its subfolder, its name."""
        folder = path.parent.relative_to(self.folder).as_posix()
        names = file_names(path.name, "" if folder == "." else folder)
        return fill(FOLDER_TEMPLATE, {"prefix": self.bucket.profile.prefix, **file_times(stat.st_mtime), **names})

    def _send(self, path: Path, cancelled: IsCancelled, on_sent: Callable | None) -> bool:
        if cancelled() or program_ends():
            return False
        try:
            with self.journal.claim(path) as ours:
                if not ours:
                    self.held[path] = BEING_SENT  # by a save node, or another sync
                    return False
                self.sending.add(self._name(path))
                stat = path.stat()
                entry = self.journal.find(path, stat, self.bucket.address)
                if (entry and entry.sent) or why_not(path, self.folder) or not self._is_settled(path, stat):
                    return False
                key = self.key(path, stat)
                if entry and lies_below(self.bucket.profile.prefix, entry.key):
                    key = entry.key  # what a killed process had begun
                uploaded = deliver(self.bucket, path, key, self.journal, cancelled=cancelled)
        except (Cancelled, FileNotFoundError):
            return False
        except Exception as err:
            tries = self.failures[path].tries + 1 if path in self.failures else 1
            wait = min(LONGEST_WAIT, 5.0 * 2 ** min(tries - 1, 10))
            reason = self._reason(path, err)
            self.failures[path] = Failure(reason, tries, time.monotonic() + wait)
            self._reasons.add(reason)
            return False
        finally:
            self.sending.discard(self._name(path))
        self.failures.pop(path, None)
        self.sent += 1
        if on_sent:
            on_sent(path, uploaded.key)
        return True

    def _reason(self, path: Path, err: Exception) -> str:
        """Why a file was not sent: without its name, so that one cause is one line in the log, and without a path."""
        if isinstance(err, StorageError) and err.why:
            return f"Could not upload the file: {err.why}"
        if isinstance(err, (StorageError, ValueError)):
            return str(err).replace(one_line(path.name), "the file")
        if isinstance(err, OSError):
            return f"This machine could not read or note the file: {err.strerror}."
        log.error("R2 sync could not send %s", path, exc_info=err)
        return "Something unexpected happened. The log has the details."

    def _is_settled(self, path: Path, stat: os.stat_result) -> bool:
        age = time.time() - stat.st_mtime
        if age < 0:
            version = (path, stat.st_size, stat.st_mtime_ns)
            age = time.monotonic() - self._first_seen.setdefault(version, time.monotonic())
        return age >= self.settled

    def _name(self, path: Path) -> str:
        return one_line(path.relative_to(self.folder).as_posix())

    def _names(self, paths: list[Path]) -> str:
        more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
        return ", ".join(self._name(path) for path in paths[:NAMED]) + more


def media_files(folder: Path, left_out: dict[Path, str] | None = None) -> Iterator[tuple[Path, os.stat_result]]:
    """Images, video, animation and audio below `folder` by extension, hidden ones and linked folders left out.

    What has such a name and is no file of this folder goes into `left_out`, with the reason.
    """
    left_out = {} if left_out is None else left_out

    def unreadable(err: OSError) -> None:
        left_out[Path(err.filename)] = f"This folder could not be read: {err.strerror}."

    for root, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files + folders:
            if os.path.splitext(name)[1].lower() in MEDIA and not name.startswith("."):
                path = Path(root, name)
                try:
                    if reason := why_not(path, folder):
                        left_out[path] = reason
                    else:
                        yield path, path.stat()
                except FileNotFoundError:
                    continue
                except OSError as err:
                    left_out[path] = f"It could not be looked at: {err.strerror}."


def why_not(path: Path, folder: Path) -> str:
    """Why a name below `folder` is no file of that folder, or "". Raises OSError."""
    mode = path.lstat().st_mode
    if modes.S_ISLNK(mode):
        try:
            real = Path(os.path.realpath(path, strict=True))
        except OSError:
            return "It is a link that leads nowhere."
        if not real.is_relative_to(folder.resolve()):
            return "It is a link that leads out of this folder. Put the file itself here."
        mode = real.stat().st_mode
    if modes.S_ISREG(mode):
        return ""
    kinds = {
        modes.S_IFDIR: "a folder. What is in it is sent by itself",
        modes.S_IFIFO: "a pipe",
        modes.S_IFSOCK: "a socket",
    }
    return f"It is no file but {kinds.get(modes.S_IFMT(mode), 'a device')}."


def open_for_writing() -> set[str]:
    """Files that some process of ours has open for writing, where the system tells (Linux); else empty.

    An encoder may pause for longer than any sensible waiting time.
    """
    paths = set()
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            for link in folder.iterdir():
                target = os.readlink(link)
                if os.path.splitext(target)[1].lower() in MEDIA:
                    flags = (folder.parent / "fdinfo" / link.name).read_text().split("flags:")[1].split()[0]
                    if int(flags, 8) & (os.O_WRONLY | os.O_RDWR):
                        paths.add(target)
        except (OSError, ValueError, IndexError):
            continue  # another user's process, or one that just ended
    return paths
