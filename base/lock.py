"""One at a time, across threads and processes, as far as the volume goes along. A lock stops nobody's work.

Lock files stay where they are: whoever removes one lets the next process lock a new file of that name beside the old.
"""

import functools
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from errno import EACCES, EAGAIN, EDEADLK
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

POLL = 0.2  # seconds between two tries
NO_LOCK = -1  # in place of a file descriptor

log = logging.getLogger(__name__)
_held: set[str] = set()  # lock files that a thread of this process holds
_held_changes = threading.Lock()


@contextmanager
def locked(path: Path, wait: float = math.inf, meanwhile: Callable[[], object] = lambda: None) -> Iterator[bool]:
    """Holds the lock file `path`, and yields whether it is ours: False when another still has it after `wait` seconds.

    While another has it `meanwhile()` is called five times a second; what that raises ends the wait, so it is the
    place to poll Cancel. The system frees the lock of a killed process. The folder is made when needed.
    Raises nothing of its own: where no lock is to be had (network volumes, a read-only or full disk) the log says so
    once, and the lock then holds between the threads of this process only.
    """
    name, end = os.path.abspath(path), time.monotonic() + wait
    while (descriptor := _acquire(name)) is None and time.monotonic() < end:
        meanwhile()
        time.sleep(min(POLL, max(0.0, end - time.monotonic())))
    if descriptor is None:
        yield False
        return
    try:
        yield True
    finally:
        _release(name, descriptor)


def _acquire(name: str) -> int | None:
    """The descriptor that holds the lock, NO_LOCK where there are none, or None while another has it."""
    with _held_changes:
        if name in _held:
            return None
        _held.add(name)
    descriptor = NO_LOCK
    try:
        os.makedirs(os.path.dirname(name), exist_ok=True)
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT, 0o666)
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        if descriptor != NO_LOCK and err.errno in (EAGAIN, EACCES, EDEADLK):
            _release(name, descriptor)
            return None
        _tell(os.strerror(err.errno) if err.errno else "no reason given")
    except BaseException:
        _release(name, descriptor)
        raise
    return descriptor


def _release(name: str, descriptor: int) -> None:
    if descriptor != NO_LOCK:
        with suppress(OSError):  # there was no lock; and closing alone would leave it to a forked child
            if sys.platform == "win32":
                msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
            else:
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
    with _held_changes:
        _held.discard(name)


@functools.cache
def _tell(reason: str) -> None:
    """Once for each reason."""
    log.warning(
        "Files cannot be locked on this volume (%s). The work goes on. Let only one ComfyUI or command at a time work "
        "in a folder, so that two do not do the same.",
        reason,
    )
