"""A piece of any video file as images and sound: decoded as a stream, trimmed, brought to a steady frame rate."""

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import av
import numpy as np

SPARE = 0.8  # of the free memory; the rest is for what comes after


@dataclass
class Clip:
    """frames [n, height, width, 3] float32 0..1; sound [channels, samples] float32 or None, as long as the frames."""

    frames: np.ndarray
    fps: float
    sound: np.ndarray | None
    sample_rate: int


class Stopped(Exception):
    """The user pressed Cancel."""


def read_clip(
    source: str | io.BytesIO,
    start: float = 0.0,
    count: int = 0,
    fps: float = 0.0,
    longest_side: int = 0,
    duration: float = 0.0,
    free_bytes: int = 2**63,
    progress: Callable[[int, int], None] = lambda done, total: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Clip:
    """`count` frames from `start` seconds on, `fps` of them a second; 0 means all, and the file's own average rate.

    Each output frame is the one on screen at its time, so uneven frame rates come out even and the sound stays in step.
    Turned as the file asks; scaled down so that no side is longer than `longest_side` pixels (0 = as it is). `duration`
    (seconds from `start`, 0 = to the end) also ends it. Raises ValueError in plain words for what cannot be read,
    ValueError, before decoding, for what `free_bytes` cannot hold, Stopped when cancelled.
    """
    with _opened(source) as container:
        stream = container.streams.video[0]
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        fps = fps or rate
        length = _seconds(container, stream) - start
        if length <= 0:
            raise ValueError(
                f"The video is {length + start:.1f} s long, so nothing is left after {start:.1f} s. Choose an earlier start."
            )
        length = min(length, duration) if duration else length
        wanted = max(1, math.floor(length * fps + 0.01)) if math.isfinite(length) else 0
        wanted = min(count, wanted) if count and wanted else count or wanted
        frames, taken = None, 0
        for picture, until in _shown(container, stream, start, rate):
            if cancelled():
                raise Stopped
            while taken < (wanted or 10**9) and taken / fps < until:
                if frames is None or taken == len(frames):
                    size = _size(picture, longest_side)
                    frames = _room(frames, size, wanted or max(64, 2 * taken), free_bytes)
                if taken and not picture.fresh:
                    frames[taken] = frames[taken - 1]
                else:
                    np.multiply(
                        picture.pixels(frames.shape[2], frames.shape[1]), np.float32(1 / 255), out=frames[taken]
                    )
                taken += 1
                progress(taken, wanted or len(frames))
            if taken == wanted or (duration and taken / fps >= duration):
                break
    if not taken:
        raise ValueError(
            "No picture could be decoded from this video: it is damaged or of an unknown kind. Try another file."
        )
    sound, sample_rate = _sound(source, start, taken / fps, cancelled)
    return Clip(frames[:taken], fps, sound, sample_rate)


class _Picture:
    """A decoded frame, converted only if it is wanted."""

    def __init__(self, frame: av.VideoFrame):
        self.frame, self.fresh = frame, True
        self.turns = round(getattr(frame, "rotation", 0) / 90) % 4

    def pixels(self, width: int, height: int) -> np.ndarray:
        """[height, width, 3] uint8 the right way up."""
        self.fresh = False
        if self.turns % 2:
            width, height = height, width
        picture = self.frame.reformat(width, height, "rgb24", interpolation="AREA").to_ndarray()
        return np.rot90(picture, self.turns)


def _shown(container, stream, start: float, rate: float) -> Iterator[tuple[_Picture, float]]:
    """Pictures with the time, in seconds after `start`, until which each is on screen."""
    stream.thread_type = "AUTO"
    base, zero = float(stream.time_base), stream.start_time or 0
    if start:
        container.seek(int(start / base) + zero, stream=stream)
    slack = min(0.25 / rate, 0.008)  # times in files are rounded; without a steady rate 1 / rate says little
    shown = None
    for packet in container.demux(stream):
        try:
            decoded = packet.decode()
        except av.error.InvalidDataError:
            continue  # players skip damaged packets too
        for frame in decoded:
            time = ((frame.pts if frame.pts is not None else frame.dts or 0) - zero) * base - start
            if shown is not None and time - slack > 0:
                yield shown, time - slack
            shown = _Picture(frame)
            last = time
    if shown is not None:
        yield shown, last + 1 / rate - slack


def _size(picture: _Picture, longest_side: int) -> tuple[int, int]:
    """Width and height of the clip's frames, the right way up."""
    width, height = picture.frame.width, picture.frame.height
    if picture.turns % 2:
        width, height = height, width
    scale = min(1.0, longest_side / max(width, height)) if longest_side else 1.0
    return max(1, round(width * scale)), max(1, round(height * scale))


def _room(frames: np.ndarray | None, size: tuple[int, int], count: int, free_bytes: int) -> np.ndarray:
    """An array for `count` frames, with those that are there already."""
    width, height = size
    needed = count * width * height * 12
    if needed > SPARE * free_bytes:
        fitting = int(SPARE * free_bytes / (width * height * 12))
        raise ValueError(
            f"{count} frames of {width}×{height} need {needed / 1e9:.1f} GB of memory, {free_bytes / 1e9:.1f} GB are free. "
            f"Take at most {fitting} frames, a lower frame rate, or a shorter longest side."
        )
    room = np.empty((count, height, width, 3), np.float32)
    if frames is not None:
        room[: len(frames)] = frames
    return room


def _opened(source: str | io.BytesIO):
    if isinstance(source, io.BytesIO):
        source.seek(0)
    try:
        container = av.open(source)
    except (av.error.FFmpegError, OSError) as err:
        raise ValueError("This video cannot be opened: it is damaged or no video file. Try another file.") from err
    if not container.streams.video:
        container.close()
        raise ValueError("This file has no picture in it, only sound. Choose a video.")
    return container


def _seconds(container, stream) -> float:
    """The video's length, infinite where the file does not say."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if container.duration:
        return container.duration / av.time_base
    return math.inf


def _sound(source: str | io.BytesIO, start: float, length: float, cancelled: Callable[[], bool]):
    """Sound [channels, samples] of `length` seconds from `start`, silence where there is none, and its sample rate."""
    with _opened(source) as container:
        stream = next((s for s in container.streams.audio if s.codec_context is not None), None)
        if stream is None:
            return None, 0
        video = container.streams.video[0]
        begin = float((video.start_time or 0) * video.time_base) + start
        rate, channels = stream.rate, stream.channels
        wave = np.zeros((channels, round(length * rate)), np.float32)
        resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=rate)
        if start:
            container.seek(int(begin / stream.time_base), stream=stream)
        heard, at = False, None
        for packet in container.demux(stream):
            if cancelled():
                raise Stopped
            try:
                decoded = packet.decode()
            except av.error.InvalidDataError:
                continue
            for frame in decoded:
                if at is None:  # from here on samples follow each other
                    at = round((float((frame.pts or 0) * frame.time_base) - begin) * rate)
                for part in resampler.resample(frame):
                    samples = part.to_ndarray()
                    low, high = max(at, 0), min(at + samples.shape[1], wave.shape[1])
                    if low < high:
                        wave[:, low:high] = samples[:, low - at : high - at]
                        heard = True
                    at += samples.shape[1]
            if at is not None and at >= wave.shape[1]:
                break
        return (wave, rate) if heard else (None, 0)
