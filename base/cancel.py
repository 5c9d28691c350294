"""The user's wish to stop, as every room passes it on."""

from collections.abc import Callable

IsCancelled = Callable[[], bool]


class Cancelled(Exception):
    """The user stopped the work. A plain Exception, so that cleanup in library threads is never skipped."""
