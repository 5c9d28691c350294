"""Files that carry their workflow: pictures written here, videos through ComfyUI's own writer, both read back.

Dropping such a file on ComfyUI's page brings the graph back; the tags are the ones that the page reads.
"""

import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from .client import Cancelled

GRAPH_TAGS = ("prompt", "workflow")
EXIF_PROMPT, EXIF_MAKE = 0x0110, 0x010F  # where ComfyUI's page looks in WEBP: Model, and Make downwards
JPEG_EXIF_LIMIT = 65_000  # bytes


class WatchedFile(io.FileIO):
    """A video file that reports how far it has been read and stops the reader when the user cancels."""

    def __init__(self, path: str, progress: Callable[[int, int], None], cancelled: Callable[[], bool]):
        super().__init__(path, "rb")
        self.total = self.seek(0, io.SEEK_END)
        self.seek(0)
        self.progress, self.cancelled = progress, cancelled

    def read(self, size: int = -1) -> bytes:
        if self.cancelled():
            raise Cancelled("The encoding was cancelled.")
        block = super().read(size)
        try:
            self.progress(min(self.tell(), self.total), self.total)
        except BaseException as err:  # ComfyUI's interrupt is no Exception: inside PyAV's reader it would get lost
            raise Cancelled("The encoding was cancelled.") from err
        return block


class WatchedFrames:
    """Frames, N×H×W×3, that report which one is being encoded and stop the encoder when the user cancels."""

    def __init__(self, images, progress: Callable[[int, int], None], cancelled: Callable[[], bool]):
        self.images, self.shape = images, images.shape
        self.progress, self.cancelled = progress, cancelled

    def __iter__(self) -> Iterator:
        for number, frame in enumerate(self.images):
            if self.cancelled():
                raise Cancelled("The encoding was cancelled.")
            yield frame
            self.progress(number + 1, len(self.images))


def is_mp4_h264(source: str | io.BytesIO) -> bool:
    """Whether a video can be stored as it is: H.264 in an MP4 container."""
    import av

    with av.open(source) as container:
        codecs = [stream.codec_context.name for stream in container.streams.video if stream.codec_context]
        return "mp4" in container.format.name.split(",") and codecs[:1] == ["h264"]


def video_tags(path: str | Path | io.BytesIO) -> dict[str, str]:
    """The text tags of a video file's container."""
    import av

    with av.open(path if isinstance(path, io.BytesIO) else str(path)) as container:
        return dict(container.metadata)


def check_video(path: Path, tags: Mapping[str, object]) -> None:
    """Reads a written video back. Raises ValueError when it cannot be opened or `tags` did not arrive."""
    import av

    try:
        with av.open(str(path)) as container:
            found = dict(container.metadata)
            frames = next(container.decode(video=0), None)
    except (av.error.FFmpegError, IndexError) as err:
        raise ValueError(f"{path.name} was written but cannot be opened again. Check the disk and save again.") from err
    if frames is None:
        raise ValueError(f"{path.name} was written but holds no picture. Check the frames that reach this node.")
    _check_tags(path, found, tags)


def save_image(pixels, path: Path, tags: Mapping[str, object], quality: int) -> None:
    """Writes one picture, H×W×3 or ×4 uint8, as PNG, WEBP or JPEG by the path's ending, and reads it back.

    `quality` 1 to 100 is for WEBP (100 is lossless) and JPEG. A JPEG has room for about 64 KB of tags: what does not
    fit is left out.
    """
    from PIL import Image, PngImagePlugin

    image = Image.fromarray(pixels)
    texts = {name: json.dumps(value) for name, value in tags.items()}
    if path.suffix == ".png":
        info = PngImagePlugin.PngInfo()
        for name, text in texts.items():
            info.add_text(name, text)
        options = {"pnginfo": info, "compress_level": 4}
    else:
        exif = image.getexif()
        if "prompt" in texts:
            exif[EXIF_PROMPT] = f"prompt:{texts['prompt']}"
        for offset, name in enumerate(name for name in texts if name != "prompt"):
            exif[EXIF_MAKE - offset] = f"{name}:{texts[name]}"
        options = {"exif": exif, "quality": quality}
        if path.suffix == ".webp":
            options["lossless"] = quality == 100
        else:
            image = image.convert("RGB")
            if len(exif.tobytes()) > JPEG_EXIF_LIMIT:
                options["exif"], tags = Image.Exif(), {}
    try:
        image.save(path, **options)
        with Image.open(path) as written:
            written.load()  # on a full disk Pillow may leave half a JPEG without an error
    except BaseException:  # the folder sync would take a half file for a picture
        path.unlink(missing_ok=True)
        raise
    _check_tags(path, image_tags(path), tags)


def image_tags(path: Path) -> dict[str, str]:
    """The workflow tags of a picture file."""
    from PIL import Image

    with Image.open(path) as image:
        if path.suffix == ".png":
            return dict(image.text)
        texts = [str(value) for tag, value in image.getexif().items() if tag <= EXIF_PROMPT and isinstance(value, str)]
        return dict(text.split(":", 1) for text in texts if ":" in text)


def _check_tags(path: Path, found: Mapping[str, str], expected: Mapping[str, object]) -> None:
    for name, value in expected.items():
        if name not in found or json.loads(found[name]) != json.loads(json.dumps(value)):
            raise ValueError(f"{path.name} was written but its '{name}' tag cannot be read back. Save it again.")
    for name in GRAPH_TAGS:
        if name not in expected and found.get(name):
            aside = path.replace(path.with_name(f".{path.name}"))  # the folder sync leaves hidden files alone
            raise ValueError(
                f"{path.name} still holds a '{name}' tag that was to be left out. It was not uploaded: "
                f"it lies beside the others as {aside.name}, for you only."
            )
