"""Frames through ffmpeg's filters."""

from collections.abc import Iterator
from typing import Any

import av


def filtered(graph: av.filter.Graph, frame: av.VideoFrame | av.AudioFrame | None) -> Iterator[Any]:
    """What comes out of the graph for this frame; None hands out what is left in it."""
    graph.push(frame)
    while True:
        try:
            yield graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
