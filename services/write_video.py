"""A video of the graph onto the disk, whatever fails on the way: with its sound, else without, else as pictures."""

import errno
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from av.codec.codec import UnknownCodecError
from comfy_api.latest import InputImpl, Types

from ..base.cancel import Cancelled, stop_if
from ..machine.memory import free_ram
from ..media import encode
from ..media.container import opened, picture_stream, watched
from ..media.read_video import Piece, find_piece, read_pictures
from ..media.sound import CHANNELS, RATES, Sound, channel_order, plain_wave, read_sound
from .progress import cancelled
from .r2_sender import output_folder

if TYPE_CHECKING:
    from comfy_api.input_impl import VideoFromComponents

MP4: dict[str, Any] = {"format": Types.VideoContainer.MP4, "codec": Types.VideoCodec.H264}
CLOCK = 0.05  # seconds; less is a rounded time
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

log = logging.getLogger(__name__)


class ReadFrames:
    """A piece of a file as frames 0..1, which are read while they are encoded."""

    def __init__(self, piece: Piece) -> None:
        self.piece = piece
        self.shape = (piece.wanted, *next(read_pictures(piece, cancelled)).shape)

    def __len__(self) -> int:
        return self.piece.wanted

    def __iter__(self) -> Iterator[torch.Tensor]:
        for picture in read_pictures(self.piece, cancelled):
            yield torch.from_numpy(np.ascontiguousarray(picture)).float() / 255


@dataclass(frozen=True)
class Parts:
    """Frames [n, height, width, 3], 0..1, and sound as media.sound makes it; `said` tells what was changed."""

    frames: torch.Tensor | ReadFrames
    fps: Any  # a fraction or a number
    bit_depth: int
    sound: np.ndarray | None
    sample_rate: int
    said: list[str]

    def video(self, frames: Any) -> "VideoFromComponents":
        """The parts as ComfyUI's video, with `frames` in place of their own."""
        audio: Any = None
        if self.sound is not None:
            audio = {"waveform": torch.from_numpy(self.sound)[None], "sample_rate": self.sample_rate}
        parts = Types.VideoComponents(images=frames, audio=audio, frame_rate=self.fps)
        return InputImpl.VideoFromComponents(parts, bit_depth=self.bit_depth)


def video_size(video: Any) -> tuple[int, int]:
    """Width and height. Raises ValueError for a file that is no plain video."""
    if not isinstance(video, InputImpl.VideoFromFile):
        return video.get_dimensions()
    with opened(video.get_stream_source(), cancelled) as container:
        stream = picture_stream(container)
        return stream.width, stream.height


def parts_of(video: Any) -> Parts:
    """Frames and sound of a video that is no file, as every writer takes them. Raises ValueError where there are none."""
    parts, said = video.get_components(), []
    frames = parts.images[..., :3].expand(-1, -1, -1, 3)
    if not len(frames):
        raise ValueError("There are no frames to save. Check what reaches this node.")
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        said.append(f"{width}×{height} made even by repeating the last line, as H.264 needs it")
        frames = frames[:, [*range(height), *[height - 1] * (height % 2)]]
        frames = frames[:, :, [*range(width), *[width - 1] * (width % 2)]]
    sound, rate, note = _plain(parts.audio, float(len(frames) / parts.frame_rate))
    return Parts(frames, parts.frame_rate, video.get_bit_depth(), sound, rate, said + _said(sound, note))


def write_video(
    video: Any,
    path: Path,
    tags: dict,
    share_safe: bool,
    crf: int,
    progress: Callable[[str], Callable[[int, int], None]],
) -> list[str]:
    """Writes an MP4 with `tags`, which fit, and reads it back. Returns, in words, what is not in it as it came.

    `progress` gives, for a unit, what is called with how much is done: a file is counted in "B", the rest in "frames".
    No half file stays behind. Where no video can be written, what was rendered goes onto the disk in another form, and
    the ValueError says where. Raises Cancelled.
    """
    write = _write_file if isinstance(video, InputImpl.VideoFromFile) else _write_frames
    try:
        return write(video, path, tags, share_safe, crf, progress)
    except BaseException:
        _remove(path)
        raise


def _remove(path: Path) -> None:
    with suppress(OSError):  # its folder may not be there
        path.unlink()


def _write_frames(
    video: Any,
    path: Path,
    tags: dict,
    share_safe: bool,
    crf: int,
    progress: Callable[[str], Callable[[int, int], None]],
) -> list[str]:
    parts = parts_of(video)
    try:
        return _encode(parts, path, tags, crf, progress)
    except Cancelled:
        raise
    except Exception as err:
        log.warning("The video could not be encoded.", exc_info=True)
        _remove(path)  # it takes room that the pictures need
        raise ValueError(_as_pictures(parts, path, tags, _reason(err))) from err


def _write_file(
    video: Any,
    path: Path,
    tags: dict,
    share_safe: bool,
    crf: int,
    progress: Callable[[str], Callable[[int, int], None]],
) -> list[str]:
    """Copies H.264 in MP4, encodes the rest: by ComfyUI's way, and by ours what that does not take."""
    source = video.get_stream_source()
    with opened(source, cancelled) as container:  # only then may ComfyUI open it
        old, kind = dict(container.metadata), container.format.name
        start, duration = video.get_active_trim_window()
        trimmed = bool(start or duration)
        sound_taken, pictures_taken = _sound_taken(container), _pictures_taken(container, trimmed)
    as_it_is = not trimmed and encode.is_mp4_h264(source)
    try:
        if sound_taken and (as_it_is or pictures_taken):
            # The writer copies the source's tags; another run's workflow must not stay in.
            texts = {name: "" for name in old if share_safe or name.lower() in encode.GRAPH_TAGS} | encode.texts(tags)
            if not as_it_is:
                _piece(source, start, duration)  # refuses what decoding would need too much memory for
            readable: Any = watched(source, progress("B"), cancelled)
            file = InputImpl.VideoFromFile(readable, start_time=start, duration=duration)
            try:
                file.save_to(str(path), metadata=texts, crf=None if as_it_is else crf, **MP4)
                encode.check_whole(path, 0, cancelled)
                return []
            except Cancelled:
                raise
            except Exception:
                log.warning("This video is not taken as it is; frames and sound are read anew.", exc_info=True)
        piece = _piece(source, start, duration)
        if not piece.wanted:  # the file does not say how long it is, and sound is asked for by its length
            piece = replace(piece, wanted=sum(1 for _ in read_pictures(piece, cancelled)))
        begin, length = (piece.zero or 0.0) + start, piece.wanted / piece.fps
        sound, rate, note = read_sound(source, begin, length, free_ram() // 2, cancelled)
        parts = Parts(ReadFrames(piece), piece.fps, 8, sound, rate, _said(sound, note))
        return _encode(parts, path, tags, crf, progress)
    except Cancelled:
        raise
    except Exception as err:
        log.warning("The video could not be encoded.", exc_info=True)
        _remove(path)
        raise ValueError(_source_kept(source, path, kind, _reason(err))) from err


def _piece(source: Any, start: float, duration: float) -> Piece:
    return find_piece(source, start, 0, 0.0, 0, duration, free_ram(), cancelled)


def _sound_taken(container: Any) -> bool:
    """Whether ComfyUI's writer may be given the file's sound."""
    sounds = [stream.codec_context for stream in container.streams.audio if stream.codec_context]
    own_order = [sound for sound in sounds if channel_order(sound)]
    return not own_order and all(sound.sample_rate in RATES and sound.channels in CHANNELS for sound in sounds)


def _pictures_taken(container: Any, trimmed: bool) -> bool:
    """Whether ComfyUI's encoder keeps their shape, and cuts out what was asked for: it counts from the clock's 0."""
    stream = picture_stream(container)
    shifted = abs(float((stream.start_time or 0) * (stream.time_base or 0))) > CLOCK
    return (stream.sample_aspect_ratio or 1) == 1 and not (trimmed and shifted)


def _encode(
    parts: Parts, path: Path, tags: dict, crf: int, progress: Callable[[str], Callable[[int, int], None]]
) -> list[str]:
    """Encodes with the sound and, if that fails, without."""
    frames = encode.WatchedFrames(parts.frames, progress("frames"), cancelled)
    count = len(parts.frames) if isinstance(parts.frames, torch.Tensor) else 0  # what a file claims may be too much
    try:
        parts.video(frames).save_to(str(path), metadata=tags, crf=crf, **MP4)
        encode.check_whole(path, count, cancelled)
        return parts.said
    except Exception as err:
        if isinstance(err, Cancelled) or parts.sound is None or getattr(err, "errno", None) in FULL:
            raise
        log.warning("The video could not be encoded with its sound.", exc_info=True)
    silent = replace(parts, sound=None, said=[*parts.said, "without its sound, which could not be written"])
    return _encode(silent, path, tags, crf, progress)


def _plain(audio: dict | None, seconds: float) -> Sound:
    if audio is None:
        return None, 0, ""
    try:
        waveform = audio["waveform"]
        waveform = waveform[0] if waveform.ndim == 3 else torch.atleast_2d(waveform)  # one video has one sound
        return plain_wave(waveform.detach().float().cpu().numpy(), audio["sample_rate"], seconds, cancelled)
    except Cancelled:
        raise
    except ValueError as err:
        return None, 0, str(err) if type(err) is ValueError else "it could not be read"
    except Exception:  # whatever another node calls sound, the frames are worth more
        log.warning("The sound could not be read.", exc_info=True)
        return None, 0, "it could not be read"


def _said(sound: np.ndarray | None, note: str) -> list[str]:
    if not note:
        return []
    return [f"without sound: {note}" if sound is None else f"sound: {note}"]


def _as_pictures(parts: Parts, path: Path, tags: dict, reason: str) -> str:
    """Saves frames and sound as files of their own and says where they are."""
    graph = {name: tags[name] for name in encode.GRAPH_TAGS if name in tags}  # other names may not fit into a PNG
    for folder in _places(path, "frames"):
        try:
            folder.mkdir(parents=True)
            for number, frame in enumerate(parts.frames):
                stop_if(cancelled)
                pixels = frame.mul(255).round().clamp(0, 255).byte().cpu().numpy()
                encode.save_image(pixels, folder / f"{number + 1:05}.png", {} if number else graph, 100)
            silent = "" if _wave_saved(parts, folder / "sound.wav") else " There was no room for the sound."
            return (
                f"The video could not be encoded: {reason}. Nothing is lost: its {len(parts.frames)} frames are "
                f"pictures in {_where(folder)}. Make a video of them with another program, or correct the cause and "
                f"press Run again.{silent}"
            )
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            log.warning("The frames could not be written to %s.", folder, exc_info=True)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return (
        f"Neither video nor pictures could be written: {reason}. Free some space and press Run again: ComfyUI still has "
        "the frames in memory, and only saves them."
    )


def _wave_saved(parts: Parts, file: Path) -> bool:
    try:
        if parts.sound is not None:
            encode.save_wave(parts.sound, parts.sample_rate, file)
    except OSError:  # the pictures are worth more
        file.unlink(missing_ok=True)
        return False
    return True


def _source_kept(source: Any, path: Path, kind: str, reason: str) -> str:
    """Says where the video is that could not be written anew; one that is in memory only is written as it came."""
    if isinstance(source, str):
        return f"The video could not be saved: {reason}. The file that it came from is unchanged: {Path(source).name}."
    ending = {"matroska,webm": "mkv", "mov,mp4,m4a,3gp,3g2,mj2": "mp4"}.get(kind, kind.split(",")[0])
    for folder in _places(path, "source"):
        file = folder / f"video.{ending}"
        try:
            folder.mkdir(parents=True)
            file.write_bytes(source.getbuffer())
            return f"The video could not be encoded: {reason}. Nothing is lost: it is, as it came, {_where(file)}."
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
    return f"The video could not be written: {reason}. Free some space and press Run again."


def _places(path: Path, what: str) -> Iterator[Path]:
    """Folders to be made for what cannot be a video: beside it, and on another disk if that one is full."""
    stem = path.stem.lstrip(".")
    yield path.with_name(f"{stem}{what}")
    with suppress(OSError):  # there may be no room for a folder either
        yield Path(tempfile.mkdtemp(prefix=f"{stem}{what}-")) / what


def _where(path: Path) -> str:
    if path.is_relative_to(output_folder()):
        return f"{path.relative_to(output_folder()).as_posix()} in the output folder"
    return str(path)


def _reason(err: BaseException) -> str:
    if getattr(err, "errno", None) in FULL:
        return "the disk is full"
    if isinstance(err, UnknownCodecError):
        return "this ComfyUI has no H.264 encoder"
    if type(err) is ValueError:
        return str(err).rstrip(".")
    return "the encoder did not take it, and the log says more"
