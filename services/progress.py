"""How a node says what it is doing: ComfyUI's bar, and one line of text a second under the node."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import comfy.model_management
import comfy.utils
from comfy_execution.utils import ExecutionContext, get_executing_context

from ..base.cancel import Cancelled
from ..base.plain import visible
from ..base.progress import Rate, duration
from ..base.reason import reason
from .web_server import show

PACKAGE, NAME = __name__.rpartition(".services.")[0], "SteadyDancer"
LONGEST = 600  # characters under a node


class NodeProgress:
    """A plain callable `progress(done, total, doing)` for the rooms that do not import ComfyUI.

    `unit` names what is counted: "B" is shown in GB with its rate in MB/s, anything else ("frames") as it is.
    `doing` names a part of the work, which is counted by itself.
    """

    def __init__(self, node_id: str, unit: str = "frames") -> None:
        self.node_id, self.unit = node_id, unit
        self.part: tuple[int, str] | None = None
        self.last = time.monotonic()

    def __call__(self, done: int, total: int, doing: str = "") -> None:
        if self.part != (total, doing):
            self.part = total, doing
            self.bar, self.rate = comfy.utils.ProgressBar(total, node_id=self.node_id), Rate(self.unit)
        self.bar.update_absolute(done)
        line = self.rate.line(done, total)
        now = time.monotonic()
        if now - self.last >= 1.0 or done >= total:
            self.last = now
            line = f"{doing}: {line}" if doing else line
            if not show(line, self.node_id):
                logging.info("%s", visible(line))


def executing() -> ExecutionContext:
    """The ids of the prompt and of the node that are being executed; empty ones where a script calls a node by itself."""
    return get_executing_context() or ExecutionContext("", "", None)


def say(node_id: str, text: str) -> None:
    """Shows one line under the node and writes it into the log, for those who queue without a page."""
    logging.info("%s", visible(text))
    show(text, node_id)


def cancelled() -> bool:
    """Whether the user pressed Cancel. Poll it in every loop; raise `stop()` at the node's boundary only."""
    return comfy.model_management.processing_interrupted()


@contextmanager
def told() -> Iterator[None]:
    """Says under the node that is being executed why it fails, or that it was cancelled.

    The page itself says only that a node failed, and keeps the sentence behind View details, after the name of the error's
    class. Ours is named without the folder of this installation there. What a counter said last does not stay.
    """
    node_id = executing().node_id
    try:
        yield
    except comfy.model_management.InterruptProcessingException as err:
        show(f"Cancelled. {err}".strip(), node_id)
        raise
    except Exception as err:
        if type(err).__module__.startswith(PACKAGE):
            type(err).__module__ = NAME
        show(reason(err)[:LONGEST], node_id)
        raise


@contextmanager
def timed(doing: str) -> Iterator[None]:
    """`told`, for what goes on in one piece without a counter: says that it has begun, and at the end how long it took."""
    node_id, start = executing().node_id, time.monotonic()
    show(f"{doing} …", node_id)
    with told():
        yield
    say(node_id, f"{doing}: done in {duration(time.monotonic() - start)}")


@contextmanager
def interruptible(kept: str = "") -> Iterator[None]:
    """Turns Cancelled, which is safe in library threads, into the exception by which ComfyUI ends a prompt.

    `kept` is a sentence on what Cancel does not lose.
    """
    try:
        yield
    except (Cancelled, comfy.model_management.InterruptProcessingException) as err:  # ComfyUI's own comes from its bar
        comfy.model_management.interrupt_current_processing(False)
        raise comfy.model_management.InterruptProcessingException(kept or str(err)) from err


def stop() -> None:
    """Raises ComfyUI's own interrupt if the user pressed Cancel. Never call it inside a library's callback."""
    comfy.model_management.throw_exception_if_processing_interrupted()
