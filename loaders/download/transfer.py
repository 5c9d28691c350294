"""The bytes of one file: parallel ranges into a staging file, resumable after any death, hashed while they arrive."""

import collections
import contextlib
import hashlib
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from ...base.cancel import IsCancelled, stop_if
from ...base.regular import regular
from ...base.retry import RetryPolicy, TransientError
from . import room
from .errors import Changed, DownloadError, NoRoom, bad_token, come_back, disk_fault, in_a_row, printable, refusal
from .transfer_request import host, send, told, validator

if TYPE_CHECKING:  # a laptop without it can still list and plan
    import requests

Progress = Callable[[int, int], None]

CONNECTIONS = 8
CHUNK = 64 << 20  # a request's round trip is lost in it, and the hash stays close behind
BLOCK = 1 << 20
READ = 1 << 16
TICK = 0.1  # seconds between looks at the cancel button
NOTES = 1 << 20  # bytes: what we wrote down of a transfer is far shorter


@dataclass(frozen=True)
class Remote:
    """A file as its server describes it.

    `sha256` and `size` are what the server declares, `etag` its version. `token` goes to the host of `url` only, and
    `token_origin` says where the user finds it.
    """

    url: str
    name: str
    size: int | None = None
    sha256: str = ""
    etag: str = ""
    ranges: bool = True
    token: str = field(default="", repr=False)
    token_origin: str = ""


class Transfer:
    """Fetches `remote` into `part`, which is given its full size at once and filled chunk by chunk.

    `part`.json says which bytes of which version are there, so a killed process loses less than a second of work.
    """

    def __init__(
        self, remote: Remote, part: Path, retries: RetryPolicy, connections: int = CONNECTIONS, limit: int | None = None
    ) -> None:
        """`limit`: bytes that are too many to be the file, where its server does not say how many there are."""
        self.remote, self.part, self.retries = remote, part, retries
        self.limit = limit if remote.size is None else remote.size
        self.notes = part.with_name(part.name + ".json")
        self.whole = not remote.ranges or not remote.size
        self.chunk = (remote.size or 1) if self.whole else CHUNK
        self.filled = [0] * (1 if self.whole else -(-(remote.size or 0) // self.chunk))
        self.connections = 1 if self.whole else connections
        self.stop = threading.Event()
        self.grown = threading.Condition()
        self.error: BaseException | None = None
        self.direct = ""  # where the last redirect led; asked without the token
        self.token = remote.token  # none once the server has refused it
        self.served = ""  # the version of the file that the first answer was of
        self.resume_at = 0.0  # nobody asks before: one refusal counts for every connection
        self.sha256 = ""
        self.whole_done = False

    @property
    def done(self) -> int:
        """Bytes that are there."""
        return sum(self.filled)

    def resume(self) -> int:
        """Takes up what an earlier run left of the same version. Returns the bytes that are there."""
        notes = notes_of(self.part)
        same = notes.get("version") == self.version and notes.get("piece") == self.chunk
        filled, served = notes.get("filled"), notes.get("served", "")
        if not (same and isinstance(filled, list) and len(filled) == len(self.filled) and isinstance(served, str)):
            return 0
        with contextlib.suppress(OSError, TypeError):
            within = all(0 <= count <= self.length(index) for index, count in enumerate(filled))
            if within and self.part.stat().st_size == self.remote.size:
                self.filled, self.served = [int(count) for count in filled], served
        return self.done

    @property
    def version(self) -> str:
        """What the chunks in `part` are chunks of: another size, hash or ETag makes them worthless."""
        return f"{self.remote.size} {self.remote.sha256 or self.remote.etag or self.remote.url.split('?')[0]}"

    def note(self) -> None:
        """Writes down how far the file is. Only bytes that are already in it are counted."""
        if self.whole:
            return
        text = json.dumps(
            {
                "version": self.version,
                "piece": self.chunk,  # the name of version 0.1, whose downloads are taken up
                "filled": self.filled,
                "done": self.done,
                "served": self.served,
            }
        )
        fresh = self.notes.with_name(self.notes.name + ".new")
        with contextlib.suppress(OSError):  # a full disk: the thread that writes the file says so
            fresh.write_text(text)
            os.replace(fresh, self.notes)

    def run(self, progress: Progress, cancelled: IsCancelled) -> str:
        """Fetches what is missing and returns the sha256 of the whole file.

        Raises DownloadError, Cancelled, or OSError when the disk fails.
        """
        if not self.part.exists() or not self.done:
            with open(self.part, "wb") as file:
                file.truncate(0 if self.whole else self.remote.size)
        work = collections.deque(i for i in range(len(self.filled)) if self.whole or self.filled[i] < self.length(i))
        fetch = [threading.Thread(target=self.fetch, args=(work,), daemon=True) for _ in range(self.connections)]
        threads = [*fetch, threading.Thread(target=self.hash, daemon=True)]
        flush = threading.Thread(target=self.flush, daemon=True)
        for thread in [*threads, flush]:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads) and not self.error:
                self.note()
                self.check_room()
                progress(self.done, self.remote.size or self.done)
                stop_if(cancelled)
                threads[-1].join(TICK)
        finally:
            self.stop.set()
            with self.grown:
                self.grown.notify_all()
            until = time.monotonic() + 3 * TICK
            for thread in threads:  # one that waits for the network sees `stop` before it writes again
                thread.join(max(0.0, until - time.monotonic()))
            self.note()
            if self.whole and not self.sha256:
                self.part.unlink(missing_ok=True)  # nothing of it can be taken up again
        if not self.error:
            flush.join()
        if self.error:
            if isinstance(self.error, Changed):
                self.notes.unlink(missing_ok=True)  # what is there is of a version that is gone
            raise self.error
        progress(self.done, self.remote.size or self.done)
        return self.sha256

    def check_room(self) -> None:
        """Raises NoRoom where others have filled the disk meanwhile."""
        usage = room.usage(self.part)
        taken = room.taken(self.part)
        if usage.free < room.reserve(usage.total) and taken < (self.remote.size or self.done + 1):
            raise NoRoom(
                f"The disk is full while {self.remote.name} is downloaded: only {usage.free / 1e9:.1f} GB are left in "
                f"{self.part.parent}. What was fetched is kept. Free some space and try again."
            )

    def length(self, index: int) -> int:
        """Bytes of a chunk; the last one is shorter."""
        return min(self.chunk, (self.remote.size or 0) - index * self.chunk)

    def fetch(self, work: collections.deque) -> None:
        """One connection: takes chunks in order until there are none."""
        import requests

        with requests.Session() as session:
            while not self.stop.is_set() and not self.error:
                try:
                    index = work.popleft()
                except IndexError:
                    return
                try:
                    self.fetch_chunk(session, index)
                except BaseException as err:  # a thread has nobody to raise to: run() raises it
                    self.error = self.error or err

    def fetch_chunk(self, session: "requests.Session", index: int) -> None:
        """Repeats one chunk's request until the chunk is full; every new byte renews the attempts."""

        def gave_up(err: TransientError, failures: int, delay: float) -> DownloadError:
            kept = "" if self.whole else "What was fetched is kept. "
            return come_back(delay) or DownloadError(
                f"The download of {self.remote.name} broke off: {err}{in_a_row(failures)}. "
                f"{kept}Check the connection and try again."
            )

        def wait(delay: float, err: TransientError) -> None:
            self.direct = ""
            logging.info("%s: %s, asking again in %.1f s", self.remote.name, err, delay)
            if err.retry_after:
                self.resume_at = max(self.resume_at, time.monotonic() + delay)
            else:
                self.stop.wait(delay)

        self.retries.run(
            lambda: self.request_chunk(session, index), gave_up, wait, lambda: 0 if self.whole else self.filled[index]
        )

    def request_chunk(self, session: "requests.Session", index: int) -> None:
        """Asks once for what a chunk lacks. Raises TransientError where it lacks something afterwards."""
        if self.stop.wait(max(0.0, self.resume_at - time.monotonic())):
            return
        with self.ask(session, index) as response:
            if self.stop.is_set():  # the file may be another transfer's by now
                return
            self.receive(response, index)
        if not (self.stop.is_set() or self.whole or self.filled[index] == self.length(index)):
            raise TransientError("the connection was lost")

    def ask(self, session: "requests.Session", index: int) -> "requests.Response":
        """The response to a request for what is missing of a chunk, its body not yet read."""
        direct, headers = self.direct, {}
        url = direct or self.remote.url
        if not self.whole:
            start = index * self.chunk
            headers["Range"] = f"bytes={start + self.filled[index]}-{start + self.length(index) - 1}"
            if self.served and not self.served.startswith("W/"):  # a weak one would never match
                headers["If-Range"] = self.served
        token = "" if direct else self.token
        response = send(session, "GET", url, self.remote.name, token, headers, self.retries.timeout)
        if direct and response.status_code in (400, 401, 403, 404, 410):  # a signed address has run out
            response.close()
            self.direct = ""
            return self.ask(session, index)
        if response.status_code in (401, 403) and "Authorization" in response.request.headers:
            response.close()
            if self.token:
                logging.warning("%s Asking for it without.", self.bad_token(response.url))
            self.token = ""
            return self.ask(session, index)
        if response.history and response.ok:
            self.direct = response.url
        return response

    def bad_token(self, url: str) -> str:
        """What to tell the user where a server refuses the token."""
        return bad_token(self.remote.token_origin, host(url), self.remote.name)

    def receive(self, response: "requests.Response", index: int) -> None:
        """Writes a response's body to the chunk's place in the file."""
        self.check(response, index)
        if response.status_code == 200:  # the whole file, from its start
            self.filled[index] = 0
        left = self.limit if self.whole else self.length(index) - self.filled[index]
        with open(self.part, "r+b", buffering=0) as file:
            file.seek(index * self.chunk + self.filled[index])
            if self.whole:
                file.truncate(0)
            with told(response.url, self.remote.name):
                self.receive_body(response, index, file, left)
        if self.whole:
            if self.remote.size and self.filled[0] != self.remote.size:
                raise TransientError("the connection was lost")
            with self.grown:
                self.whole_done = True
                self.grown.notify_all()

    def check(self, response: "requests.Response", index: int) -> None:
        """Raises where a response is not of the bytes that were asked for, or of another version of the file."""
        name, status = self.remote.name, response.status_code
        if status in (401, 403) and self.token != self.remote.token and not response.history:
            raise DownloadError(self.bad_token(response.url))
        if status == 416:
            raise Changed(name)
        if status not in (200, 206):
            raise DownloadError(refusal(status, self.remote.url, name))
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise DownloadError(
                f"{name} cannot be fetched: {host(response.url)} sends it packed ({printable(encoding)}), which was not "
                "asked for. A proxy on the way may be the cause. Place the file by hand."
            )
        version = "" if self.remote.sha256 else validator(response)  # a hash proves the whole, whoever sent the parts
        with self.grown:
            self.served = self.served or version
        if version and version != self.served:
            raise Changed(name)
        if status == 200 and not self.whole and (self.remote.size or 0) > self.length(index):
            raise DownloadError(
                f"{name} cannot be fetched: its server stopped sending parts of files. Try again later."
            )
        if status == 200:
            announced = response.headers.get("Content-Length", "")
            if self.remote.size and announced.isdecimal() and int(announced) != self.remote.size:
                raise Changed(name)
            return
        span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", ""), re.ASCII)
        if span and span[3] not in ("*", str(self.remote.size)):
            raise Changed(name)
        start = index * self.chunk
        if not span or int(span[1]) != start + self.filled[index] or int(span[2]) >= start + self.length(index):
            raise DownloadError(
                f"{name} cannot be fetched: {host(response.url)} sends other bytes than those that were asked for. "
                "A proxy on the way may be the cause. Try again later, or place the file by hand."
            )

    def receive_body(self, response: "requests.Response", index: int, file: FileIO, left: int | None) -> None:
        """Reads small and writes big: both cost the least then, and a slow line still shows progress at every tick."""
        read = getattr(response.raw, "read1", response.raw.read)  # read1 does not wait until it has all
        buffer, held, written = memoryview(bytearray(BLOCK)), 0, time.monotonic()
        try:
            while block := read(READ, decode_content=False):
                if left is not None and (left := left - len(block)) < 0:
                    raise DownloadError(f"{self.remote.name}: the server sent more than asked for. Try again.")
                buffer[held : held + len(block)] = block
                held += len(block)
                if self.stop.is_set():
                    return
                if held > BLOCK - READ or time.monotonic() - written > TICK:
                    self.keep(file, index, buffer[:held])
                    held, written = 0, time.monotonic()
        finally:
            if not self.stop.is_set():
                self.keep(file, index, buffer[:held])

    def keep(self, file: FileIO, index: int, block: memoryview) -> None:
        """Writes bytes that follow those that a chunk already has."""
        write(file, block)
        with self.grown:
            self.filled[index] += len(block)
            self.grown.notify_all()

    def hash(self) -> None:
        """Hashes the file from its start as far as it is there without a gap, until all of it is."""
        try:
            digest, buffer = hashlib.sha256(), memoryview(bytearray(4 * BLOCK))
            position = 0
            with open(self.part, "rb", buffering=0) as file:
                while not self.stop.is_set():
                    with self.grown:
                        ready, complete = self.frontier()
                        if ready == position and not complete:
                            self.grown.wait(TICK)
                            continue
                    if ready == position:
                        self.sha256 = digest.hexdigest()
                        return
                    count = file.readinto(buffer[: min(len(buffer), ready - position)])
                    if not count:
                        raise DownloadError(f"{self.remote.name} was cut off on the disk while it arrived. Try again.")
                    digest.update(buffer[:count])
                    position += count
        except BaseException as err:  # run() raises it
            self.error = self.error or err

    def flush(self) -> None:
        """Sends what is written on to the disk while more arrives, so that the last flush has little left to do."""
        try:
            with open(self.part, "r+b") as file:
                while not self.stop.wait(0.5):
                    os.fsync(file.fileno())
        except OSError as err:  # network volumes tell here that they are full
            self.error = self.error or err

    def frontier(self) -> tuple[int, bool]:
        """Bytes from the start without a gap, and whether that is the whole file."""
        if self.whole:  # a repeated request starts over, so its bytes count only at the end
            return (self.filled[0], True) if self.whole_done else (0, False)
        ready = 0
        for index, count in enumerate(self.filled):
            ready += count
            if count < self.length(index):
                return ready, False
        return ready, True


def notes_of(part: Path) -> dict:
    """What was written down of the transfer into `part`; empty where that is damaged or not there."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        with open(part.with_name(part.name + ".json"), encoding="utf-8", opener=regular) as file:
            found = json.loads(file.read(NOTES))
        if isinstance(found, dict):
            return found
    return {}


def write(file: FileIO, block: memoryview) -> None:
    """Writes all of `block` to an unbuffered file."""
    try:
        while block:
            block = block[file.write(block) :]
    except OSError as err:
        path = Path(file.name)
        raise DownloadError(disk_fault(err, path.with_name(path.name.removesuffix(".part")))) from err
