"""Sound as every writer takes it: mono or stereo, 44.1 or 48 kHz, finite and between -1 and 1.

ffmpeg changes it before it becomes an array: PyAV crashes where planes of eight channels and more are read.
"""

import io
import itertools
import math
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
import numpy as np

from ..base.cancel import IsCancelled, stop_if
from .container import decoded, opened
from .filters import filtered

RATES = range(4_000, 768_001)  # a second; a header that claims others is wrong, and resampling would take gigabytes
CHANNELS = range(1, 65)  # what ffmpeg can mix
CHUNK = 48_000  # samples
OWN_ORDER = re.compile(r"\d+ channels \(([^)]*)\)?")  # as ffmpeg writes it, cut off where it is long
GAP = 0.05  # seconds; less between two packets is a rounded time, more is silence

# [channels, samples] float32 or None, its rate, what was changed or is wrong
Sound = tuple[np.ndarray | None, int, str]


class PlainSound:
    """Turns the sound's frames one after the other into [channels, samples] float32. Raises ValueError for odd headers.

    `order` is that of channels which the frames do not name, such as "FC+FL+FR".
    """

    def __init__(self, channels: int, rate: int, order: str = "") -> None:
        if rate not in RATES:
            raise ValueError(f"its header claims {rate:,} samples a second")
        if channels not in CHANNELS:
            raise ValueError(f"its header claims {channels} channels")
        self.channels, self.order = min(channels, 2), order
        self.rate = 44_100 if rate % 11_025 == 0 else 48_000
        self.silenced = 0

    def all(self, frames: Iterable[av.AudioFrame]) -> Iterator[tuple[float | None, np.ndarray]]:
        """Samples, and the seconds at which they begin."""
        form: tuple | None = None
        graph: av.filter.Graph | None = None
        for frame in frames:
            last, form = form, (frame.format.name, frame.layout.name, frame.sample_rate, frame.time_base)
            if graph is None or form != last:  # some recordings change it on the way
                yield from self._plain(graph, None) if graph else ()
                graph = self._graph(frame)
            yield from self._plain(graph, frame)
        yield from self._plain(graph, None) if graph else ()

    def _graph(self, frame: av.AudioFrame) -> av.filter.Graph:
        if frame.sample_rate not in RATES:
            raise ValueError(f"it claims {frame.sample_rate:,} samples a second")
        graph = av.filter.Graph()
        kind = {"sample_rate": str(frame.sample_rate), "sample_fmt": frame.format.name}
        base = str(frame.time_base or Fraction(1, frame.sample_rate))
        name, count = frame.layout.name, frame.layout.nb_channels
        if self.order and self.order.count("+") + 1 == count and name == f"{count} channels":
            name = self.order
        steps = [graph.add("abuffer", channel_layout=name, time_base=base, **kind)]
        if name.startswith("ambisonic"):
            steps.append(graph.add("pan", "stereo|c0=c0|c1=c0"))  # the first one is what is heard from all around
        elif count > 8 and name.endswith("channels"):  # nobody says where they stand
            mix = "+".join(f"c{n}" for n in range(count))
            steps.append(graph.add("pan", f"stereo|c0<{mix}|c1<{mix}"))
        steps.append(graph.add("aresample", "rematrix_maxval=1"))  # or loud surround sound would be cut off
        layout = "mono" if self.channels == 1 else "stereo"
        plain = {"sample_fmts": "fltp", "sample_rates": str(self.rate), "channel_layouts": layout}
        steps += [graph.add("aformat", **plain), graph.add("abuffersink")]
        graph.link_nodes(*steps)
        graph.configure()
        return graph

    def _plain(self, graph: av.filter.Graph, frame: av.AudioFrame | None) -> Iterator[tuple[float | None, np.ndarray]]:
        for done in filtered(graph, frame):
            yield done.time, self.finite(done.to_ndarray())

    def finite(self, samples: np.ndarray) -> np.ndarray:
        """float32 between -1 and 1; what is no number becomes silence, and is counted."""
        finite = np.isfinite(samples)
        self.silenced += samples.size - int(finite.sum())
        return np.where(finite, samples, 0).clip(-1, 1).astype(np.float32)

    def changes(self, channels: int, rate: int, layout: str) -> str:
        """In words what became of sound of this form; empty where nothing was changed."""
        said = ""
        if (channels, rate) != (self.channels, self.rate):
            name = "mono" if self.channels == 1 else "stereo"
            layout = {"1 channels": "mono", "2 channels": "stereo"}.get(layout, layout)
            said = f"{layout}, {rate:,} Hz made {name}, {self.rate:,} Hz"
        silenced = "samples that are no numbers silenced" if self.silenced else ""
        return ", ".join(filter(None, (said, silenced)))


def plain_wave(waveform: np.ndarray, rate: float, seconds: float, cancelled: IsCancelled) -> Sound:
    """The first `seconds` of any sound of the graph, [channels, samples] of numbers, made plain.

    Raises ValueError for what is no sound.
    """
    if waveform.ndim != 2:
        raise ValueError("it does not consist of channels and samples")
    channels, rate = len(waveform), int(rate) if math.isfinite(rate) else 0
    plain = PlainSound(channels, rate)
    wave = plain.finite(waveform[:, : math.ceil(seconds * rate)])
    if not wave.size:
        raise ValueError("it is empty")
    if (channels, rate) != (plain.channels, plain.rate):
        wave = np.concatenate([samples for _, samples in plain.all(_chunks(wave, rate, cancelled))], 1)
    return wave, plain.rate, plain.changes(channels, rate, f"{channels} channels")


def _chunks(wave: np.ndarray, rate: int, cancelled: IsCancelled) -> Iterator[av.AudioFrame]:
    layout = {1: "mono", 2: "stereo"}.get(len(wave), f"{len(wave)} channels")
    for at in range(0, wave.shape[1], CHUNK):
        stop_if(cancelled)
        packed = np.ascontiguousarray(wave[:, at : at + CHUNK].T).reshape(1, -1)  # planes crash like in reading
        frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, at, Fraction(1, rate)
        yield frame


def read_sound(source: str | io.BytesIO, begin: float, length: float, free_bytes: int, cancelled: IsCancelled) -> Sound:
    """The sound of `length` seconds from `begin` on, in seconds of the file's own clock; silence where it has none.

    Sound that cannot be had is no reason to have no pictures: then it is None, and the text says why.
    """
    try:
        return _read(source, begin, length, free_bytes, cancelled)
    except (av.error.FFmpegError, ValueError, MemoryError) as err:
        return None, 0, str(err) if type(err) is ValueError else "it cannot be decoded"


def _read(source: str | io.BytesIO, begin: float, length: float, free_bytes: int, cancelled: IsCancelled) -> Sound:
    with opened(source, cancelled) as container:
        if not container.streams.audio:
            return None, 0, ""
        stream = next((stream for stream in container.streams.audio if stream.codec_context is not None), None)
        if stream is None:
            raise ValueError("it is of a kind that cannot be decoded here")
        order = channel_order(stream.codec_context)
        start, unit = stream.start_time, stream.time_base
        first = None if start is None or unit is None else float(start * unit)
    frames = decoded(source, _sound_stream, None if first is None or begin <= first else begin, cancelled)
    head = next(frames, None)
    if head is None:
        raise ValueError("it cannot be decoded")
    channels, rate, layout = head.layout.nb_channels, head.sample_rate, head.layout.name
    plain = PlainSound(channels, rate, order)
    count = round(length * plain.rate)
    if 4 * count * plain.channels > free_bytes:
        raise ValueError(f"it needs {4 * count * plain.channels / 1e9:.1f} GB of memory")
    wave, heard = np.zeros((plain.channels, count), np.float32), False
    at: int | None = None
    for time, samples in plain.all(itertools.chain([head], frames)):
        due = (at or 0) if time is None else round((time - begin) * plain.rate)
        if at is None or due > at + GAP * plain.rate:  # else samples follow each other
            at = due
        low, high = max(at, 0), min(at + samples.shape[1], count)
        if low < high:
            wave[:, low:high] = samples[:, low - at : high - at]
            heard = True
        at += samples.shape[1]
        if at >= count:
            break
    if not heard:
        raise ValueError("there is none in this piece")
    return wave, plain.rate, plain.changes(channels, rate, layout)


def _sound_stream(container: av.container.InputContainer) -> av.AudioStream:
    stream = next(stream for stream in container.streams.audio if stream.codec_context is not None)
    channel_order(stream.codec_context)
    return stream


def channel_order(sound: av.AudioCodecContext) -> str:
    """The order of the channels where the file has one of its own ("FC+FL+FR"), else "". The decoder does not know it any more.

    PyAV 17 and 18 free such an order with each thing that mentions it, and the second time ends the process.
    """
    layout = sound.layout
    own = OWN_ORDER.fullmatch(layout.name)
    sound.layout = f"{layout.nb_channels} channels" if own else layout.name
    return own[1] if own else ""
