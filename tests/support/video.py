"""What a video file really holds, read with PyAV: tests probe the file, not what a node says of it."""

import struct
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np


@dataclass
class Probe:
    width: int
    height: int
    frames: int
    rate: float
    codec: str
    tags: dict[str, str]
    pictures: np.ndarray  # [frames, height, width, 3] uint8
    has_audio: bool


def probe(path: Path) -> Probe:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
        return Probe(
            width=stream.codec_context.width,
            height=stream.codec_context.height,
            frames=len(pictures),
            rate=float(stream.average_rate),
            codec=stream.codec_context.name,
            tags=dict(container.metadata),
            pictures=pictures,
            has_audio=bool(container.streams.audio),
        )


def turn(path: Path, degrees: int) -> None:
    """Makes an MP4 of one track ask players to turn it clockwise, as a phone does: in the track header's matrix.

    PyAV writes an upright matrix only, so its 36 bytes are changed in the file.
    """
    data = Path(path).read_bytes()
    matrix = data.index(b"tkhd") + 44
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    turned = struct.pack(">9i", cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30)
    Path(path).write_bytes(data[:matrix] + turned + data[matrix + 36 :])
