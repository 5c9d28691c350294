"""What is tried again, how often and after how long."""

import contextlib
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TypeVar

Result = TypeVar("Result")
LONGEST_WAIT = 300  # seconds that a server may ask for; nobody would wait longer


class TransientError(Exception):
    """A failure of the network or of an overloaded server, in a few words: the next attempt may not see it."""

    def __init__(self, words: str, retry_after: str | None = None) -> None:
        super().__init__(words)
        self.retry_after = retry_after  # what the server wishes, as its header says it


@dataclass(frozen=True)
class RetryPolicy:
    """How many attempts there are, and how long to wait between them: seconds, doubling from `first` up to `limit`.

    `timeout` is how long one attempt may hear nothing.
    """

    attempts: int = 6
    first: float = 1.0
    limit: float = 60.0
    timeout: float = 30.0

    def delay(self, failures: int, retry_after: str | None = None) -> float:
        """Seconds to wait after the given number of failures in a row; the server's own wish comes first."""
        wish = seconds(retry_after)
        if wish is not None:
            return wish
        return min(self.limit, self.first * 2 ** min(failures - 1, 30)) * random.uniform(0.5, 1.0)

    def run(
        self,
        work: Callable[[], Result],
        gave_up: Callable[[TransientError, int, float], Exception],
        wait: Callable[[float, TransientError], object],
        progress: Callable[[], int] = lambda: 0,
        attempts: Callable[[TransientError], int] | None = None,
    ) -> Result:
        """The result of `work`, repeated while it raises TransientError.

        `gave_up(error, failures in a row, seconds to wait)` makes the exception of the last failure. `wait(seconds, error)`
        may end the waiting by raising. What `progress()` counts is not lost by a failure: more of it than before, and the
        failures in a row are counted anew. `attempts(error)` is how many there are after such an error.
        """
        failures, before = 0, progress()
        while True:
            try:
                return work()
            except TransientError as err:
                done = progress()
                failures, before = 1 if done > before else failures + 1, done
                delay = self.delay(failures, err.retry_after)
                if delay > LONGEST_WAIT or failures >= (attempts(err) if attempts else self.attempts):
                    raise gave_up(err, failures, delay) from None
                wait(delay, err)


def seconds(retry_after: str | None) -> float | None:
    """A Retry-After header, seconds or a date, as seconds from now."""
    if not retry_after:
        return None
    if re.fullmatch(r"\s*\d+\s*", retry_after, re.ASCII):
        return float(retry_after)
    with contextlib.suppress(TypeError, ValueError):
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    return None
