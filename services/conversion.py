"""A model's file in another precision, made with progress and Cancel on the node that is being executed."""

from functools import partial
from pathlib import Path

from ..convert.source import open_source
from ..convert.write import Report, convert
from .progress import NodeProgress, cancelled, executing, interruptible, say


def make(path: Path, target: Path, to: str) -> Report:
    """The conversion of a file, made if it is not there yet."""
    node_id = executing().node_id
    progress = partial(NodeProgress(node_id, "B"), doing=target.name)
    with interruptible():
        report = convert(open_source(path), target, to, progress, cancelled)
    say(node_id, f"{target.name} is {'made' if report.new else 'here already'}.")
    return report
