"""Frames through ffmpeg's filters."""

from collections.abc import Iterator

import av


def filtered(graph: av.filter.Graph, frame: av.frame.Frame | None) -> Iterator[av.frame.Frame]:
    """What comes out of the graph for this frame; None hands out what is left in it."""
    graph.push(frame)
    while True:
        try:
            yield graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
