"""A piece of any video file as images and sound: decoded as a stream, trimmed, brought to a steady frame rate."""

import io
import itertools
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import av
import numpy as np

from ..base.cancel import IsCancelled, stop_if
from .container import decoded, opened, picture_stream
from .filters import filtered
from .sound import read_sound

SPARE = 0.8  # of the free memory; the rest is for what comes after
HELD = 17  # pictures that a decoder may keep: 16 that others refer to, and the one at hand
FASTEST = 240.0  # frames a second that cameras take
SAME_SHAPE = 1.02  # sides that differ by less come from rounding


@dataclass
class Clip:
    """frames [n, height, width, 3] float32 0..1; sound as long as the frames, as media.sound makes it, and a word on it."""

    frames: np.ndarray
    fps: float
    sound: np.ndarray | None
    sample_rate: int
    sound_note: str = ""


@dataclass
class Piece:
    """A piece of a video file that can be read: how long it is, and how its pictures come out of the decoder."""

    source: str | io.BytesIO
    start: float  # seconds after the first picture
    duration: float  # seconds from there, 0: to the end
    fps: float
    wanted: int  # frames, 0: the file does not say how many there are
    longest_side: int
    rate: float  # the file's own, frames a second
    pixel: float  # width by height of one pixel
    picture_bytes: int  # of one decoded picture
    threads: int
    max_pixels: int
    zero: float | None = None  # the first picture's time by the file's clock, not its header's; None: it has none

    @property
    def decoding_bytes(self) -> int:
        """What the decoder may keep in memory."""
        return self.picture_bytes * (HELD + self.threads)

    def stream(self, container: av.container.InputContainer) -> av.VideoStream:
        """The pictures' stream, told how many threads may decode it and how large a picture may be."""
        stream = picture_stream(container)
        stream.codec_context.options = {"max_pixels": str(self.max_pixels)}
        stream.thread_type, stream.codec_context.thread_count = "AUTO", self.threads
        return stream


def read_clip(
    source: str | io.BytesIO,
    start: float = 0.0,
    count: int = 0,
    fps: float = 0.0,
    longest_side: int = 0,
    duration: float = 0.0,
    free_bytes: int = 2**63,
    progress: Callable[[int, int], None] = lambda done, total: None,
    cancelled: IsCancelled = lambda: False,
) -> Clip:
    """`count` frames from `start` seconds on, `fps` of them a second; 0 means all, and the file's own average rate.

    Each output frame is the one on screen at its time, so uneven frame rates come out even and the sound stays in step.
    Turned as the file asks, with square pixels, without the combs of interlaced video; scaled down so that no side is
    longer than `longest_side` pixels (0 = as it is), and even, as encoders want it. `duration` (seconds from `start`,
    0 = to the end) also ends it. Raises ValueError in plain words for what cannot be read, ValueError, before decoding,
    for what `free_bytes` cannot hold, Cancelled when cancelled.
    """
    piece = find_piece(source, start, count, fps, longest_side, duration, free_bytes, cancelled)
    frames: np.ndarray | None = None
    taken, begin = 0, piece.zero
    for picture in read_pictures(piece, cancelled):
        if frames is None or taken == len(frames):
            frames = _room(frames, picture.shape, piece.wanted or max(64, 2 * taken), free_bytes, piece.decoding_bytes)
        np.multiply(picture, np.float32(1 / 255), out=frames[taken])
        taken += 1
        progress(taken, piece.wanted or len(frames))
    assert frames is not None, "read_pictures raises where there is no picture"
    length = taken / piece.fps
    if begin is None:
        return Clip(frames[:taken], piece.fps, None, 0)
    sound, sample_rate, note = read_sound(source, begin + start, length, int(SPARE * free_bytes), cancelled)
    return Clip(frames[:taken], piece.fps, sound, sample_rate, note)


def find_piece(
    source: str | io.BytesIO,
    start: float,
    count: int,
    fps: float,
    longest_side: int,
    duration: float,
    free_bytes: int,
    cancelled: IsCancelled,
) -> Piece:
    """Looks at the file, and decodes its first picture. Arguments and errors are read_clip's."""
    with opened(source, cancelled, min(2**31 - 1, int(SPARE * free_bytes / HELD))) as container:
        stream = picture_stream(container)
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        if rate > FASTEST:  # some name the ticks of their clock
            rate = _measured_rate(container, stream)
        fps = fps or rate
        length = _seconds(container, stream) - start
        if length <= 0:
            raise ValueError(_nothing_left(start, f"The video is {length + start:.1f} s long, so"))
        length = min(length, duration) if duration else length
        wanted = max(1, math.floor(length * fps + 0.01)) if math.isfinite(length) else 0
        bytes_a_pixel = (stream.format.padded_bits_per_pixel if stream.format else 64) / 8
        fitting = SPARE * free_bytes / bytes_a_pixel  # pixels of all pictures that a decoder holds
        pixels = max(1, stream.width * stream.height)
        if pixels * (HELD + 1) > fitting:
            raise ValueError(
                f"The pictures of this video are {stream.width}×{stream.height}: decoding them needs "
                f"{pixels * (HELD + 1) * bytes_a_pixel / 1e9:.1f} GB of memory, {free_bytes / 1e9:.1f} GB are free. "
                "Convert it to a smaller size first."
            )
        threads = max(1, min(16, os.cpu_count() or 1, int(fitting / pixels) - HELD))
        piece = Piece(
            source,
            start,
            duration,
            fps,
            min(count, wanted) if count and wanted else count or wanted,
            longest_side,
            rate,
            float(stream.sample_aspect_ratio or 1),
            int(pixels * bytes_a_pixel),
            threads,
            min(2**31 - 1, int(fitting / (HELD + threads))),
        )
    first = next(decoded(source, piece.stream, None, cancelled), None)
    return replace(piece, zero=first.time if first else None)


def read_pictures(piece: Piece, cancelled: IsCancelled) -> Iterator[np.ndarray]:
    """The piece's frames, [height, width, 3] uint8, at its steady rate; one that stays on screen is the same array again.

    Raises ValueError where nothing can be decoded and where the picture changes its shape, Cancelled when cancelled.
    """
    first = pixels = picture = None
    taken = 0
    for picture, until in _shown(piece, cancelled):
        while (taken < piece.wanted or not piece.wanted) and taken / piece.fps < until:
            stop_if(cancelled)
            if pixels is None or picture.fresh:
                first = first or picture
                _check_shape(first, picture, taken / piece.fps)
                pixels = picture.pixels(*_size(first, piece.pixel, piece.longest_side))
            taken += 1
            yield pixels
        if (piece.wanted and taken == piece.wanted) or (piece.duration and taken / piece.fps >= piece.duration):
            return
    if not picture:
        raise ValueError(
            "No picture could be decoded from this video: it is damaged or of an unknown kind. Try another file."
        )
    if not taken:
        raise ValueError(_nothing_left(piece.start, "The video ends before that:"))


def _nothing_left(start: float, why: str) -> str:
    return f"{why} nothing is left after {start:.1f} s. Choose an earlier start."


class _Picture:
    """A decoded frame, converted only if it is wanted."""

    def __init__(self, frame: av.VideoFrame) -> None:
        self.frame, self.fresh = frame, True
        self.turns = round(getattr(frame, "rotation", 0) / 90) % 4

    def pixels(self, width: int, height: int) -> np.ndarray:
        """[height, width, 3] uint8 the right way up."""
        self.fresh = False
        if self.turns % 2:
            width, height = height, width
        picture = self.frame.reformat(width, height, "rgb24", interpolation="AREA").to_ndarray()
        return np.rot90(picture, self.turns)

    def size(self, pixel: float = 1.0) -> tuple[float, float]:
        """Width and height, the right way up and with square pixels."""
        width, height = self.frame.width * max(1.0, pixel), self.frame.height / min(1.0, pixel)
        return (height, width) if self.turns % 2 else (width, height)


def _shown(piece: Piece, cancelled: IsCancelled) -> Iterator[tuple[_Picture, float]]:
    """Pictures with the time, in seconds after the piece's start, until which each is on screen."""
    begin = piece.zero + piece.start if piece.start and piece.zero is not None else None
    frames = decoded(piece.source, piece.stream, begin, cancelled)
    slack = min(0.25 / piece.rate, 0.008)  # times in files are rounded; without a steady rate 1 / rate says little
    shown: _Picture | None = None
    last: float | None = None
    for frame in _whole(frames):
        if piece.zero is not None and frame.time is not None:
            time = frame.time - piece.zero - piece.start
        else:
            time = -piece.start if last is None else last + 1 / piece.rate
        if shown is not None and time - slack > 0:
            yield shown, time - slack
        shown, last = _Picture(frame), time
    if shown is not None and last is not None:
        yield shown, last + 1 / piece.rate - slack


def _whole(frames: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """The frames of interlaced video as whole pictures, those of any other as they are."""
    graph: av.filter.Graph | None = None
    form: tuple | None = None
    for frame in frames:
        last, form = form, (frame.width, frame.height, frame.format.name)
        if graph and form != last:
            yield from filtered(graph, None)
            graph = None
        if not graph and frame.interlaced_frame:
            graph = av.filter.Graph()
            name: Any = frame.format.name  # PyAV takes a format's name too
            graph.link_nodes(
                graph.add_buffer(width=form[0], height=form[1], format=name, time_base=frame.time_base),
                graph.add("bwdif", "mode=send_frame:deint=interlaced"),
                graph.add("buffersink"),
            )
            graph.configure()
        yield from filtered(graph, frame) if graph else (frame,)
    yield from filtered(graph, None) if graph else ()


def _check_shape(first: _Picture, picture: _Picture, seconds: float) -> None:
    """A change of resolution is scaled to the first size; another shape would be squeezed into it."""
    (width, height), (other_width, other_height) = first.size(), picture.size()
    ratio = width * other_height / (height * other_width)
    if not 1 / SAME_SHAPE < ratio < SAME_SHAPE:
        raise ValueError(
            f"The picture changes its shape from {width:.0f}×{height:.0f} to {other_width:.0f}×{other_height:.0f} "
            f"{seconds:.1f} s after the start. Choose a piece before or after that, with start and frames."
        )


def _size(picture: _Picture, pixel: float, longest_side: int) -> tuple[int, int]:
    """Width and height of the clip's frames: even, as H.264 wants them."""
    width, height = picture.size(pixel)
    scale = min(1.0, longest_side / max(width, height)) if longest_side else 1.0
    return max(2, 2 * round(width * scale / 2)), max(2, 2 * round(height * scale / 2))


def _room(
    frames: np.ndarray | None, shape: tuple[int, int, int], count: int, free_bytes: int, decoding_bytes: int
) -> np.ndarray:
    """An array for `count` frames, with those that are there already."""
    height, width, _ = shape
    one = width * height * 12
    left = min(SPARE * free_bytes, free_bytes - decoding_bytes) - (0 if frames is None else frames.nbytes)
    if count * one > left:
        raise ValueError(
            f"{count} frames of {width}×{height} need {count * one / 1e9:.1f} GB of memory, "
            f"{free_bytes / 1e9:.1f} GB are free. "
            f"Take at most {max(0, int(left / one))} frames, a lower frame rate, or a shorter longest side."
        )
    room = np.empty((count, height, width, 3), np.float32)
    if frames is not None:
        room[: len(frames)] = frames
    return room


def _measured_rate(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    """Frames a second by the times of the first ones."""
    packets = itertools.islice(container.demux(stream), 100)
    times = sorted(float(packet.pts * (stream.time_base or 0)) for packet in packets if packet.pts is not None)
    lasted = times[-1] - times[0] if times else 0.0
    return min(FASTEST, (len(times) - 1) / lasted) if lasted else 25.0


def _seconds(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    """The video's length, infinite where the file does not say."""
    kind = container.format.name
    guessed = kind in ("mpeg", "mpegvideo")  # from the first bytes' rate
    by_the_clock = (container.start_time or 0) > 0 and kind in ("matroska,webm", "nut")  # it is the last picture's time
    if guessed or by_the_clock:
        return math.inf
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else math.inf
