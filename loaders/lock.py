"""One at a time, across threads and processes: the lock of a file that is being made."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from .errors import DownloadCancelled


@contextlib.contextmanager
def held(target: Path, cancelled: Callable[[], bool], meanwhile: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds the lock of `target`. While another has it, `meanwhile()` is called five times a second.

    Raises DownloadCancelled within a second of `cancelled()`.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(f"{target}.lock")
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0.2)
        except Timeout:
            if cancelled():
                raise DownloadCancelled from None
            meanwhile()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows, while another process waits for it
            Path(lock.lock_file).unlink()  # not after the release: it could be another's by then
        lock.release()
