"""One file into a bucket: sent whole or not at all, compared by content, cancelled within a second."""

import mimetypes
import os
import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..base.cancel import IsCancelled, run_cancellable, stop_if
from ..base.plain import one_line
from ..base.progress import program_ends
from . import content as contents
from .client import Bucket, FileChanged, KeyTaken, NotOffered, StorageError, UploadGone
from .content import Content
from .journal import Journal
from .keys import alternatives, lies_below

CANCEL_WAIT = 0.8  # seconds that a cancel waits for the multipart upload to be aborted; on a dead link it goes on alone
SHA256 = "sha256"  # object metadata: what was to be sent; the bucket's bytes may be others all the same


@dataclass(frozen=True)
class Uploaded:
    """What is in the bucket after a delivery."""

    key: str
    size: int  # bytes
    sha256: str
    was_there: bool  # the very same bytes were there before; nothing was sent


def deliver(
    bucket: Bucket,
    path: Path,
    key: str,
    journal: Journal | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    cancelled: IsCancelled = lambda: False,
) -> Uploaded:
    """Uploads a file under `key`, or key-2, key-3 … while that is taken by something else and `overwrite` is off.

    With a journal, what is under way and what arrived survives a kill, what a killed multipart upload of this file left
    behind is removed, and two files of this machine never go to one key at the same time. The caller holds the
    journal's claim on the file. Raises like `upload`.
    """
    cancelled = _or_program_ends(cancelled)
    with bucket.plain_errors(f"read {one_line(path.name)}"):
        stat = path.stat()
    unfinished = journal.find(path, stat, bucket.address) if journal else None
    if unfinished and not unfinished.sent and lies_below(bucket.profile.prefix, unfinished.key):
        with suppress(StorageError):  # not every service can tidy up, and not every key may
            run_cancellable(lambda: bucket.abort_unfinished(unfinished.key), cancelled)
    if journal and bucket.keeps_conditions is None:
        bucket.keeps_conditions = journal.keeps_conditions(bucket.address)
    for candidate in alternatives(key):
        if journal:
            journal.begin(path, stat, bucket.address, candidate)
        try:
            with journal.turn(bucket.address, candidate, partial(stop_if, cancelled)) if journal else nullcontext():
                uploaded = upload(bucket, path, candidate, overwrite, progress, cancelled)
        except KeyTaken:
            continue
        if journal:
            journal.finish(path, stat, bucket.address, candidate)
        return uploaded
    raise StorageError(
        f"Could not upload {one_line(path.name)}: every name like '{key}' is taken. Change the key template."
    )


def upload(
    bucket: Bucket,
    path: Path,
    key: str,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    cancelled: IsCancelled = lambda: False,
) -> Uploaded:
    """Uploads a file under exactly this key, and returns only when the bucket is known to hold its bytes.

    `progress(done, total)` in bytes and `cancelled()` are called in the calling thread about ten times a second, so
    whatever they raise ends the upload cleanly; raised in the library's threads it could pass for success.
    Without `overwrite`, a single PUT to a service that keeps conditions carries the condition itself; everything else
    looks first, which leaves a small window for writers on other machines.
    Raises KeyTaken, StorageError in plain words, or Cancelled.
    """
    cancelled = _or_program_ends(cancelled)
    config = bucket.transfers.config
    with bucket.plain_errors(f"read {one_line(path.name)}"):
        stat = path.stat()
        multipart = stat.st_size >= config.multipart_threshold
        content = contents.read(path, config.multipart_chunksize if multipart else 0, partial(stop_if, cancelled))
    if content.size != stat.st_size or _changed(path, stat):
        raise _failed(path, "the file changed while it was being read")
    extra = {
        "ContentType": mimetypes.guess_type(path.name)[0] or "application/octet-stream",
        "Metadata": {SHA256: content.sha256},
    }

    def holds(there: dict | None) -> bool:
        return _holds(bucket, key, there, content, cancelled)

    def look() -> dict | None:
        return run_cancellable(lambda: bucket.head(key), cancelled)

    if not overwrite:
        if (multipart or not bucket.keeps_conditions) and (there := look()) is not None:
            return _same(holds(there), key, content)
        if not multipart and bucket.keeps_conditions is not False:
            extra["IfNoneMatch"] = "*"
    try:
        try:
            _send(bucket, path, key, extra, stat, progress, cancelled)
        except NotOffered:
            if bucket.keeps_conditions or "IfNoneMatch" not in extra:
                raise
            del extra["IfNoneMatch"]  # we have looked first
            _send(bucket, path, key, extra, stat, progress, cancelled)
            bucket.keeps_conditions = False
    except KeyTaken:
        return _same(holds(look()), key, content)
    except UploadGone:  # it may have been completed, the answer lost, and a retry found nothing to complete
        if not holds(look()):
            raise
    except FileChanged:
        pass  # the check tells, and removes what has arrived
    there = look()
    _check(bucket, path, key, stat, there, content, holds(there), cancelled)
    return Uploaded(key, content.size, content.sha256, was_there=False)


def _send(
    bucket: Bucket,
    path: Path,
    key: str,
    extra: dict,
    stat: os.stat_result,
    progress: Callable[[int, int], None] | None,
    cancelled: IsCancelled,
) -> None:
    """Hands the file to the transfer manager and watches over both from this thread."""
    counted, size = _Count(), stat.st_size
    task = f"upload {one_line(path.name)} to bucket '{bucket.name}'"
    with bucket.plain_errors(task):
        transfer = bucket.transfers.upload(str(path), bucket.name, key, extra_args=extra, subscribers=[counted])
    try:
        while not counted.finished.wait(0.1):
            stop_if(cancelled)
            if _changed(path, stat):
                raise FileChanged
            if progress:
                progress(min(counted.bytes, size), size)
    except BaseException:
        transfer.cancel()  # what is being sent stops at its next read, then the multipart upload is aborted
        counted.finished.wait(CANCEL_WAIT)
        raise
    with bucket.plain_errors(task):
        transfer.result()
    if progress:
        progress(size, size)


def _or_program_ends(cancelled: IsCancelled) -> IsCancelled:
    return lambda: cancelled() or program_ends()


def _changed(path: Path, stat: os.stat_result) -> bool:
    """Whether the file was written to since. One that is gone has not changed: what was read of it counts."""
    try:
        now = path.stat()
    except FileNotFoundError:
        return False
    return (now.st_size, now.st_mtime_ns) != (stat.st_size, stat.st_mtime_ns)


class _Count:
    """A transfer's subscriber: bytes sent so far (a retried part is taken back) and its end, cleanup included."""

    def __init__(self) -> None:
        self.bytes = 0
        self.finished = threading.Event()
        self._lock = threading.Lock()

    def on_queued(self, **_: Any) -> None:
        """Called by the library when the upload is in its queue."""
        pass

    def on_progress(self, bytes_transferred: int, **_: Any) -> None:
        """Called by the library with bytes more, or fewer when a part is begun anew."""
        with self._lock:
            self.bytes += bytes_transferred

    def on_done(self, **_: Any) -> None:
        """Called by the library at the end, however it ends."""
        self.finished.set()


def _same(is_same: bool, key: str, content: Content) -> Uploaded:
    """What holds the name already, if it is these very bytes; else raises KeyTaken."""
    if is_same:
        return Uploaded(key, content.size, content.sha256, was_there=True)
    raise KeyTaken(f"An object '{key}' exists already, and overwriting was not asked for.")


def _holds(bucket: Bucket, key: str, there: dict | None, content: Content, cancelled: IsCancelled) -> bool:
    """Whether an object has these bytes, by its ETag, or, where that tells nothing, by reading it back.

    An ETag that differs proves nothing: some services count in another way, and encryption changes it.
    """
    if there is None or there.get("ContentLength", content.size) != content.size:
        return False
    if there.get("ETag", "").removeprefix("W/").strip('"').lower() == content.etag:
        return True
    if there.get("Metadata", {}).get(SHA256, content.sha256) != content.sha256:
        return False
    stopped = threading.Event()
    try:
        return run_cancellable(lambda: bucket.sha256(key, stopped.is_set), cancelled) == content.sha256
    finally:
        stopped.set()


def _check(
    bucket: Bucket,
    path: Path,
    key: str,
    stat: os.stat_result,
    there: dict | None,
    content: Content,
    holds: bool,
    cancelled: IsCancelled,
) -> None:
    """Raises StorageError, and removes what we sent, when the bucket does not hold the file or the file is another now."""
    if _changed(path, stat):
        problem = "the file changed while it was being sent"
    elif holds:
        return
    elif there is None or there.get("ContentLength", content.size) != content.size:
        problem = "the bucket does not hold all of it"
    else:
        problem = "the bucket holds other bytes"
    # Two machines may have sent to this name at once; what the other one stored is not ours to remove.
    if there is not None and there.get("Metadata", {}).get(SHA256) == content.sha256:
        try:
            run_cancellable(lambda: bucket.delete(key), cancelled)
        except StorageError:
            problem += f", and this key may not remove it: delete '{key}' yourself"
    raise _failed(path, problem)


def _failed(path: Path, problem: str) -> StorageError:
    return StorageError(f"Uploading {one_line(path.name)} failed its check: {problem}. Upload it again.")
