"""One at a time, across threads and processes: the lock of a file that is being made."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ...base.lock import locked
from .errors import DownloadCancelled


@contextmanager
def held(target: Path, cancelled: Callable[[], bool], meanwhile: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds the lock of `target`. While another has it, `meanwhile()` is called five times a second.

    Raises DownloadCancelled within a second of `cancelled()`.
    """

    def wait() -> None:
        if cancelled():
            raise DownloadCancelled
        meanwhile()

    with locked(Path(f"{target}.lock"), meanwhile=wait):
        yield
