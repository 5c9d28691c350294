"""The bytes of one file: parallel ranges into a staging file, resumable after any death, hashed while they arrive."""

import collections
import contextlib
import errno
import hashlib
import json
import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path

from .errors import DownloadCancelled, DownloadError, plain, refusal

Progress = Callable[[int, int], None]
Cancelled = Callable[[], bool]

CONNECTIONS = 8
PIECE = 64 << 20  # a request's round trip is lost in it, and the hash stays close behind
BLOCK = 1 << 20
READ = 1 << 16
TICK = 0.1  # seconds between looks at the cancel button
LONGEST_WAIT = 300  # seconds that a server may ask for
RETRIED = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Remote:
    """A file as its server describes it.

    `sha256` and `size` are what the server declares, `etag` its version, `token` goes to the host of `url` only.
    """

    url: str
    name: str
    size: int | None = None
    sha256: str = ""
    etag: str = ""
    ranges: bool = True
    token: str = field(default="", repr=False)


@dataclass(frozen=True)
class Patience:
    """How often a request is repeated, and how long it waits: seconds, doubling from `first` up to `limit`."""

    attempts: int = 6
    first: float = 1.0
    limit: float = 60.0
    timeout: float = 30.0

    def delay(self, failures: int, retry_after: str | None = None) -> float:
        """Seconds to wait after the given number of failures in a row; the server's own wish comes first.

        Raises DownloadError when that is longer than anybody would wait.
        """
        wish = seconds(retry_after)
        if wish is not None:
            if wish > LONGEST_WAIT:
                raise DownloadError(
                    f"The server asks to come back in {wish / 60:.0f} minutes. Try again then; nothing is lost."
                ) from None
            return wish
        return min(self.limit, self.first * 2 ** (failures - 1)) * random.uniform(0.5, 1.0)


def seconds(retry_after: str | None) -> float | None:
    """A Retry-After header, seconds or a date, as seconds from now."""
    if not retry_after:
        return None
    if retry_after.strip().isdigit():
        return float(retry_after)
    with contextlib.suppress(TypeError, ValueError):
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    return None


def authorisation(token: str):
    """A requests auth that sends our token or nothing; without one, requests would look into ~/.netrc."""

    def sign(request):
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
        return request

    return sign


class Transfer:
    """Fetches `remote` into `part`, which is given its full size at once and filled piece by piece.

    `part`.json says which bytes of which version are there, so a killed process loses less than a second of work.
    """

    def __init__(self, remote: Remote, part: Path, patience: Patience, connections: int = CONNECTIONS):
        self.remote, self.part, self.patience = remote, part, patience
        self.notes = part.with_name(part.name + ".json")
        self.whole = not remote.ranges or not remote.size
        self.piece = (remote.size or 1) if self.whole else PIECE
        self.filled = [0] * (1 if self.whole else -(-remote.size // self.piece))
        self.connections = 1 if self.whole else connections
        self.stop = threading.Event()
        self.grown = threading.Condition()
        self.error: BaseException | None = None
        self.direct = ""  # where the last redirect led; asked without the token
        self.resume_at = 0.0  # nobody asks before: one refusal counts for every connection
        self.sha256 = ""
        self.whole_done = False

    @property
    def done(self) -> int:
        return sum(self.filled)

    def resume(self) -> int:
        """Takes up what an earlier run left of the same version. Returns the bytes that are there."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            notes = json.loads(self.notes.read_text())
            same = notes["version"] == self.version and notes["piece"] == self.piece
            if same and self.part.stat().st_size == self.remote.size and len(notes["filled"]) == len(self.filled):
                self.filled = [int(count) for count in notes["filled"]]
        return self.done

    @property
    def version(self) -> str:
        return f"{self.remote.size} {self.remote.sha256 or self.remote.etag or self.remote.url.split('?')[0]}"

    def note(self) -> None:
        """Writes down how far the file is. Only bytes that are already in it are counted."""
        if self.whole:
            return
        text = json.dumps({"version": self.version, "piece": self.piece, "filled": self.filled, "done": self.done})
        fresh = self.notes.with_name(self.notes.name + ".new")
        with contextlib.suppress(OSError):  # a full disk: the thread that writes the file says so
            fresh.write_text(text)
            os.replace(fresh, self.notes)

    def run(self, progress: Progress, cancelled: Cancelled) -> str:
        """Fetches what is missing and returns the sha256 of the whole file.

        Raises DownloadError, DownloadCancelled, or OSError when the disk fails.
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
                progress(self.done, self.remote.size or self.done)
                if cancelled():
                    raise DownloadCancelled
                threads[-1].join(TICK)
        finally:
            self.stop.set()
            with self.grown:
                self.grown.notify_all()
            until = time.monotonic() + 3 * TICK
            for thread in threads:  # one that waits for the network sees `stop` before it writes again
                thread.join(max(0.0, until - time.monotonic()))
            self.note()
        if self.error:
            raise self.error
        flush.join()
        progress(self.done, self.remote.size or self.done)
        return self.sha256

    def length(self, index: int) -> int:
        return min(self.piece, (self.remote.size or 0) - index * self.piece)

    def fetch(self, work: collections.deque) -> None:
        """One connection: takes pieces in order until there are none."""
        import requests

        with requests.Session() as session:
            session.auth = authorisation("")
            while not self.stop.is_set() and not self.error:
                try:
                    index = work.popleft()
                except IndexError:
                    return
                try:
                    self.fetch_piece(session, index)
                except BaseException as err:  # a thread has nobody to raise to: run() raises it
                    self.error = self.error or err

    def fetch_piece(self, session, index: int) -> None:
        """Repeats one piece's request until the piece is full; every new byte renews the patience."""
        import requests
        from urllib3.exceptions import HTTPError

        failures = 0
        while not self.stop.is_set():
            before = self.filled[index]
            retry_after = None
            try:
                if self.stop.wait(max(0.0, self.resume_at - time.monotonic())):
                    return
                response = self.ask(session, index)
                with response:
                    if self.stop.is_set():  # the file may be another transfer's by now
                        return
                    if response.status_code in RETRIED:
                        retry_after = response.headers.get("Retry-After")
                        raise requests.HTTPError(f"the server answered {response.status_code}")
                    self.receive(response, index)
                if self.stop.is_set() or self.whole or self.filled[index] == self.length(index):
                    return
                raise requests.ConnectionError("the connection ended early")
            except (requests.RequestException, HTTPError, ConnectionError, TimeoutError) as err:
                failures = 1 if self.filled[index] > before and not self.whole else failures + 1
                self.direct = ""
                if failures >= self.patience.attempts:
                    raise DownloadError(
                        f"The download of {self.remote.name} broke off: {plain(err)}, {failures} times in a row. "
                        "What was fetched is kept. Check the connection and try again."
                    ) from None  # its text holds the signed address
                delay = self.patience.delay(failures, retry_after)
                logging.info("%s: %s, asking again in %.1f s", self.remote.name, plain(err), delay)
                if retry_after:
                    self.resume_at = max(self.resume_at, time.monotonic() + delay)
                elif self.stop.wait(delay):
                    return

    def ask(self, session, index: int):
        """The response to a request for what is missing of a piece, its body not yet read."""
        headers = {"Accept-Encoding": "identity"}
        if not self.whole:
            start = index * self.piece
            headers["Range"] = f"bytes={start + self.filled[index]}-{start + self.length(index) - 1}"
        direct = self.direct
        response = session.get(
            direct or self.remote.url,
            headers=headers,
            stream=True,
            timeout=(min(10.0, self.patience.timeout), self.patience.timeout),
            auth=authorisation("" if direct else self.remote.token),
        )
        if direct and response.status_code in (400, 401, 403, 404, 410):  # a signed address has run out
            response.close()
            self.direct = ""
            return self.ask(session, index)
        if response.history and response.ok:
            self.direct = response.url
        return response

    def receive(self, response, index: int) -> None:
        """Writes a response's body to the piece's place in the file."""
        if response.status_code not in (200, 206):
            raise DownloadError(refusal(response.status_code, self.remote.url, self.remote.name))
        if response.status_code == 200:  # the whole file, from its start
            if not self.whole and self.remote.size > self.length(index):
                raise DownloadError(
                    f"{self.remote.name} cannot be fetched: its server stopped sending parts of files. Try again later."
                )
            self.filled[index] = 0
        else:
            total = re.fullmatch(r"bytes \d+-\d+/(\d+)", response.headers.get("Content-Range", ""))
            if not total or int(total[1]) != self.remote.size:
                raise DownloadError(f"{self.remote.name} was changed by its publisher during the download. Try again.")
        left = None if self.whole else self.length(index) - self.filled[index]
        with open(self.part, "r+b", buffering=0) as file:
            file.seek(index * self.piece + self.filled[index])
            if self.whole:
                file.truncate(0)
            self.receive_body(response, index, file, left)
        if self.whole:
            if self.remote.size and self.filled[0] != self.remote.size:
                raise ConnectionError("the connection ended early")
            with self.grown:
                self.whole_done = True
                self.grown.notify_all()

    def receive_body(self, response, index: int, file, left: int | None) -> None:
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

    def keep(self, file, index: int, block: memoryview) -> None:
        """Writes bytes that follow those that a piece already has."""
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
        with open(self.part, "r+b") as file:
            while not self.stop.wait(0.5):
                os.fsync(file.fileno())

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


def write(file, block: memoryview) -> None:
    """Writes all of `block` to an unbuffered file."""
    try:
        while block:
            block = block[file.write(block) :]
    except OSError as err:
        if err.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadError(
                f"The disk is full while {Path(file.name).name.removesuffix('.part')} is downloaded. "
                "What was fetched is kept. Free some space and try again."
            ) from err
        raise
