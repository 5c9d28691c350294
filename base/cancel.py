"""The user's wish to stop, as every room passes it on: asked for by a function, answered by one exception."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")
IsCancelled = Callable[[], bool]


class Cancelled(Exception):
    """The user stopped the work. A plain Exception, so that cleanup in library threads is never skipped."""


def stop_if(cancelled: IsCancelled) -> None:
    """Raises Cancelled where the user pressed Cancel."""
    if cancelled():
        raise Cancelled


def pause(seconds: float, cancelled: IsCancelled) -> None:
    """Waits. Raises Cancelled a tenth of a second after the user's wish."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        stop_if(cancelled)
        time.sleep(min(left, 0.1))


def run_cancellable(work: Callable[[], Result], cancelled: IsCancelled) -> Result:
    """The result of `work`, which may block in a library, or Cancelled a tenth of a second after the user's wish.

    `cancelled()` is asked in the calling thread, and what it raises ends the waiting too. What is left behind ends by
    itself: its thread keeps neither the caller nor the program.
    """
    result: list[Result] = []
    error: list[BaseException] = []

    def run() -> None:
        try:
            result.append(work())
        except BaseException as err:  # handed to the waiting thread
            error.append(err)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(0.1)
    while thread.is_alive():
        stop_if(cancelled)
        thread.join(0.1)
    if error:
        raise error[0]
    return result[0]
