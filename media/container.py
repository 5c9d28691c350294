"""A video file as ffmpeg may have it: a plain container on this machine, read through Python.

A playlist, a session description or a list of pictures makes ffmpeg open what it names: any address that this machine
reaches. So only kinds that hold their own pictures are let in, by their content, and no name is ever handed on.
"""

import io
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av

from ..base.cancel import Cancelled, IsCancelled, stop_if

KINDS = ("mov", "matroska", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "ogg", "asf", "mxf", "nut", "dv", "rm")
PICTURES = ("gif", "apng")
MAX_STREAMS = 100  # each of them is opened by ffmpeg
# A tag in another alphabet than UTF-8 is no reason to refuse a file: PyAV 19 reads it by itself and no longer asks.
ODD_TAGS: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
STEPS_BACK = (0.0, 10.0, 60.0, None)  # seconds; files whose index lies are read from their beginning


if TYPE_CHECKING:
    _File = io.IOBase  # what it is mixed into
else:
    _File = object


class _Watched(_File):
    """Reports how far a file has been read, and stops the reader when the user cancels."""

    def watch(self, progress: Callable[[int, int], None], cancelled: IsCancelled) -> None:
        """Takes over a file that has just been opened; `progress` gets bytes read and bytes in all."""
        self.total = self.seek(0, io.SEEK_END)
        self.seek(0)
        self.progress, self.cancelled = progress, cancelled
        self.portion = min(32_768, max(256, self.total // 2000))  # still pictures take few bytes and long to encode

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to `size` bytes, fewer than asked for. Raises Cancelled when the user or `progress` wants an end."""
        stop_if(self.cancelled)
        block = super().read(size if size is None or size < 0 else min(size, self.portion))
        try:
            self.progress(min(self.tell(), self.total), self.total)
        except BaseException as err:  # ComfyUI's interrupt is no Exception: inside PyAV's reader it would get lost
            raise Cancelled("The reading was cancelled.") from err
        return block


class WatchedFile(_Watched, io.FileIO):
    """A video file that is watched while it is read."""

    def __init__(self, path: str, progress: Callable[[int, int], None], cancelled: IsCancelled) -> None:
        super().__init__(path, "rb")
        self.watch(progress, cancelled)


class WatchedBytes(_Watched, io.BytesIO):
    """A video in memory that is watched while it is read."""

    def __init__(self, source: io.BytesIO, progress: Callable[[int, int], None], cancelled: IsCancelled) -> None:
        super().__init__(source.getvalue())  # shared, not copied
        self.watch(progress, cancelled)


def watched(
    source: str | Path | io.BytesIO,
    progress: Callable[[int, int], None] = lambda done, total: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> "WatchedFile | WatchedBytes":
    """The source as a file that PyAV reads through Python. Raises ValueError for what is no regular file."""
    if isinstance(source, io.BytesIO):
        return WatchedBytes(source, progress, cancelled)
    name = Path(source).name
    try:
        regular = stat.S_ISREG(Path(source).stat().st_mode)  # a pipe would wait for ever
        if regular:
            return WatchedFile(str(source), progress, cancelled)
    except (OSError, ValueError) as err:
        raise ValueError(f"The video file {name} cannot be read. Is it still there? Choose it again.") from err
    raise ValueError(f"{name} is no file but a folder, a pipe or a device. Choose a video file.")


@contextmanager
def opened(
    source: str | Path | io.BytesIO, cancelled: IsCancelled = lambda: False, max_pixels: int = 2**31 - 1
) -> Iterator[av.container.InputContainer]:
    """The file, opened with PyAV, if it is a plain video file; no larger pictures than `max_pixels` are decoded to probe it.

    Raises ValueError in plain words for everything else, Cancelled while reading.
    """
    file = watched(source, cancelled=cancelled)
    allowed = {
        "format_whitelist": ",".join(KINDS + PICTURES),
        "protocol_whitelist": "none",
        "max_streams": str(MAX_STREAMS),
    }
    try:
        container = av.open(file, options={"max_pixels": str(max_pixels)}, container_options=allowed, **ODD_TAGS)
    except (av.error.FFmpegError, OSError, ValueError) as err:
        file.close()
        raise ValueError(
            "This video cannot be opened: it is damaged, or no plain video file such as MP4, MOV, MKV, WebM or AVI. "
            "Playlists are not opened. Try another file."
        ) from err
    with file, container:
        yield container


def picture_stream(container: av.container.InputContainer) -> av.VideoStream:
    """The stream of moving pictures. Raises ValueError where there is none that can be decoded."""
    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        raise ValueError("This file has no picture in it, only sound. Choose a video.")
    if streams[0].codec_context is None:
        raise ValueError("The pictures of this video are of a kind that cannot be decoded here. Convert it to H.264.")
    return streams[0]


def decoded(
    source: str | Path | io.BytesIO,
    pick: Callable[[av.container.InputContainer], Any],
    begin: float | None,
    cancelled: IsCancelled,
) -> Iterator[Any]:
    """Frames of the stream that `pick` chooses, from one at or before `begin` on, in seconds of the file's own clock.

    None decodes from the file's beginning. What was asked for is not believed: the time of what came back is.
    """
    for back in STEPS_BACK if begin is not None else (None,):
        with opened(source, cancelled) as container:
            stream = pick(container)
            if back is not None and getattr(stream.codec_context, "pix_fmt", "") == "pal8":
                continue  # only the file's first packets say which colours there are
            if back is not None and begin is not None:
                try:
                    container.seek(int((begin - back) / stream.time_base), stream=stream)
                except (av.error.FFmpegError, OverflowError):
                    continue
            frames = _decode(container, stream, cancelled)
            first = next(frames, None)
            if back is not None and (first is None or first.time is None or first.time > (begin or 0.0) + 0.001):
                continue
            if first is not None:
                yield first
                yield from frames
            return


def _decode(container: av.container.InputContainer, stream: Any, cancelled: IsCancelled) -> Iterator[Any]:
    packets = container.demux(stream)
    while True:
        stop_if(cancelled)
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:  # the file breaks off here
            return
        if packet is None:
            return
        try:
            frames = packet.decode()
        except av.error.FFmpegError:  # players skip damaged packets too
            continue
        yield from frames
