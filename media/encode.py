"""Files that carry their workflow: pictures written here, videos through ComfyUI's own writer, both read back.

Dropping such a file on ComfyUI's page brings the graph back; the tags are the ones that the page reads.
"""

import io
import json
import wave as wave_file
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..base.cancel import IsCancelled, stop_if
from .container import opened, picture_stream

GRAPH_TAGS = ("prompt", "workflow")
EXIF_PROMPT, EXIF_MAKE = 0x0110, 0x010F  # where ComfyUI's page looks in WEBP: Model, and Make downwards
JPEG_EXIF_LIMIT = 65_000  # bytes


class WatchedFrames:
    """Frames, N×H×W×3, that report which one is being encoded and stop the encoder when the user cancels."""

    def __init__(self, images: Any, progress: Callable[[int, int], None], cancelled: IsCancelled) -> None:
        self.images, self.shape = images, images.shape
        self.progress, self.cancelled = progress, cancelled

    def __iter__(self) -> Iterator:
        for number, frame in enumerate(self.images):
            stop_if(self.cancelled)
            yield frame
            self.progress(number + 1, len(self.images))


def is_mp4_h264(source: str | io.BytesIO) -> bool:
    """Whether a video can be stored as it is: H.264 in an MP4 container."""
    with opened(source) as container:
        codecs = [stream.codec_context.name for stream in container.streams.video if stream.codec_context]
        return "mp4" in container.format.name.split(",") and codecs[:1] == ["h264"]


def video_tags(path: str | Path | io.BytesIO) -> dict[str, str]:
    """The text tags of a video file's container."""
    with opened(path) as container:
        return dict(container.metadata)


def texts(tags: Mapping[str, object]) -> dict[str, str]:
    """The tags as they stand in a file."""
    return {name: json.dumps(value) for name, value in tags.items()}


def fitting_tags(tags: Mapping[str, object]) -> dict[str, object]:
    """Those of the tags that an MP4 gives back, found out with a tiny one, before an hour's work depends on it."""
    import av

    for some in (tags, {name: value for name, value in tags.items() if name in GRAPH_TAGS}):
        file = io.BytesIO()
        try:
            with av.open(file, "w", format="mp4", options={"movflags": "use_metadata_tags"}) as container:
                container.metadata.update(texts(some))
                stream = container.add_stream("mpeg4", rate=1)
                stream.width = stream.height = 16
                container.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
                container.mux(stream.encode())
            found = video_tags(file)
        except (av.error.FFmpegError, ValueError, TypeError):
            continue
        return {name: value for name, value in some.items() if _same(found.get(name), value)}
    return {}


def check_whole(path: Path, frames: int, cancelled: IsCancelled = lambda: False) -> None:
    """Reads a written video to its end. Raises ValueError when pictures of it are missing; `frames` 0: those it names."""
    try:
        with opened(path, cancelled) as container:
            stream = picture_stream(container)
            there = sum(1 for packet in container.demux(stream) if packet.size)
            wanted = frames or stream.frames
    except (OSError, ValueError) as err:
        raise ValueError("it cannot be opened again") from err
    if there < wanted:
        raise ValueError(f"only {there} of its {wanted} frames could be read back")


def check_video(path: Path, tags: Mapping[str, object]) -> None:
    """Reads a written video back. Raises ValueError when it cannot be opened or `tags` did not arrive."""
    import av

    try:
        with opened(path) as container:
            found = dict(container.metadata)
            frames = next(container.decode(video=0), None)
    except (av.error.FFmpegError, ValueError, IndexError) as err:
        raise ValueError(f"{path.name} was written but cannot be opened again. Check the disk and save again.") from err
    if frames is None:
        raise ValueError(f"{path.name} was written but holds no picture. Check the frames that reach this node.")
    _check_tags(path, found, tags)


def save_wave(wave: np.ndarray, rate: int, path: Path) -> None:
    """Writes sound, [channels, samples] between -1 and 1, as a 16 bit WAV."""
    with wave_file.open(str(path), "wb") as file:
        file.setnchannels(len(wave))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((wave.T * 32767).astype("<i2").tobytes())


def save_image(pixels: np.ndarray, path: Path, tags: Mapping[str, object], quality: int) -> None:
    """Writes one picture, H×W×3 or ×4 uint8, as PNG, WEBP or JPEG by the path's ending, and reads it back.

    `quality` 1 to 100 is for WEBP (100 is lossless) and JPEG. A JPEG has room for about 64 KB of tags: what does not
    fit is left out.
    """
    from PIL import Image, PngImagePlugin

    image = Image.fromarray(pixels)
    written = texts(tags)
    if path.suffix == ".png":
        info = PngImagePlugin.PngInfo()
        for name, text in written.items():
            info.add_text(name, text)
        options: dict[str, Any] = {"pnginfo": info, "compress_level": 4}
    else:
        exif = image.getexif()
        if "prompt" in written:
            exif[EXIF_PROMPT] = f"prompt:{written['prompt']}"
        for offset, name in enumerate(name for name in written if name != "prompt"):
            exif[EXIF_MAKE - offset] = f"{name}:{written[name]}"
        options = {"exif": exif, "quality": quality}
        if path.suffix == ".webp":
            options["lossless"] = quality == 100
        else:
            image = image.convert("RGB")
            if len(exif.tobytes()) > JPEG_EXIF_LIMIT:
                options["exif"], tags = Image.Exif(), {}
    try:
        image.save(path, **options)
        with Image.open(path) as there:
            there.load()  # on a full disk Pillow may leave half a JPEG without an error
    except BaseException:  # the folder sync would take a half file for a picture
        path.unlink(missing_ok=True)
        raise
    _check_tags(path, image_tags(path), tags)


def image_tags(path: Path) -> dict[str, str]:
    """The workflow tags of a picture file."""
    from PIL import Image, PngImagePlugin

    with Image.open(path) as image:
        if isinstance(image, PngImagePlugin.PngImageFile):
            return dict(image.text)
        texts = [str(value) for tag, value in image.getexif().items() if tag <= EXIF_PROMPT and isinstance(value, str)]
        return dict(text.split(":", 1) for text in texts if ":" in text)


def _check_tags(path: Path, found: Mapping[str, str], expected: Mapping[str, object]) -> None:
    for name, value in expected.items():
        if not _same(found.get(name), value):
            raise ValueError(f"{path.name} was written but its '{name}' tag cannot be read back. Save it again.")
    for name in GRAPH_TAGS:
        if name not in expected and found.get(name):
            aside = path.replace(path.with_name(f".{path.name}"))  # the folder sync leaves hidden files alone
            raise ValueError(
                f"{path.name} still holds a '{name}' tag that was to be left out. It was not uploaded: "
                f"it lies beside the others as {aside.name}, for you only."
            )


def _same(text: str | None, value: object) -> bool:
    """Whether a tag's text, as it was found in a file, is the value that was written."""
    try:
        return text is not None and json.loads(text) == json.loads(json.dumps(value))
    except ValueError:
        return False
