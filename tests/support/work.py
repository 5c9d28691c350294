"""Work in place of seconds: calls are counted, and what must not wait for something silent gets a generous deadline."""

import sys
import threading
from collections.abc import Callable


class CallCounter:
    """`with CallCounter() as calls:` and then `calls.count`: Python's and C's functions, in this thread."""

    def __init__(self):
        self.count = 0

    def __enter__(self) -> "CallCounter":
        sys.setprofile(self.note)
        return self

    def __exit__(self, *exception) -> None:
        sys.setprofile(None)

    def note(self, frame, event: str, argument) -> None:
        self.count += event in ("call", "c_call")


def returns(function: Callable, *arguments, deadline: float = 60, **options):
    """What `function` returns or raises. TimeoutError where it still waits after `deadline` seconds."""
    ended = []

    def run() -> None:
        try:
            ended.append((function(*arguments, **options), None))
        except BaseException as err:  # it is raised again in the thread that asked
            ended.append((None, err))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(deadline)
    if not ended:
        raise TimeoutError(f"{function.__name__} has not ended in {deadline:.0f} s")
    result, error = ended[0]
    if error is not None:
        raise error
    return result
