"""Files with the workflow inside, read back by the same libraries that ComfyUI and its page build on."""

import json
import os
import signal

import numpy as np
import pytest
from steadydancer.base.cancel import Cancelled
from steadydancer.media import encode
from steadydancer.media.container import WatchedFile

TAGS = {
    "prompt": {"1": {"class_type": 'Größe "舞"', "inputs": {"seed": 2**53}}},
    "workflow": {"nodes": [{"id": 1, "text": "a:b=c;\n#'\\"}], "version": 0.4},
}


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def write_video(path, tags, codec="libx264"):
    import av

    with av.open(str(path), "w", options={"movflags": "use_metadata_tags+faststart"}) as container:
        for name, value in tags.items():
            container.metadata[name] = json.dumps(value)
        stream = container.add_stream(codec, rate=16)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for value in range(4):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), value * 60, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("ending", ["png", "webp", "jpg"])
def test_pictures_carry_their_tags(tmp_path, pixels, ending):
    path = tmp_path / f"a.{ending}"
    encode.save_image(pixels, path, TAGS, quality=90)
    assert {name: json.loads(text) for name, text in encode.image_tags(path).items()} == TAGS


@pytest.mark.parametrize("ending", ["png", "webp", "jpg"])
def test_pictures_without_tags_have_none(tmp_path, pixels, ending):
    path = tmp_path / f"a.{ending}"
    encode.save_image(pixels, path, {}, quality=90)
    assert encode.image_tags(path) == {}


def test_lossless_formats_keep_every_pixel(tmp_path, pixels):
    from PIL import Image

    for name in ("a.png", "a.webp"):
        encode.save_image(pixels, tmp_path / name, TAGS, quality=100)
        with Image.open(tmp_path / name) as image:
            assert np.array_equal(np.asarray(image.convert("RGB")), pixels)


def test_alpha_is_kept_or_dropped_by_format(tmp_path, pixels):
    from PIL import Image

    rgba = np.dstack([pixels, pixels[..., :1]])
    for name, mode in (("a.png", "RGBA"), ("a.webp", "RGBA"), ("a.jpg", "RGB")):
        encode.save_image(rgba, tmp_path / name, {}, quality=100)
        with Image.open(tmp_path / name) as image:
            assert image.mode == mode


def test_a_jpeg_without_room_for_the_workflow_is_still_saved(tmp_path, pixels):
    encode.save_image(pixels, tmp_path / "a.jpg", {"workflow": "x" * 70_000}, quality=90)
    assert encode.image_tags(tmp_path / "a.jpg") == {}


@pytest.mark.skipif(os.name != "posix", reason="the system has no limit for a file's size")
@pytest.mark.parametrize("ending", ["png", "webp", "jpg"])
def test_a_picture_that_does_not_fit_on_the_disk_leaves_no_half(tmp_path, pixels, ending):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.raises(OSError):
            encode.save_image(pixels, tmp_path / f"a.{ending}", {}, quality=90)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert not list(tmp_path.iterdir())


def test_video_tags_are_checked_both_ways(tmp_path):
    path = write_video(tmp_path / "a.mp4", TAGS)
    encode.check_video(path, TAGS)
    with pytest.raises(ValueError, match="'workflow' tag cannot be read back"):
        encode.check_video(path, {**TAGS, "workflow": {"other": 1}})
    assert path.exists()
    whole = path.read_bytes()
    with pytest.raises(ValueError, match="still holds a 'prompt' tag.*as .a.mp4"):
        encode.check_video(path, {})
    # Nothing is lost, and the folder sync does not see it.
    assert not path.exists() and path.with_name(".a.mp4").read_bytes() == whole
    encode.check_video(write_video(tmp_path / "bare.mp4", {}), {})


def test_tags_in_another_alphabet_are_read_past(tmp_path):
    path = write_video(tmp_path / "a.mp4", {"prompt": "Grosse"})
    path.write_bytes(path.read_bytes().replace(b"Grosse", b"Gr\xf6\xdfe"))
    assert encode.video_tags(path)["prompt"] != '"Grosse"'


def test_a_torn_video_is_found(tmp_path):
    path = write_video(tmp_path / "a.mp4", TAGS)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match="cannot be opened again"):
        encode.check_video(path, TAGS)


@pytest.mark.parametrize(
    "name, codec, wanted", [("a.mp4", "libx264", True), ("a.mp4", "mpeg4", False), ("a.mkv", "libx264", False)]
)
def test_what_can_be_copied_as_it_is(tmp_path, name, codec, wanted):
    assert encode.is_mp4_h264(str(write_video(tmp_path / name, {}, codec))) is wanted


def test_watched_frames_report_and_stop():
    seen, frames = [], np.zeros((5, 4, 4, 3))
    list(encode.WatchedFrames(frames, lambda done, total: seen.append((done, total)), lambda: False))
    assert seen == [(n, 5) for n in range(1, 6)]
    stop = encode.WatchedFrames(frames, lambda done, total: None, lambda: True)
    with pytest.raises(Cancelled):
        list(stop)


def test_a_watched_file_stops_the_reader(tmp_path):
    import av

    path, pressed = write_video(tmp_path / "a.mp4", TAGS), []
    with av.open(WatchedFile(str(path), lambda done, total: None, lambda: bool(pressed))) as container:
        assert json.loads(container.metadata["prompt"]) == TAGS["prompt"]
        assert sum(1 for _ in container.decode(video=0)) == 4
    pressed.append(True)
    with pytest.raises(Cancelled):
        av.open(WatchedFile(str(path), lambda done, total: None, lambda: bool(pressed)))
