"""One file into a bucket: sent whole or not at all, checked, cancelled within a second."""

import concurrent.futures
import hashlib
import mimetypes
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..progress import program_ends
from .client import MIB, Bucket, Cancelled, KeyTaken, StorageError, UploadGone
from .journal import Journal
from .keys import alternatives

CANCEL_WAIT = 0.8  # seconds that a cancel waits for the multipart upload to be aborted; on a dead link it goes on alone
MODIFIED = "modified-ns"  # object metadata: the file's time, by which a repeated upload is recognised


@dataclass(frozen=True)
class Uploaded:
    key: str
    size: int  # bytes
    was_there: bool  # the very same file had been uploaded before; nothing was sent


def deliver(
    bucket: Bucket,
    path: Path,
    key: str,
    journal: Journal | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Uploaded:
    """Uploads a file under `key`, or key-2, key-3 … while that is taken by something else and `overwrite` is off.

    With a journal, what is under way and what arrived survives a kill, and what a killed multipart upload of this file
    left behind is removed. The caller holds the journal's claim on the file. Raises like `upload`.
    """
    stat = path.stat()
    unfinished = journal.find(path, stat, bucket.address) if journal else None
    if unfinished and not unfinished.sent:
        _cancellable(bucket, lambda: bucket.abort_unfinished(unfinished.key), cancelled)
    for candidate in alternatives(key):
        if journal:
            journal.begin(path, stat, bucket.address, candidate)
        try:
            uploaded = upload(bucket, path, candidate, overwrite, progress, cancelled)
        except KeyTaken:
            continue
        if journal:
            journal.finish(path, stat, bucket.address, candidate)
        return uploaded
    raise StorageError(f"Could not upload {path.name}: every name like '{key}' is taken. Change the key template.")


def upload(
    bucket: Bucket,
    path: Path,
    key: str,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Uploaded:
    """Uploads a file under exactly this key and verifies it with HEAD.

    `progress(done, total)` in bytes and `cancelled()` are called in the calling thread about ten times a second, so
    whatever they raise ends the upload cleanly; raised in the library's threads it could pass for success.
    Without `overwrite`, a single PUT carries the condition itself; a multipart upload looks first, which leaves a
    small window for another writer. Raises KeyTaken, StorageError in plain words, or Cancelled.
    """
    stat = path.stat()
    multipart = stat.st_size >= bucket.transfers.config.multipart_threshold
    extra = {
        "ContentType": mimetypes.guess_type(path.name)[0] or "application/octet-stream",
        "Metadata": {MODIFIED: str(stat.st_mtime_ns)},
    }
    if not overwrite:
        if multipart:
            if (there := _cancellable(bucket, lambda: bucket.head(key), cancelled)) is not None:
                return _same_file(there, stat, key)
        else:
            extra["IfNoneMatch"] = "*"
    try:
        _send(bucket, path, key, extra, stat.st_size, progress, cancelled)
    except KeyTaken:
        return _same_file(_cancellable(bucket, lambda: bucket.head(key), cancelled), stat, key)
    except UploadGone:  # it may have been completed, the answer lost, and a retry found nothing to complete
        if not _is_same(_cancellable(bucket, lambda: bucket.head(key), cancelled), stat):
            raise
    _cancellable(bucket, lambda: _verify(bucket, path, key, stat, multipart), cancelled)
    return Uploaded(key, stat.st_size, was_there=False)


def _send(bucket: Bucket, path: Path, key: str, extra: dict, size: int, progress, cancelled) -> None:
    """Hands the file to the transfer manager and watches over it from this thread."""
    counted = _Count()
    task = f"upload {path.name} to bucket '{bucket.name}'"
    with bucket.plain_errors(task):
        transfer = bucket.transfers.upload(str(path), bucket.name, key, extra_args=extra, subscribers=[counted])
    try:
        while not counted.finished.wait(0.1):
            if (cancelled and cancelled()) or program_ends():
                raise Cancelled("The upload was cancelled.")
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


def _cancellable(bucket: Bucket, request: Callable, cancelled):
    """The result of a short request, or Cancelled; on a dead link it is then left to end by itself."""
    future = bucket.requests.submit(request)
    while not concurrent.futures.wait([future], 0.1).done:
        if (cancelled and cancelled()) or program_ends():
            raise Cancelled("The upload was cancelled.")
    return future.result()


class _Count:
    """A transfer's subscriber: bytes sent so far (a retried part is taken back) and its end, cleanup included."""

    def __init__(self):
        self.bytes = 0
        self.finished = threading.Event()
        self._lock = threading.Lock()

    def on_queued(self, **_):
        pass

    def on_progress(self, bytes_transferred: int, **_):
        with self._lock:
            self.bytes += bytes_transferred

    def on_done(self, **_):
        self.finished.set()


def _same_file(there: dict | None, stat, key: str) -> Uploaded:
    """The object that holds the name already, if it is this very file; else raises KeyTaken."""
    if _is_same(there, stat):
        return Uploaded(key, stat.st_size, was_there=True)
    raise KeyTaken(f"An object '{key}' exists already, and overwriting was not asked for.")


def _is_same(there: dict | None, stat) -> bool:
    """Whether an object is this version of the file, by size and the time in its metadata."""
    version = stat.st_size, str(stat.st_mtime_ns)
    return there is not None and (there["ContentLength"], there.get("Metadata", {}).get(MODIFIED)) == version


def _verify(bucket: Bucket, path: Path, key: str, stat, multipart: bool) -> None:
    """Compares what the bucket holds with the file: size, and for a single PUT the MD5 that is its ETag."""
    there = bucket.head(key)
    now = path.stat()
    if (now.st_size, now.st_mtime_ns) != (stat.st_size, stat.st_mtime_ns):
        problem = "the file changed while it was being sent"
    elif there is None or there["ContentLength"] != stat.st_size:
        problem = "the bucket does not hold all of it"
    elif not multipart and "SSEKMSKeyId" not in there and there["ETag"].strip('"') != _md5(path):
        problem = "the bucket holds other bytes"
    else:
        return
    # Two machines may have sent to this name at once; what the other one stored is not ours to remove.
    if there is not None and there.get("Metadata", {}).get(MODIFIED) == str(stat.st_mtime_ns):
        bucket.delete(key)
    raise StorageError(f"Uploading {path.name} failed its check: {problem}. Upload it again.")


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(MIB):
            digest.update(block)
    return digest.hexdigest()
