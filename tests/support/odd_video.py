"""Videos with the sound, clocks and shapes that real files have, made with PyAV: machines of the tests may lack ffmpeg's program."""

import io
from fractions import Fraction

import av
import numpy as np


def tone(channels: int, samples: int, rate: int, level: float = 0.2) -> np.ndarray:
    """[channels, samples]: 440 Hz in every channel."""
    return np.tile(level * np.sin(2 * np.pi * 440 * np.arange(samples) / rate), (channels, 1)).astype(np.float32)


def grey(frame: int) -> int:
    """Each frame's own brightness, so that a test can tell which one it got."""
    return 20 + 5 * (frame % 40)


def which(frames: np.ndarray) -> list[int]:
    """Which frames these are, [n, height, width, 3] between 0 and 1."""
    levels = np.rint(frames.mean((1, 2, 3)) * 255)
    return [int(np.argmin(np.abs(np.array([grey(i) for i in range(40)]) - level))) for level in levels]


def make(
    wave: np.ndarray | None = None,
    rate: int = 48000,
    layout: str = "stereo",
    container: str = "mov",
    sound_codec: str = "pcm_f32le",
    frames: int = 16,
    fps: int = 16,
    size: tuple[int, int] = (96, 128),
    codec: str = "libx264",
    options: dict | None = None,
    pixel: Fraction | None = None,
    begins: float = 0.0,
    sound_begins: float | None = None,
    pictures=None,
    mux: dict | None = None,
) -> io.BytesIO:
    """A video in memory: grey pictures, or `pictures` [h, w, 3] uint8, and `wave` [channels, samples]; times in seconds."""
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=mux or {}) as out:
        stream = out.add_stream(
            codec, rate=fps, options={"crf": "5", **(options or {})} if codec == "libx264" else options
        )
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt = {"gif": "rgb8", "apng": "rgb24"}.get(codec, "yuv420p")
        if pixel:
            stream.codec_context.sample_aspect_ratio = pixel
        sound = out.add_stream(sound_codec, rate=rate, layout=layout) if wave is not None else None
        finer = 1 if container in ("avi", "mxf", "mpeg") else 1000  # their clock is the frame rate
        base = Fraction(1, fps * finer)
        stream.codec_context.time_base = base
        for number in range(frames):
            picture = (
                pictures[number] if pictures is not None else np.full((size[1], size[0], 3), grey(number), np.uint8)
            )
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = round(begins * fps * finer) + number * finer, base
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
        if sound:
            begin = round((begins if sound_begins is None else sound_begins) * rate)
            step = 1024 if sound_codec == "aac" else 4096
            for at in range(0, wave.shape[1], step):
                packed = np.ascontiguousarray(wave[:, at : at + step].T).reshape(1, -1)
                part = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
                part.sample_rate, part.pts, part.time_base = rate, begin + at, Fraction(1, rate)
                out.mux(sound.encode(part))
            out.mux(sound.encode())
    file.seek(0)
    return file


def in_film_order(file: io.BytesIO) -> io.BytesIO:
    """A MOV with six channels, which are from then on said to be C L R Ls Rs LFE: an order that has no name of its own."""
    data = bytearray(file.getvalue())
    at = data.index(b"chan") + 8
    data[at : at + 8] = (124 << 16 | 6).to_bytes(4, "big") + bytes(4)  # QuickTime's tag MPEG_5_1_D
    return io.BytesIO(bytes(data))
