"""What ffmpeg gets: plain containers of this machine. Everything that leads elsewhere is refused before it is opened."""

import io
import os
import threading
import time

import av
import numpy as np
import pytest
from steadydancer.base.cancel import Cancelled
from steadydancer.media import encode
from steadydancer.media.container import WatchedBytes, opened
from steadydancer.media.read_video import read_clip
from support.odd_video import make, tone
from support.playlists import asked, playlists


@pytest.mark.parametrize("name", playlists(""))
def test_what_names_other_files_is_refused_and_asks_nobody(tmp_path, name):
    with asked() as (address, paths):
        path = tmp_path / name
        path.write_bytes(playlists(address)[name])
        for source in (str(path), io.BytesIO(path.read_bytes())):
            for read in (read_clip, encode.is_mp4_h264, encode.video_tags):
                with pytest.raises(
                    ValueError, match=r"cannot be opened.* Playlists are not opened\. Try another file\."
                ):
                    read(source)
        time.sleep(0.1)
        assert not paths


@pytest.mark.parametrize(
    "name", ["http://{}/a.mp4", "concat:{}|{}", "file:{}", "subfile,,start,0,end,9,,:{}", "%03d.png", "lavfi:testsrc"]
)
def test_a_name_that_is_an_address_is_no_file(tmp_path, name):
    with asked() as (address, paths):
        path = tmp_path / "a.mp4"
        path.write_bytes(make().getvalue())
        with pytest.raises(ValueError, match="cannot be read"):
            read_clip(name.replace("{}", address.removeprefix("http://") if name.startswith("http") else str(path)))
        assert not paths


@pytest.mark.skipif(os.name != "posix", reason="there are no pipes with a name")
def test_pipes_devices_and_folders_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    for path in (tmp_path / "pipe.mp4", tmp_path / "folder.mp4", "/dev/zero"):
        with pytest.raises(ValueError, match="a folder, a pipe or a device"):
            read_clip(str(path))
    with pytest.raises(ValueError, match="Is it still there"):
        read_clip(str(tmp_path / "gone.mp4"))


@pytest.mark.parametrize(
    ("container", "codec"), [("mp4", "libx264"), ("mov", "libx264"), ("matroska", "libx264"), ("webm", "libvpx"), ("avi", "mpeg4"),
                             ("mpegts", "libx264"), ("mpeg", "mpeg2video"), ("flv", "flv"), ("ogg", "libvpx"), ("asf", "wmv2"), ("mxf", "mpeg2video"),
                             ("nut", "ffv1"), ("gif", "gif"), ("apng", "apng"), ("3gp", "libx264")],
)  # fmt: skip
def test_every_plain_container_is_read_under_any_name(tmp_path, container, codec):
    path = tmp_path / "a.mp4"
    path.write_bytes(make(container=container, codec=codec, fps=25, size=(64, 48)).getvalue())
    assert 15 <= len(read_clip(str(path)).frames) <= 17


def test_tags_in_another_encoding_are_no_reason_to_refuse():
    data = make(container="avi", codec="mpeg4").getvalue()
    at = data.index(b"Lavf")
    data = data[:at] + b"\xe4\xf6" + data[at + 2 :]
    assert len(read_clip(io.BytesIO(data)).frames) == 16


def test_a_cover_is_not_the_video():
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        cover = out.add_stream("png", rate=1)
        cover.width = cover.height = 16
        cover.pix_fmt = "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        sound = out.add_stream("aac", rate=48000, layout="stereo")
        out.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))
        out.mux(cover.encode())
        part = av.AudioFrame.from_ndarray(tone(2, 1024, 48000), format="fltp", layout="stereo")
        part.sample_rate = 48000
        out.mux(sound.encode(part))
        out.mux(sound.encode())
    with pytest.raises(ValueError, match="only sound"):
        read_clip(file)


@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_cancel_ends_opening_seeking_and_reading(tmp_path, seconds):
    path = tmp_path / "a.mkv"
    path.write_bytes(make(wave=tone(6, 480000, 48000), layout="5.1", container="matroska", frames=160).getvalue())
    pressed = threading.Event()
    threading.Timer(seconds, pressed.set).start()
    with pytest.raises(Cancelled):
        for _ in range(10_000):
            read_clip(str(path), start=5.0, cancelled=pressed.is_set)


def test_a_video_in_memory_can_be_cancelled_while_it_is_read():
    pressed = []
    file = WatchedBytes(make(), lambda done, total: None, lambda: bool(pressed))
    with av.open(file) as container:
        next(container.decode(video=0))
        pressed.append(True)
        with pytest.raises(Cancelled):
            container.seek(0)
            for _ in container.decode(video=0):
                pass


def test_so_many_streams_are_not_opened():
    file = io.BytesIO()
    with av.open(file, "w", format="mpegts") as out:
        streams = [out.add_stream("mp2", rate=48000) for _ in range(150)]
        for stream in streams:
            part = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16", layout="mono")
            part.sample_rate, part.pts = 48000, 0
            out.mux(stream.encode(part))
    with opened(file) as container:
        assert len(container.streams) <= 100
