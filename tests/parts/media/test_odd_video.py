"""Clocks and shapes of real recordings: right, or refused before the run; and what decoding would take is counted."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from steadydancer.media.read_video import read_clip
from support.odd_video import grey, make, tone, which
from support.video import turn

CLOCKS = [("mp4", 0.0), ("mp4", 100.0), ("mp4", 36000.0), ("matroska", 100.0), ("matroska", 36000.0), ("mpegts", 0.0), ("mpegts", 9000.0),
          ("flv", 100.0), ("nut", 500.0)]  # fmt: skip


@pytest.mark.parametrize("free_bytes", [2**63, 2**24])
@pytest.mark.parametrize(("container", "begins"), CLOCKS)
def test_a_clock_that_does_not_begin_at_zero(container, begins, free_bytes):
    """Frames and sound are those of a file that begins at 0; a length by such a clock is not taken for frames."""
    file = make(begins=begins, container=container, frames=32, size=(64, 48), wave=step(2.0, 1.0), sound_codec="aac")
    clip = read_clip(file, free_bytes=free_bytes)
    assert which(clip.frames) == list(range(32))
    assert np.flatnonzero(np.abs(clip.sound[0]) > 0.1)[0] == pytest.approx(48000, abs=3000)
    clip = read_clip(file, start=0.5, count=8, free_bytes=free_bytes)
    assert which(clip.frames) == list(range(8, 16))
    clip = read_clip(file, start=0.75, count=16, free_bytes=free_bytes)
    assert np.flatnonzero(np.abs(clip.sound[0]) > 0.1)[0] == pytest.approx(12000, abs=3000)


def step(seconds: float, at: float) -> np.ndarray:
    """Silence, and from `at` on a tone."""
    wave = tone(2, int(48000 * seconds), 48000)
    wave[:, : int(48000 * at)] = 0
    return wave


@pytest.mark.parametrize("flags", ["frag_keyframe+empty_moov", "frag_keyframe+empty_moov+default_base_moof"])
@pytest.mark.parametrize("begins", [0.0, 50.0])
def test_fragments_of_a_stream(flags, begins):
    """As recorders write them: the header is written first and knows no length."""
    file = make(container="mp4", mux={"movflags": flags}, frames=64, options={"g": "16"}, begins=begins, size=(64, 48),
                wave=step(4.0, 1.0), sound_codec="aac")  # fmt: skip
    assert which(read_clip(file).frames) == [i % 40 for i in range(64)]
    assert which(read_clip(file, start=2.5, count=4).frames) == [0, 1, 2, 3]
    loud = np.flatnonzero(np.abs(read_clip(file, start=0.5, count=16).sound[0]) > 0.1)
    assert loud[0] == pytest.approx(24000, abs=3000)


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
def test_sound_that_begins_before_the_picture(container):
    file = make(begins=1.0, sound_begins=0.0, container=container, frames=16, wave=step(2.0, 1.5), sound_codec="aac")
    clip = read_clip(file)
    assert which(clip.frames) == list(range(16))
    assert np.flatnonzero(np.abs(clip.sound[0]) > 0.1)[0] == pytest.approx(24000, abs=3000)


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts", "flv", "avi"])
@pytest.mark.parametrize("options", [{"g": "250"}, {"g": "24", "x264-params": "open-gop=1:bframes=3"}, {"g": "1"}])
def test_seeking_gives_the_frame_that_was_asked_for(container, options):
    if container == "avi":  # it has one time for each picture, and none for their order
        options = {"g": options["g"], "bf": "0"}
    pictures = [np.full((48, 64, 3), grey(i // 4), np.uint8) for i in range(160)]
    file = make(container=container, frames=160, size=(64, 48), options=options, pictures=pictures)
    for start in (0.0625, 1.0, 3.9375, 7.5, 9.875):
        first = round(start * 16)
        clip = read_clip(file, start=start, count=4)
        assert which(clip.frames) == [i // 4 for i in range(first, min(160, first + 4))][: len(clip.frames)]
        assert len(clip.frames) == min(4, 160 - first)


def test_seeking_keeps_the_colours_of_a_palette():
    """In AVI the first packet alone has it."""
    file, palette = io.BytesIO(), np.stack([np.full(256, 255), *[np.arange(256)] * 3], 1).astype(np.uint8)
    with av.open(file, "w", format="avi") as out:
        stream = out.add_stream("rawvideo", rate=16)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "pal8"
        for number in range(32):
            frame = av.VideoFrame.from_ndarray((np.full((48, 64), grey(number), np.uint8), palette), format="pal8")
            frame.pts, frame.time_base = number, Fraction(1, 16)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    assert which(read_clip(file, 1.0).frames) == list(range(16, 32))


def test_a_start_behind_the_end_of_a_file_without_a_length():
    data = make(container="matroska", begins=5.0).getvalue()
    with pytest.raises(ValueError, match=r"nothing is left after 3.0 s. Choose an earlier start."):
        read_clip(io.BytesIO(data), start=3.0)


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts", "avi"])
@pytest.mark.parametrize(
    ("size", "pixel", "shape"),
    [((64, 48), Fraction(2), (48, 128)), ((72, 48), Fraction(32, 27), (48, 86)), ((96, 48), Fraction(1, 2), (96, 96)),
     ((64, 48), Fraction(1), (48, 64))],
)  # fmt: skip
def test_pixels_that_are_not_square(container, size, pixel, shape):
    """The clip has the shape that a player shows, within the evenness that encoders want."""
    assert read_clip(make(container=container, size=size, pixel=pixel)).frames.shape[1:3] == shape
    small = read_clip(make(container=container, size=size, pixel=pixel), longest_side=32).frames.shape[1:3]
    assert max(small) <= 32 and small[1] / small[0] == pytest.approx(shape[1] / shape[0], rel=0.1)


def test_a_turned_video_with_pixels_that_are_not_square(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(make(container="mp4", size=(64, 48), pixel=Fraction(2)).getvalue())
    turn(path, 90)
    assert read_clip(str(path)).frames.shape[1:3] == (128, 48)


def joined(*sizes, each: int = 16) -> io.BytesIO:
    """A broadcast or a recording of a stream whose picture changes its size."""
    parts = [make(container="mpegts", size=size, frames=each, begins=5 + i * each / 16) for i, size in enumerate(sizes)]
    return io.BytesIO(b"".join(part.getvalue() for part in parts))


@pytest.mark.parametrize("sizes", [((64, 48), (128, 96)), ((128, 96), (64, 48)), ((64, 48), (96, 72), (64, 48))])
def test_another_resolution_on_the_way_is_scaled(sizes):
    clip = read_clip(joined(*sizes), fps=16)
    assert clip.frames.shape[1:3] == sizes[0][::-1] and len(clip.frames) == 16 * len(sizes)
    assert clip.frames[-1].std() < 0.02  # the whole picture, and not a corner of it


@pytest.mark.parametrize("sizes", [((64, 48), (48, 64)), ((64, 48), (128, 48))])
def test_another_shape_on_the_way_is_refused_and_each_part_can_be_had(sizes):
    file = joined(*sizes)
    with pytest.raises(
        ValueError, match=r"changes its shape from 64×48 to .* 1\.\d s after the start\. Choose a piece"
    ):
        read_clip(file, fps=16)
    assert len(read_clip(file, count=12, fps=16).frames) == 12
    assert read_clip(file, start=1.25, fps=16).frames.shape[1:3] == sizes[1][::-1]


def test_interlaced_video_has_no_combs():
    """A bar that moves between the two fields of a frame: every other line of the frame shows it elsewhere."""
    pictures = []
    for number in range(12):
        picture = np.full((64, 96, 3), 30, np.uint8)
        for line in range(64):
            at = 6 * number + 3 * (line % 2)
            picture[line, at : at + 20] = 220
        pictures.append(picture)

    def combs(options) -> float:
        """How much lines differ from the mean of their neighbours."""
        frames = read_clip(make(frames=12, size=(96, 64), pictures=pictures, options=options)).frames[2:-2]
        return float(np.abs(frames[:, 1:-1] - (frames[:, :-2] + frames[:, 2:]) / 2).mean())

    assert combs({"x264-params": "tff=1:interlaced=1"}) < 0.4 * combs({})
    assert len(read_clip(make(frames=12, size=(96, 64), options={"x264-params": "tff=1:interlaced=1"})).frames) == 12


@pytest.mark.parametrize(("size", "even"), [((65, 48), (48, 64)), ((64, 49), (48, 64)), ((33, 33), (32, 32))])
def test_frames_are_even_as_encoders_want_them(size, even):
    shape = read_clip(make(container="matroska", codec="ffv1", size=size)).frames.shape[1:3]
    assert all(side % 2 == 0 for side in shape) and np.abs(np.subtract(shape, even)).max() <= 2


@pytest.mark.parametrize("container", ["mp4", "mpegts", "matroska"])
def test_what_decoding_takes_is_counted_before_it(container):
    file = make(container=container, size=(640, 480))
    steps = []
    with pytest.raises(ValueError, match=r"pictures of this video are 640×480: decoding them needs .* GB of memory"):
        read_clip(file, count=1, longest_side=16, free_bytes=2**22, progress=lambda *step: steps.append(step))
    assert not steps
    assert len(read_clip(file, count=1, longest_side=16, free_bytes=2**24).frames) == 1


def test_a_picture_that_grows_beyond_memory_on_the_way_is_not_decoded():
    file = joined((64, 48), (1280, 960))
    assert len(read_clip(file, fps=16, count=32, free_bytes=2**23).frames) <= 16 + 2


@pytest.mark.parametrize("container", ["gif", "ogg", "asf", "mxf", "mpeg"])
def test_other_plain_containers(container):
    codec = {"gif": "gif", "ogg": "libvpx", "asf": "wmv2", "mxf": "mpeg2video", "mpeg": "mpeg2video"}[container]
    fps = 25 if container in ("mxf", "mpeg", "gif") else 16
    file = make(container=container, codec=codec, size=(64, 48), fps=fps)
    assert 15 <= len(read_clip(file).frames) <= 17
